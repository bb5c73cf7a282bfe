"""``dap init``: asks what is there, and writes the options of a run for ``dap distill --config``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from dap.cli.classes import IPC, choose_classes, classes_option
from dap.cli.command import Command, json_option, print_result, quiet_option
from dap.cli.values import Method, Out, Prior, Whole
from dap.errors import DapError, OptionError
from dap.storage.files import write_atomic

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["init"]

NONE = "none"  # the answer for a run without a prior
IMAGENET_PRIOR = "facebook/DiT-XL-2-256"

T = TypeVar("T")


@click.command(
    cls=Command, examples=["dap init", "dap init photos/train", "dap init photos/train --ipc 20 --file run.yaml --yes"]
)
@click.argument("source", required=False)
@click.option("--file", default="run.yaml", type=click.Path(path_type=Path), show_default=True, help="File to write.")
@click.option("--out", type=Out(), help="Output folder of the run; distilled if left out.")
@classes_option("distil")
@click.option("--prior", help='Built-in name, folder of a pipeline, or hub id; "none" to choose real images.')
@click.option("--method", type=Method(), help="Method; dap_set with a prior, k_medoids without one, if left out.")
@click.option("--ipc", type=Whole(), help=f"Images per class; {IPC} if left out.")
@click.option("--device", help='"cpu", "cuda" or "cuda:1"; if left out, the GPU if there is one.')
@click.option("-y", "--yes", is_flag=True, help="Ask nothing: take what is given here, and the defaults.")
@json_option
@quiet_option
def init(
    source: str | None, file: Path, out: Path | None, classes: tuple[str, ...], prior: str | None, method: str | None,
    ipc: int | None, device: str | None, yes: bool,
) -> None:  # fmt: skip
    """Asks which images, prior and device there are, and writes a file for dap distill --config.

    What is given here is not asked for. Nothing is made or downloaded.
    """
    if file.exists():
        raise OptionError(f"--file {file}: is there already; delete it, or choose another name")
    if not file.absolute().parent.is_dir():
        raise OptionError(f"--file {file}: there is no folder {file.absolute().parent}")
    if not yes and not sys.stdin.isatty():
        raise OptionError("there is no terminal to ask on: give --yes, and what is not the default as options")
    ask = _Questions(yes)
    if prior not in (None, NONE):
        Prior().convert(prior, _parameter("prior"), None)
    images = ask.for_value("Real images (a folder, a built-in name, or a hub id)", source, "fashion-mini", _opened)
    names = ask.for_value(
        "Classes, separated by commas", ",".join(classes) or None, "all",
        lambda text: choose_classes([] if text == "all" else [text], images[1].class_names),
        told=_described(images[1]),
    )  # fmt: skip
    knowing, gpu = _prior_for(images[1], names), _has_gpu()
    told = f"{'dap found a GPU' if gpu else 'dap found no GPU'}. " + (
        f"{knowing} knows all classes." if knowing else "No built-in prior, nor one of ImageNet, knows all classes."
    )
    usual = knowing if knowing and (gpu or knowing != IMAGENET_PRIOR) else NONE
    chosen = ask.for_value(
        f'Prior (name, folder or hub id; "{NONE}" chooses real images)', prior, usual, _prior, told=told
    )
    method = ask.for_value(
        "Method (dap methods lists them)", method, "k_medoids" if chosen is None else "dap_set",
        _method,
    )  # fmt: skip
    number = ask.for_value("Images per class", None if ipc is None else str(ipc), str(IPC),
                           lambda text: Whole().convert(text, _parameter("ipc"), None))  # fmt: skip
    where = ask.for_value("Device", device, "cuda" if gpu else "cpu", _device)
    folder = ask.for_value("Output folder", None if out is None else str(out), "distilled",
                           lambda text: Out().convert(text, _parameter("out"), None))  # fmt: skip
    options = {
        "source": images[0], "out": str(folder), "method": method, "ipc": number, "seed": 0, "device": where,
        **({} if names is None else {"classes": names}), **({} if chosen is None else {"prior": chosen}),
        **({"sampling": "dit-repo", "dtype": "bfloat16"} if chosen == IMAGENET_PRIOR and gpu else {}),
    }  # fmt: skip
    _write(file, options)
    command = shlex.join(["dap", "distill", "--config", str(file)])
    print_result(lambda: f"{file} is written; next: {command}", {"file": str(file), "options": options})


class _Questions:
    """Asks for values that are not given; with ``yes`` it takes the defaults."""

    def __init__(self, yes: bool) -> None:
        self._yes = yes

    def for_value(self, question: str, given: str | None, usual: str, read: Callable[[str], T], *, told: str = "") -> T:
        """Return a value: the one that is given, the default, or the first answer that can be read."""
        if given is not None or self._yes:
            return read(usual if given is None else given)
        if told:
            click.echo(told, err=True)
        while True:
            try:
                return read(click.prompt(question, default=usual, err=True))
            except DapError as error:
                click.echo(f"{' '.join(str(error).split())}", err=True)


def _parameter(name: str) -> click.Parameter:
    return click.Option([f"--{name}"])


def _opened(text: str) -> tuple[str, Source]:
    from dap.data.open import open_source

    return text, open_source(text)


def _described(source: Source) -> str:
    from dap.data.names import some

    seen = source.appearance
    shape = f", the first of {seen.size} pixels on its short side, {'grey' if seen.channels == 1 else 'colour'}"
    return f"{len(source)} images of {len(source.class_names)} classes{shape}: {some(source.class_names)}"


def _prior_for(source: Source, names: list[str] | None) -> str | None:
    """Return a prior that knows all classes by their names: the built-in one, or one of ImageNet."""
    from dap.data.builtin import FASHION_CLASSES
    from dap.data.classmap import find_labels
    from dap.priors.label_names import imagenet_labels, imagenet_names

    fashion = {name: label for label, name in enumerate(FASHION_CLASSES)}
    for prior, labels in (("fashion-dit", fashion), (IMAGENET_PRIOR, {**imagenet_names(), **imagenet_labels(1000)})):
        if all(label is not None for label in find_labels(names or source.class_names, labels).values()):
            return prior
    return None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _device(text: str) -> str:
    from dap.device import named_device

    return str(named_device(text))


def _prior(text: str) -> str | None:
    return None if text == NONE else str(Prior().convert(text, _parameter("prior"), None))


def _method(text: str) -> str:
    from dap.methods import get_method

    get_method(text)
    return text


def _write(file: Path, options: dict[str, object]) -> None:
    import yaml

    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    write_atomic(
        file, f"# dap distill --config {file.name}\n# options of dap distill --help can be added\n{text}".encode()
    )
