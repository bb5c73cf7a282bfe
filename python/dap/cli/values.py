"""Types of option values. They check while the command line is read, before torch is imported.

The names of methods, metrics, schedulers, networks and protocols are written out here, because the modules that define
them import torch; ``tests/test_cli.py`` compares them with the tables.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import click

from dap.config import check_choice, check_number, check_whole, parse_assignments
from dap.errors import OptionError
from dap.registry import nearest
from dap.storage.files import check_writable

__all__ = [
    "DTYPES", "METHODS", "METRICS", "NETWORKS", "PRIORS", "PRIOR_TEXTS", "PROTOCOLS", "SAMPLINGS", "SCHEDULERS",
    "SPACINGS", "TABLES", "TRAINING_DTYPES", "Method", "Name", "Network", "Number", "Out", "Prior", "Whole",
    "assignments_option",
]  # fmt: skip

METHODS = (
    "random", "herding", "k_center", "k_medoids", "dit", "dap", "mgd3", "manifold_gd", "igd", "d4m", "d3m", "ld3m",
    "coda", "plug_and_play", "dap_set", "dap_networks", "guided", "dm", "rded", "cao2", "d3hr", "minimax",
    "dmgd", "cgs", "lgd", "filtered",
)  # fmt: skip
SCHEDULERS = ("ddpm", "ddim", "dpm++", "dpm++-karras", "euler", "euler-ancestral", "heun", "lcm")
SAMPLINGS = ("dit-repo", "mgd3-sd", "coda-sdxl")
SPACINGS = ("leading", "linspace", "trailing")
DTYPES = ("float32", "bfloat16", "float16")
TRAINING_DTYPES = ("float32", "bfloat16")
PRIORS = ("fashion-dit",)
PRIOR_TEXTS = ("template", "negative_prompt", "concepts", "variant", "subfolder", "revision")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
NETWORKS = (
    "convnet3", "convnet4", "convnet5", "convnet6", "resnet_ap10", "resnet18", "resnet50", "resnet101", "mobilenet_v2",
    "efficientnet_b0", "swin_v2_t", "vit_b_16", "vgg11", "alexnet", "small_mlp", "small_resnet_ap10", "small_vit",
)  # fmt: skip
TABLES = ("text", "markdown", "latex", "csv", "json")
PROTOCOLS = ("small", "hard", "hard:idc", "hard:mgd3", "hard:igd", "rded", "fkd", "fkd:d4m")
METRICS = (
    "representativeness", "diversity", "mmd2", "energy_distance", "fid", "kid", "precision", "recall", "density",
    "coverage", "vendi_score", "nearest_real", "authenticity", "minimax_representativeness", "minimax_diversity",
    "mgd3_representativeness", "mgd3_diversity", "manifold_gd_representativeness", "manifold_gd_diversity",
)  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])


class Whole(click.ParamType):  # type: ignore[type-arg]
    """A whole number of at least ``least`` and at most ``most``."""

    name = "integer"

    def __init__(self, least: int = 1, most: int | None = None) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number, or raise OptionError with the option's name."""
        number = _read(int, value)
        check_whole(_option(param), number, self._least, self._most)
        return int(number)


class Number(click.ParamType):  # type: ignore[type-arg]
    """A finite number of at least ``least`` and at most ``most``."""

    name = "float"

    def __init__(self, least: float, most: float | None = None) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number, or raise OptionError with the option's name."""
        number = _read(float, value)
        check_number(_option(param), number, self._least, self._most)
        return float(number)


class Name(click.ParamType):  # type: ignore[type-arg]
    """One of some names, which are called ``kind`` in errors."""

    name = "text"

    def __init__(self, kind: str, names: Sequence[str]) -> None:
        self._kind, self._names = kind, names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or raise OptionError with the nearest one."""
        check_choice(self._kind, value, self._names)
        return str(value)


class Method(click.ParamType):  # type: ignore[type-arg]
    """A method's name, or a preset of it, "name:preset"."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value; raise OptionError unless it names a method of dap, or other packages have methods too."""
        if "dap.methods" not in sys.modules and not entry_points(group="dap.methods"):
            check_choice("method", str(value).partition(":")[0], METHODS)
        return str(value)


class Network(click.ParamType):  # type: ignore[type-arg]
    """A network: a name of dap, or "timm/" and the name of a model of timm."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or raise OptionError with the nearest one."""
        if not str(value).startswith("timm/"):
            check_choice("network", value, (*NETWORKS, "timm/NAME"))
        else:
            from dap.nets import check_network

            check_network(value)
        return str(value)


class Prior(click.ParamType):  # type: ignore[type-arg]
    """A prior: a built-in name, a folder, or something that may be a hub id."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the value, or raise OptionError if it can be none of these."""
        text = str(value)
        if text not in PRIORS and not HUB_ID.fullmatch(text) and not Path(text).expanduser().is_dir():
            near = nearest(text, PRIORS)
            raise OptionError(
                f"{_option(param)}: there is no folder {text!r}{f'; did you mean {near!r}?' if near else ';'} Expected "
                f"{', '.join(PRIORS)}, the folder of a pipeline, or a hub id such as facebook/DiT-XL-2-256"
            )
        return text


class Out(click.ParamType):  # type: ignore[type-arg]
    """A folder that is written to."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the folder, or raise OptionError if it cannot be made or written."""
        folder = Path(value).expanduser()
        check_writable(folder, _option(param))
        return folder


def assignments_option(option: str, name: str, help: str, texts: Sequence[str] = ()) -> Callable[[F], F]:
    """Return the decorator that adds a repeatable option NAME=VALUE, whose values the command gets as a dict.

    Args:
        option: Its name on the command line.
        name: That of the command's parameter.
        help: Its help.
        texts: The names whose values are text; see :func:`dap.config.parse_assignments`.
    """

    def read(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, object]:
        try:
            return parse_assignments(values, texts)
        except OptionError as error:
            raise OptionError(f"{option}: {error}") from error

    return click.option(option, name, multiple=True, metavar="NAME=VALUE", callback=read, help=help)


def _read(kind: Callable[[Any], float], value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        return value


def _option(param: click.Parameter | None) -> str:
    return "value" if param is None else param.opts[0]
