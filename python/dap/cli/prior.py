"""``dap prior``."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from dap.cli.classes import choose_classes, classes_option, label_column_option
from dap.cli.command import json_option, print_result, quiet_option
from dap.cli.config_file import config_options
from dap.cli.group import Group
from dap.cli.options import channels_option, device_option, precision_options
from dap.cli.values import TRAINING_DTYPES, Out, Prior, Whole

__all__ = ["prior"]


@click.group(cls=Group)
def prior() -> None:
    """Trains a prior on your own images, or adapts a prior to new classes."""


@prior.command(
    examples=[
        "dap prior train photos/train --out my-prior",
        "dap prior train photos/train --size 64 --denoiser-steps 20000 --device cuda --out my-prior",
    ]
)
@click.argument("source")
@click.option("--out", required=True, type=Out(), help="Folder of the prior; a stopped training is continued.")
@click.option(
    "--size", type=Whole(16, 128), help="Side in pixels, a multiple of 8; if left out, that of the images, at most 64."
)
@click.option("--autoencoder-steps", default=2000, type=Whole(), show_default=True,
              help="Training steps of the autoencoder, with 64 images each.")  # fmt: skip
@click.option("--denoiser-steps", default=5000, type=Whole(), show_default=True,
              help="Training steps of the denoiser, with 128 latents each.")  # fmt: skip
@classes_option("train on")
@label_column_option
@click.option("--seed", default=0, type=Whole(0), show_default=True, help="Root seed of all random numbers.")
@device_option
@click.option("--card/--no-card", default=True, show_default=True,
              help="Measure the finished prior for its model card; a later run with --card makes it too.")  # fmt: skip
@precision_options(TRAINING_DTYPES, shown="the faster one on this device")
@json_option
@quiet_option
@config_options
def train(
    source: str,
    out: Path,
    size: int | None,
    autoencoder_steps: int,
    denoiser_steps: int,
    classes: tuple[str, ...],
    label_column: str | None,
    seed: int,
    device: str | None,
    card: bool,
    dtype: str | None,
    tf32: bool,
) -> None:
    """Trains a small latent DiT on SOURCE's images, for images of up to 128 pixels."""
    from dap.data.open import open_source

    images = open_source(source, label_column=label_column)
    chosen = choose_classes(classes, images.class_names)

    from dap.training import train_prior

    logging.getLogger("dap").setLevel(logging.INFO)
    train_prior(
        images, out=out, size=size, autoencoder_steps=autoencoder_steps, denoiser_steps=denoiser_steps,
        classes=chosen, seed=seed, device=device, card=card, dtype=dtype, tf32=tf32,
    )  # fmt: skip
    quality = f"; {out}/README.md says how good it is" if (out / "README.md").exists() else ""
    print_result(lambda: f"prior in {out}{quality}; {_use(source, out, classes, label_column)}", {"out": str(out)})


@prior.command(
    examples=[
        "dap prior adapt photos/train --prior facebook/DiT-XL-2-256 --out my-adapter",
        "dap prior adapt photos/train --prior my-prior --classes robin,wren --out my-adapter",
    ]
)
@click.argument("source")
@click.option("--out", required=True, type=Out(), help="Folder of the adapter; a stopped training is continued.")
@click.option(
    "--prior",
    "base",
    default="fashion-dit",
    type=Prior(),
    show_default=True,
    help="Prior to adapt: built-in name, folder, or hub id.",
)
@classes_option("learn", "those that the prior does not know")
@label_column_option
@channels_option
@click.option(
    "--rank",
    default=8,
    type=Whole(0),
    show_default=True,
    help="Rank of the low-rank weight changes; 0 trains only the classes' embeddings.",
)
@click.option("--steps", default=600, type=Whole(), show_default=True, help="Training steps, with 64 images each.")
@click.option("--seed", default=0, type=Whole(0), show_default=True, help="Root seed of all random numbers.")
@device_option
@precision_options(TRAINING_DTYPES, "float32")
@json_option
@quiet_option
@config_options
def adapt(
    source: str,
    out: Path,
    base: str,
    classes: tuple[str, ...],
    label_column: str | None,
    channels: str | None,
    rank: int,
    steps: int,
    seed: int,
    device: str | None,
    dtype: str,
    tf32: bool,
) -> None:
    """Teaches a class-conditional prior those of SOURCE's classes that it does not know."""
    from dap.data.open import open_source

    images = open_source(source, label_column=label_column)
    chosen = choose_classes(classes, images.class_names)

    from dap.training import adapt_prior

    adapt_prior(
        images, out=out, prior=base, classes=chosen, channels=channels, rank=rank, steps=steps,
        seed=seed, device=device, dtype=dtype, tf32=tf32,
    )  # fmt: skip
    print_result(lambda: f"adapter in {out}; {_use(source, out, classes, label_column)}", {"out": str(out)})


def _use(source: str, out: Path, classes: Sequence[str], label_column: str | None) -> str:
    """Return the command that uses a prior for the classes that it was trained on."""
    words = ["dap", "distill", source, "--prior", str(out)]
    words += [word for text in classes for word in ("--classes", text)]
    words += [] if label_column is None else ["--label-column", label_column]
    return shlex.join([*words, "--out", "distilled"])
