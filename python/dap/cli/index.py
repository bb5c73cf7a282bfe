"""``dap index``."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import click

from dap.cli.classes import choose_classes, classes_option, label_column_option, label_option, parse_labels
from dap.cli.command import announce, json_option, print_result, quiet_option
from dap.cli.config_file import config_options
from dap.cli.group import Group
from dap.cli.options import channels_option, device_option, precision_options, prior_options, sampling_options
from dap.cli.values import Name, Out, Whole
from dap.errors import OptionError

__all__ = ["index"]

FOLDER = click.Path(path_type=Path)


@click.group(cls=Group)
def index() -> None:
    """Builds, shows, checks and merges feature indexes of real images."""


@index.command(
    examples=[
        "dap index build imagenet/train --prior facebook/DiT-XL-2-256 --out index",
        "dap index build photos/train --prior my-prior --timesteps 4 --out index",
        "dap index build imagenet/train --prior facebook/DiT-XL-2-256 --workers 8 --out index",
        "dap index build photos/train --shard 1/4 --out part-1",
    ]
)
@click.argument("source")
@click.option("--out", required=True, type=Out(), help="Folder of the index; a stopped build is continued.")
@prior_options
@click.option("--block", help="Denoiser block, a number from 1 or a name; if left out, that of method dap.")
@click.option(
    "--pooling",
    default="sketch1024",
    show_default=True,
    help='How tokens are reduced: "sketch1024", "mean", "flat", "grid4".',
)
@click.option(
    "--timesteps",
    help="A number of timesteps, or a list of those of the schedule: 980,500,20; if left out, 8 or as many as it has.",
)
@click.option(
    "--num-inference-steps", type=Whole(), help="Steps of the schedule; if left out, the prior's recommendation or 50."
)
@sampling_options
@click.option(
    "--noise",
    default="own",
    type=Name("noise", ("own", "shared")),
    show_default=True,
    help='"own" noise for each image, or "shared" noise.',
)
@click.option("--seed", default=0, type=Whole(0), show_default=True, help="Root seed of the noise.")
@classes_option("index")
@label_option
@label_column_option
@channels_option
@click.option("--max-per-class", type=Whole(), help="Random images of each class to use; all if left out.")
@click.option("--shard", metavar="I/N", help="Build only part I of N, from 1; dap index merge joins the parts.")
@click.option(
    "--storage-dtype",
    default="float16",
    type=Name("storage_dtype", ("float16", "float32")),
    show_default=True,
    help='Number format in which the features are stored: "float16" or "float32".',
)
@click.option("--latents", type=FOLDER, help="Index of the same images whose latents are reused.")
@click.option(
    "--workers",
    default=1,
    type=Whole(),
    show_default=True,
    help="Processes of this machine that build it together, on a GPU each; torchrun and SLURM do so too.",
)
@device_option
@precision_options()
@json_option
@quiet_option
@config_options
def build(
    source: str,
    out: Path,
    prior: str,
    prior_options: dict[str, object],
    block: str | None,
    pooling: str,
    timesteps: str | None,
    num_inference_steps: int | None,
    sampling: str | None,
    scheduler: str | None,
    timestep_spacing: str | None,
    noise: str,
    seed: int,
    classes: tuple[str, ...],
    labels: tuple[str, ...],
    label_column: str | None,
    channels: str | None,
    max_per_class: int | None,
    shard: str | None,
    storage_dtype: str,
    latents: Path | None,
    workers: int,
    device: str | None,
    dtype: str | None,
    tf32: bool,
) -> None:
    """Computes the features of SOURCE's images under a prior."""
    from dap.data.open import open_source

    if workers > 1 and label_column is not None:
        raise click.UsageError("--label-column goes with one process alone: start the command several times.")
    label_map, steps = parse_labels(labels), None if timesteps is None else _timesteps(timesteps)
    images = open_source(source, label_column=label_column)
    chosen = choose_classes(classes, images.class_names)

    from dap.api import build_index

    logging.getLogger("dap").setLevel(logging.INFO)
    built = build_index(
        images if workers == 1 else source, out=out, prior=prior, prior_options=prior_options or None,
        block=_block(block), pooling=pooling, timesteps=steps, sampling=sampling,
        num_inference_steps=num_inference_steps, scheduler=scheduler, timestep_spacing=timestep_spacing, noise=noise,
        seed=seed, classes=chosen, label_map=label_map, channels=channels,
        max_per_class=max_per_class, shard=shard, storage_dtype=storage_dtype, latents=latents, device=device,
        dtype=dtype, tf32=tf32, workers=workers,
    )  # fmt: skip
    print_result(lambda: f"{len(built)} images in {out}", {"out": str(out), "images": len(built)})
    announce(f"next: {shlex.join(['dap', 'distill', '--index', str(out), '--out', 'distilled'])}")


