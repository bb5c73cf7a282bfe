"""``dap index``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

__all__ = ["index"]

FOLDER = click.Path(path_type=Path)


@click.group()
def index() -> None:
    """Feature indexes: real images' features, computed once and read by every run."""


@index.command()
@click.argument("source")
@click.option("--out", required=True, type=FOLDER, help="Folder of the index; a stopped build continues.")
@click.option(
    "--prior", default="fashion-dit", show_default=True, help="Built-in name, a pipeline's folder, or hub id."
)
@click.option("--prior-set", "prior_assignments", multiple=True, metavar="NAME=VALUE",
              help='An option of the prior, such as template="a photo of a {}"; repeatable.')  # fmt: skip
@click.option("--block", help="The denoiser's block, from 1, or its name; as method dap takes it if left out.")
@click.option("--pooling", default="sketch1024", show_default=True, help='"sketch1024", "mean", "flat", "grid4".')
@click.option("--timesteps", default="8", show_default=True, help="How many, or which of the schedule: 980,500,20.")
@click.option("--num-inference-steps", type=int, help="Steps of the schedule; as the prior recommends, or 50.")
@click.option("--scheduler", help='"ddpm", "ddim", "dpm++", "euler" or "heun"; the prior\'s own if left out.')
@click.option("--noise", default="own", show_default=True, help='"own" for each image, or "shared".')
@click.option("--seed", default=0, show_default=True, help="Root of the noise.")
@click.option("--classes", help="Classes, separated by commas; all if left out.")
@click.option("--label", "labels", multiple=True, metavar="CLASS=LABEL",
              help="The prior's label for a class that it does not know, or nothing for none; repeatable.")  # fmt: skip
@click.option("--max-per-class", type=int, help="Images of each class, drawn at random; all if left out.")
@click.option("--shard", metavar="I/N", help="Part I of N, from 1, to be joined by dap index merge.")
@click.option("--dtype", default="float16", show_default=True, help='"float16" or "float32".')
@click.option("--latents", type=FOLDER, help="An index of the same images whose latents are used again.")
@click.option("--device", help='"cpu", "cuda", "cuda:1"; the GPU if there is one.')
def build(
    source: str,
    out: Path,
    prior: str,
    prior_assignments: tuple[str, ...],
    block: str | None,
    pooling: str,
    timesteps: str,
    num_inference_steps: int | None,
    scheduler: str | None,
    noise: str,
    seed: int,
    classes: str | None,
    labels: tuple[str, ...],
    max_per_class: int | None,
    shard: str | None,
    dtype: str,
    latents: Path | None,
    device: str | None,
) -> None:
    """Computes the features of SOURCE's images under a prior."""
    from diffusers.utils import logging as diffusers_logging

    from dap.api import build_index
    from dap.cli.labels import parse_labels
    from dap.config import parse_assignments

    diffusers_logging.set_verbosity_error()  # what it says while it loads a pipeline is not about the user's command
    diffusers_logging.disable_progress_bar()
    logging.getLogger("dap").setLevel(logging.INFO)
    built = build_index(
        source, out=out, prior=prior, prior_options=parse_assignments(prior_assignments) or None,
        block=_block(block), pooling=pooling, timesteps=_timesteps(timesteps),
        num_inference_steps=num_inference_steps, scheduler=scheduler, noise=noise, seed=seed,
        classes=classes.split(",") if classes else None, label_map=parse_labels(labels),
        max_per_class=max_per_class, shard=shard, dtype=dtype, latents=latents, device=device,
    )  # fmt: skip
    click.echo(f"{len(built)} images in {out}; dap distill --index {out}")


def _block(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _timesteps(text: str) -> int | list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"--timesteps: expected 8, or 980,500,20, got {text!r}") from error
    return values if "," in text else values[0]


@index.command()
@click.argument("folder", type=FOLDER)
def info(folder: Path) -> None:
    """Shows what the index in FOLDER holds."""
    from dap.index import index_bytes, open_index

    opened = open_index(folder)
    rows = [each.rows for each in opened.classes]
    for name, value in opened.spec.to_json().items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{name:<20} {' '.join(text.values()) if isinstance(text, dict) else text}")
    click.echo(f"{'classes':<20} {len(rows)}, of {min(rows)} to {max(rows)} images")
    click.echo(f"{'images':<20} {len(opened)}")
    click.echo(f"{'size':<20} {index_bytes(opened.spec, rows) / 1e6:.1f} MB")


@index.command()
@click.argument("folder", type=FOLDER)
def verify(folder: Path) -> None:
    """Reads every byte of the index in FOLDER and compares it with the recorded hashes."""
    from dap.index import open_index

    opened = open_index(folder)
    opened.verify()
    click.echo(f"{folder}: all {len(opened)} images are as they were written")


@index.command()
@click.argument("parts", nargs=-1, required=True, type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="Folder of the whole index.")
def merge(parts: tuple[Path, ...], out: Path) -> None:
    """Joins PARTS that were built with --shard."""
    from dap.index import merge as join

    click.echo(f"{len(join(parts, out))} images in {out}")
