"""``--config`` and ``--save-config``: the options of a command in a YAML file, which the command line overrides.

A key is the long name of an option without its dashes (``num-inference-steps``, with dashes or underscores) or the name
of an argument (``source``). Options that are given several times take a list; those of the form NAME=VALUE a mapping.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from dap.config import check_choice
from dap.errors import OptionError
from dap.storage.files import write_atomic

__all__ = ["config_options", "read_given", "save_given"]

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

OWN = ("config", "save_config", "help")
FILE, GIVEN = "dap.cli.save_config", "dap.cli.given"  # in click's context
NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")


def config_options(command: F) -> F:
    """Add ``--config`` and ``--save-config`` to a command."""
    save = click.option(
        "--save-config", metavar="FILE", type=click.Path(path_type=Path), callback=_note, expose_value=False,
        help="Write the options of this command, with those of --config, to FILE, and run.",
    )  # fmt: skip
    return click.option(
        "--config", metavar="FILE", type=click.Path(path_type=Path), callback=_load, expose_value=False, is_eager=True,
        help="YAML file with options, such as ipc: 20; options on the command line replace them.",
    )(save(command))  # fmt: skip


def _names(command: click.Command) -> dict[str, click.Parameter]:
    """The parameters that a file may have, by the names that it has for them."""
    return {_key(param): param for param in command.params if param.name not in OWN}


def _key(param: click.Parameter) -> str:
    return str(param.name) if isinstance(param, click.Argument) else max(param.opts, key=len).removeprefix("--")


def _load(ctx: click.Context, param: click.Parameter, file: Path | None) -> None:
    if file is None:
        return
    names = _names(ctx.command)
    defaults: dict[str, object] = {}
    for key, value in _read(file).items():
        name = str(key).replace("_", "-")
        check_choice(f"option in {file}", name, names)
        if value is not None:
            defaults[str(names[name].name)] = _texts(f"{file}: {key}", names[name], value)
    ctx.default_map = defaults


def _read(file: Path) -> Mapping[object, object]:
    import yaml

    try:
        content = yaml.safe_load(file.read_bytes())
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise OptionError(f"--config {file}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise OptionError(f"--config {file}: expected lines of option: value, got {type(content).__name__}")
    return content


def _texts(where: str, param: click.Parameter, value: object) -> str | bool | list[str]:
    """The value of an option as the command line would have it, which checks it."""
    if isinstance(param, click.Option) and param.is_flag:
        if not isinstance(value, bool):
            raise OptionError(f"{where}: expected true or false, got {value!r}")
        return value
    if isinstance(value, dict):
        if not param.multiple or "=" not in str(param.metavar):
            raise OptionError(f"{where}: expected one value, got a mapping")
        none = "null" if param.metavar == "NAME=VALUE" else ""  # a class's label or number is left empty
        return [f"{name}={none if item is None else _text(item)}" for name, item in value.items()]
    if isinstance(value, list):
        if not (param.multiple or param.nargs == -1):
            raise OptionError(f"{where}: expected one value, got a list of {len(value)}")
        return [_text(item) for item in value]
    return [_text(value)] if param.multiple or param.nargs == -1 else _text(value)


def _text(value: object) -> str:
    if value is None or isinstance(value, bool | list | dict):
        return "" if value is None else json.dumps(value)
    return str(value)


def _note(ctx: click.Context, param: click.Parameter, file: Path | None) -> None:
    if file is not None and not file.absolute().parent.is_dir():
        raise OptionError(f"--save-config {file}: there is no folder {file.absolute().parent}")
    ctx.meta[FILE] = file


def read_given(ctx: click.Context, args: Sequence[str]) -> None:
    """Note the arguments of a command line as they were given, before they are converted."""
    if "save_config" in (param.name for param in ctx.command.params):
        ctx.meta[GIVEN] = ctx.command.make_parser(ctx).parse_args(list(args))[0]


def save_given(ctx: click.Context) -> None:
    """Write the options of a valid command line where ``--save-config`` says: those of the file, and those given."""
    file: Path | None = ctx.meta.get(FILE)
    if file is None:
        return
    import yaml

    # an argument that is missing is None or, in newer click, a sentinel
    words = {name: value for name, value in ctx.meta[GIVEN].items() if isinstance(value, str | bool | list | tuple)}
    given = {name: _without_tokens(file, value) for name, value in {**(ctx.default_map or {}), **words}.items()}
    content = {key: _plain(given[param.name]) for key, param in _names(ctx.command).items() if param.name in given}
    content = {key: value for key, value in content.items() if value != []}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_atomic(file, f"# {ctx.command_path} --config {file.name}\n{text}".encode())


def _without_tokens(file: Path, value: object) -> object:
    """Return the value of an option without token=…, which is a password; log that it is left out."""
    if not isinstance(value, list | tuple):
        return value
    kept = [item for item in value if not str(item).startswith("token=")]
    if len(kept) < len(value):
        logger.warning("--save-config %s: the token is left out; give it on the command line, or as $HF_TOKEN", file)
    return kept


def _plain(value: object) -> object:
    """A value as a person would write it: numbers as numbers, a single value without a list."""
    if isinstance(value, list | tuple):
        return _plain(value[0]) if len(value) == 1 else [_plain(item) for item in value]
    if isinstance(value, str) and NUMBER.fullmatch(value) and str(json.loads(value)) == value:
        return json.loads(value)
    return value