def _block(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdecimal() else text


def _timesteps(text: str) -> int | list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise OptionError(f"--timesteps: expected 8, or 980,500,20, got {text!r}") from error
    return values if "," in text else values[0]


@index.command(examples=["dap index info index"])
@click.argument("folder", type=FOLDER)
@json_option
@quiet_option
def info(folder: Path) -> None:
    """Shows the options, classes and size of the index in FOLDER."""
    from dap.index import index_bytes, open_index

    features = open_index(folder)
    rows = [entry.rows for entry in features.classes]
    spec, size = features.spec.to_json(), index_bytes(features.spec, rows)
    lines = []
    for name, value in spec.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        lines.append(f"{name:<20} {' '.join(text.values()) if isinstance(text, dict) else text}")
    lines.append(f"{'classes':<20} {len(rows)}, of {min(rows)} to {max(rows)} images")
    lines.append(f"{'images':<20} {len(features)}")
    lines.append(f"{'size':<20} {size / 1e6:.1f} MB")
    counts = {entry.name: entry.rows for entry in features.classes}
    print_result(lambda: "\n".join(lines), {**spec, "classes": counts, "images": len(features), "bytes": size})


@index.command(examples=["dap index verify index"])
@click.argument("folder", type=FOLDER)
@json_option
@quiet_option
def verify(folder: Path) -> None:
    """Reads every byte of the index in FOLDER and compares it with the recorded hashes."""
    from dap.index import open_index

    features = open_index(folder)
    features.verify()
    print_result(
        lambda: f"{folder}: all {len(features)} images are as they were written",
        {"folder": str(folder), "images": len(features)},
    )


@index.command(examples=["dap index merge part-1 part-2 part-3 part-4 --out index"])
@click.argument("parts", nargs=-1, required=True, type=FOLDER)
@click.option("--out", required=True, type=Out(), help="Folder of the joined index.")
@json_option
@quiet_option
def merge(parts: tuple[Path, ...], out: Path) -> None:
    """Joins PARTS that were built with --shard."""
    from dap.index import merge as join

    joined = len(join(parts, out))
    print_result(lambda: f"{joined} images in {out}", {"out": str(out), "images": joined})


@index.command(examples=["dap index push index me/imagenette-index --private"])
@click.argument("folder", type=FOLDER)
@click.argument("repo_id", metavar="USER/NAME")
@click.option(
    "--private/--public",
    default=None,
    help="Make a new repository private or public; if left out, as your account has it.",
)
@json_option
@quiet_option
def push(folder: Path, repo_id: str, private: bool | None) -> None:
    """Uploads the index in FOLDER to the hub, as a dataset with a card.

    Log in first: hf auth login.
    """
    from dap.index.hub import push_index

    url = push_index(folder, repo_id, private=private)
    print_result(lambda: url, {"url": url})
    announce(f"next, on another machine: {shlex.join(['dap', 'index', 'pull', repo_id, '--out', 'index'])}")


@index.command(examples=["dap index pull me/imagenette-index --out index"])
@click.argument("repo_id", metavar="USER/NAME")
@click.option("--out", required=True, type=Out(), help="Folder of the index: new, or empty.")
@json_option
@quiet_option
def pull(repo_id: str, out: Path) -> None:
    """Downloads an index from the hub, and checks every byte."""
    from dap.index.hub import pull_index

    images = len(pull_index(repo_id, out))
    print_result(lambda: f"{images} images in {out}", {"out": str(out), "images": images})
    announce(f"next: {shlex.join(['dap', 'distill', '--index', str(out), '--out', 'distilled'])}")
