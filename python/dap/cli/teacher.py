"""``dap teacher``."""

from __future__ import annotations

from pathlib import Path

import click

from dap.cli.classes import label_column_option
from dap.cli.command import json_option, print_result, quiet_option
from dap.cli.config_file import config_options
from dap.cli.group import Group
from dap.cli.options import device_option
from dap.cli.values import Network, Whole, assignments_option
from dap.freed_memory import keep_freed_memory

__all__ = ["teacher"]


@click.group(cls=Group)
def teacher() -> None:
    """Trains and checks teachers, whose logits are the labels of protocols rded and fkd."""


@teacher.command(
    examples=[
        "dap teacher train photos/train --out teacher.safetensors --test photos/test",
        "dap teacher train imagenet/train --network resnet18 --epochs 100 --set size=128 --out resnet18.safetensors",
    ]
)
@click.argument("source")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="File to write, NAME.safetensors.")
@click.option("--network", default="resnet18", type=Network(), show_default=True, help="Network, or timm/NAME.")
@click.option("--epochs", default=100, type=Whole(), show_default=True, help="Passes over the images.")
@click.option("--test", help="Real images on which the teacher is measured; the training images if left out.")
@assignments_option("--set", "options", "Another constant of the training, such as lr=0.1 or size=128; repeatable.")
@label_column_option
@click.option("--seed", default=0, type=Whole(0), show_default=True, help="Seed of weights, order and augmentation.")
@device_option
@json_option
@quiet_option
@config_options
def train(
    source: str,
    out: Path,
    network: str,
    epochs: int,
    test: str | None,
    options: dict[str, object],
    label_column: str | None,
    seed: int,
    device: str | None,
) -> None:
    """Trains a teacher on SOURCE's real images; the same command continues after a stop."""
    keep_freed_memory()
    from dap.data.open import open_source

    images = open_source(source, label_column=label_column)
    tests = None if test is None else open_source(test, split="test", label_column=label_column)

    from dap.api import train_teacher

    trained = train_teacher(
        images, out=out, network=network, epochs=epochs, test=tests, options=options, seed=seed, device=device
    )
    where = "the training images, on which every teacher is too good" if test is None else "the test images"
    print_result(lambda: f"{out}: {trained.accuracy:.1f} % of {where}", {"out": str(out), "accuracy": trained.accuracy})


@teacher.command(
    examples=[
        "dap teacher check teacher.safetensors --test photos/test",
        "dap teacher check timm/resnet50.a1_in1k --test imagenet/val",
    ]
)
@click.argument("where", metavar="TEACHER")
@click.option("--test", required=True, help="Real images on which the teacher is measured.")
@click.option("--network", type=Network(), help="Network of a file of another program.")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="File in place of the download of timm or torchvision."
)
@click.option(
    "--size",
    type=Whole(),
    help="Side in pixels of the images of another program's training; 224, or timm's own, if left out.",
)
@click.option("--class-names", type=click.Path(path_type=Path), help="File with the class of each output, one a line.")
@label_column_option
@device_option
@json_option
@quiet_option
def check(
    where: str,
    test: str,
    network: str | None,
    weights: Path | None,
    size: int | None,
    class_names: Path | None,
    label_column: str | None,
    device: str | None,
) -> None:
    """Measures TEACHER (a file, timm/NAME or torchvision/NAME), and fails if its classes are in another order."""
    from dap.data.open import open_source

    images = open_source(test, split="test", label_column=label_column)

    from dap.api import check_teacher

    options = {"network": network, "weights": weights, "size": size, "class_names": class_names}
    given = {name: value for name, value in options.items() if value is not None}
    result = check_teacher(where, images, teacher_options=given, device=device)
    print_result(result.table, result.to_json())
    result.raise_if_bad()
