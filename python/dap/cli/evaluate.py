"""``dap evaluate``."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from dap.cli.classes import class_names_option, label_column_option
from dap.cli.command import Command, json_option, print_result, quiet_option
from dap.cli.config_file import config_options
from dap.cli.options import device_option
from dap.cli.set_argument import set_argument
from dap.cli.values import NETWORKS, PROTOCOLS, Name, Network, Out, Whole, assignments_option
from dap.freed_memory import keep_freed_memory

__all__ = ["evaluate"]


@click.command(
    cls=Command,
    examples=[
        "dap evaluate distilled --test fashion-mini --judge",
        "dap evaluate distilled --test photos/test --real photos/train --network resnet18 --repeats 5 --json dap.json",
        "dap evaluate distilled --test imagenet/val --protocol fkd --teacher timm/resnet50.a1_in1k",
    ],
)
@click.argument("folder", type=click.Path())
@click.option("--test", required=True, help="Real images to test on: a built-in name or a class-per-folder tree.")
@label_column_option
@class_names_option
@click.option("--real", help="Real training images to compare with; a built-in source of the run is known.")
@click.option(
    "--protocol", default="small", type=Name("protocol", PROTOCOLS), show_default=True,
    help=f"Evaluation protocol: {', '.join(PROTOCOLS)}.",
)  # fmt: skip
@assignments_option(
    "--protocol-set",
    "protocol_options",
    "Another constant of the protocol, such as few_steps=800 of small or epochs=100 of the others; repeatable.",
)
@click.option(
    "--network", "networks", multiple=True, default=("convnet3",), type=Network(), show_default=True,
    help=f"Network to train: {', '.join(NETWORKS)}, or timm/NAME for a model of timm; repeatable.",
)  # fmt: skip
@click.option("--repeats", default=3, type=Whole(), show_default=True, help="Trainings of each network on each set.")
@click.option("--seed", default=0, type=Whole(0), show_default=True, help="Root seed of the trainings.")
@click.option(
    "--judge/--no-judge", help="Also report the share of images that a classifier trained on real images recognises."
)
@click.option(
    "--teacher",
    help="Teacher of the labels of rded and fkd: a file of dap teacher train, timm/NAME or torchvision/NAME.",
)
@assignments_option(
    "--teacher-set", "teacher_options", "Option of the teacher, such as network=resnet18 or weights=FILE; repeatable."
)
@click.option("--soft-labels", type=Out(), help="Folder in which fkd keeps its soft labels, to use them again.")
@click.option("--weighted", is_flag=True, help="Multiply each image's loss by its weight, which some methods record.")
@click.option(
    "--checkpoints",
    type=Out(),
    help="Folder from which the same command continues after a stop, and in "
    "which several processes with the same command share the trainings.",
)
@click.option(
    "--workers",
    type=Whole(),
    default=1,
    show_default=True,
    help="Processes of this machine that share the trainings, each on a GPU of its own if there are several.",
)
@device_option
@json_option
@quiet_option
@config_options
def evaluate(
    folder: str,
    test: str,
    real: str | None,
    label_column: str | None,
    class_names: Path | None,
    protocol: str,
    protocol_options: dict[str, object],
    networks: tuple[str, ...],
    repeats: int,
    seed: int,
    judge: bool,
    teacher: str | None,
    teacher_options: dict[str, object],
    soft_labels: Path | None,
    weighted: bool,
    checkpoints: Path | None,
    workers: int,
    device: str | None,
) -> None:
    """Trains classifiers on FOLDER (a distilled set or any class-per-folder tree) and tests them on real images."""
    keep_freed_memory()
    from dap.data.open import open_source

    own = set_argument(folder)
    test_images = open_source(test, split="test", label_column=label_column)
    real_images = None if real is None else open_source(real, label_column=label_column)

    from dap.api import evaluate as run
    from dap.api import load

    logging.getLogger("dap.evaluation").setLevel(logging.INFO)  # the size of soft labels
    result = run(
        own if class_names is None else load(own, class_map=class_names),
        test_images,
        real=real_images,
        protocol=protocol,
        protocol_options=protocol_options,
        networks=networks,
        repeats=repeats,
        seed=seed,
        judge=judge,
        teacher=teacher,
        teacher_options=teacher_options or None,
        soft_labels=soft_labels,
        weighted=weighted,
        checkpoints=checkpoints,
        workers=workers,
        device=device,
    )
    print_result(result.table, result.to_json())
