"""The options of a run, which ``dap distill`` and ``dap plan`` share, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dap.cli.classes import (
    choose_classes,
    choose_ipc,
    classes_option,
    ipc_option,
    label_column_option,
    label_option,
    parse_labels,
)
from dap.cli.imports import import_option
from dap.cli.options import channels_option, device_option, precision_options, prior_options, sampling_options
from dap.cli.values import Method, Number, Whole, assignments_option

if TYPE_CHECKING:
    from dap.data.source import Source
    from dap.index import Index

__all__ = ["Asked", "ask", "run_options"]

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS = (
    click.argument("source", required=False),
    click.option(
        "--method", default="dap_set", type=Method(), show_default=True, help='Method, or a preset such as "dap:paper".'
    ),
    ipc_option,
    click.option("--seed", default=0, type=Whole(0), show_default=True, help="Root seed of all random numbers."),
    prior_options,
    click.option(
        "--index",
        type=click.Path(path_type=Path),
        help="Feature index of the real images; a method that reads no images then needs no SOURCE.",
    ),
    classes_option("distil"),
    label_option,
    label_column_option,
    click.option(
        "--batch-size",
        type=Whole(),
        help="Images sampled together; if left out, as many as fit into memory, at most 100.",
    ),
    click.option(
        "--num-inference-steps", type=Whole(), help="Denoising steps; if left out, the prior's recommendation or 50."
    ),
    click.option(
        "--guidance-scale",
        type=Number(1),
        help="Scale of classifier-free guidance; if left out, the prior's recommendation or 4.",
    ),
    sampling_options,
    click.option("--eta", type=Number(0, 1), help="Noise level of the DDIM sampler, from 0 to 1."),
    device_option,
    precision_options(),
    click.option(
        "--features",
        help='What methods that choose real images compare: "pixels", "vae", "prior", or a model of timm; if left out, '
        "the prior's features if it knows all classes and makes images of these channels, else pixels.",
    ),
    assignments_option(
        "--features-set", "features_options", "Option of the features, such as size=16 or weights=FILE; repeatable."
    ),
    click.option(
        "--size", type=Whole(), help="Side in pixels to which chosen real images are cropped; if left out, their own."
    ),
    channels_option,
    assignments_option("--set", "method_options", "Option of the method, such as scale=0.3; repeatable."),
    import_option,
)


def run_options(command: F) -> F:
    """Add SOURCE and all options that say which images a run makes."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True)
class Asked:
    """A run as the command line asks for it.

    Attributes:
        images: The real images; None: there is only an index of them.
        index: The feature index; None: none was given.
        known: Names of all classes of the source or the index.
        classes: Names of those of the run; None: all.
        ipc: Images of each class, by its name.
        arguments: The options as arguments of :func:`dap.distill`, without source and index.
    """

    images: Source | None
    index: Index | None
    known: tuple[str, ...]
    classes: list[str] | None
    ipc: int | dict[str, int]
    arguments: dict[str, Any]


def ask(options: Mapping[str, Any]) -> Asked:
    """Open the source and the index that options name, and read the options that name classes.

    Args:
        options: The values of :func:`run_options`, by the names of their parameters.

    Raises:
        UsageError: There is neither a source nor an index.
        DapError: One of them cannot be opened, or has no such class.
    """
    from dap.data.open import open_source
    from dap.index import open_index

    arguments = dict(options)
    source, path, column = (arguments.pop(name) for name in ("source", "index", "label_column"))
    label_map = parse_labels(arguments.pop("labels"))
    index = None if path is None else open_index(path)
    images = None if source is None else open_source(source, label_column=column)
    if images is not None:
        known = images.class_names
    elif index is not None:
        known = tuple(entry.name for entry in index.classes)
    else:
        raise click.UsageError("Missing argument 'SOURCE': real images to distil, or --index with an index of them.")
    chosen = choose_classes(arguments["classes"], known)
    ipc = choose_ipc(arguments["ipc"], [name for name in known if chosen is None or name in chosen])
    arguments |= {"classes": chosen, "ipc": ipc, "label_map": label_map}
    for name in ("prior_options", "features_options"):
        arguments[name] = arguments[name] or None
    return Asked(images, index, known, chosen, ipc, arguments)
