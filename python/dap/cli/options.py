"""Options that several commands have, as decorators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from dap.cli.values import SCHEDULERS, Name, Prior, assignments_option

__all__ = ["channels_option", "device_option", "prior_options", "scheduler_option"]

F = TypeVar("F", bound=Callable[..., Any])

device_option = click.option("--device", help='"cpu", "cuda" or "cuda:1"; if left out, the GPU if there is one.')
channels_option = click.option(
    "--channels",
    type=Name("channels", ("grey", "rgb")),
    help='"grey" or "rgb": convert images whose channels are not those of the prior, instead of refusing them.',
)
scheduler_option = click.option(
    "--scheduler",
    type=Name("scheduler", SCHEDULERS),
    help='"ddpm", "ddim", "dpm++", "euler" or "heun"; the prior\'s own if left out.',
)


def prior_options(command: F) -> F:
    """Add ``--prior`` and ``--prior-set``."""
    options = assignments_option(
        "--prior-set", "prior_options", 'Option of the prior, such as template="a photo of a {}"; repeatable.'
    )
    return click.option(
        "--prior",
        default="fashion-dit",
        type=Prior(),
        show_default=True,
        help="Built-in name, folder of a pipeline, or hub id.",
    )(options(command))
