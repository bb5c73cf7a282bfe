"""Options that several commands have, as decorators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from dap.cli.values import DTYPES, PRIOR_TEXTS, SAMPLINGS, SCHEDULERS, SPACINGS, Name, Prior, assignments_option

__all__ = [
    "channels_option", "device_option", "precision_options", "prior_options", "sampling_options",
]  # fmt: skip

F = TypeVar("F", bound=Callable[..., Any])

device_option = click.option("--device", help='"cpu", "cuda" or "cuda:1"; if left out, the GPU if there is one.')
channels_option = click.option(
    "--channels",
    type=Name("channels", ("grey", "rgb")),
    help='"grey" or "rgb": convert images whose channels are not those of the prior, instead of refusing them.',
)


def precision_options(
    names: Sequence[str] = DTYPES, default: str | None = None, shown: str | None = None
) -> Callable[[F], F]:
    """Return the decorator that adds ``--dtype`` and ``--tf32``.

    Args:
        names: The dtypes that can be given.
        default: The default; None: float32, where no prior object has another.
        shown: What is shown as the default, if it depends on something.
    """
    known = ", ".join(f'"{name}"' for name in names[:-1]) + f' or "{names[-1]}"'
    options = (
        click.option(
            "--dtype",
            default=default,
            show_default=shown or default or "float32",
            type=Name("dtype", names),
            help=f"Number format of the computation: {known}.",
        ),
        click.option(
            "--tf32/--no-tf32",
            help="Let a GPU multiply float32 numbers with the ten fraction bits of TF32; CPUs ignore it.",
        ),
    )
    return lambda command: _decorated(command, options)


def sampling_options(command: F) -> F:
    """Add ``--sampling``, ``--scheduler`` and ``--timestep-spacing``."""
    options = (
        click.option(
            "--sampling",
            type=Name("sampling", SAMPLINGS),
            help='"dit-repo": all settings of the DiT repository, with which most numbers for DiT-XL/2 were published; '
            '"mgd3-sd": those of MGD3 with Stable Diffusion; "coda-sdxl": those of CoDA with SDXL.',
        ),
        click.option(
            "--scheduler",
            type=Name("scheduler", SCHEDULERS),
            help='"ddpm", "ddim", "dpm++", "dpm++-karras", "euler", "euler-ancestral", "heun" or "lcm"; the '
            "prior's own if left out.",
        ),
        click.option(
            "--timestep-spacing",
            type=Name("timestep_spacing", SPACINGS),
            help='How the steps lie in the schedule: "leading", "linspace" or "trailing"; the prior\'s if left out.',
        ),
    )
    return _decorated(command, options)


def _decorated(command: F, options: Sequence[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def prior_options(command: F) -> F:
    """Add ``--prior`` and ``--prior-set``."""
    options = assignments_option(
        "--prior-set",
        "prior_options",
        'Option of the prior, such as template="a photo of a {}", variant=fp16 or use_safetensors=false; repeatable.',
        PRIOR_TEXTS,
    )
    return click.option(
        "--prior",
        default="fashion-dit",
        type=Prior(),
        show_default=True,
        help="Built-in name, folder of a pipeline, or hub id.",
    )(options(command))
