"""``dap metrics``."""

from __future__ import annotations

from pathlib import Path

import click

from dap.cli.classes import class_names_option, label_column_option
from dap.cli.command import Command, json_option, print_result, quiet_option
from dap.cli.config_file import config_options
from dap.cli.options import device_option
from dap.cli.set_argument import set_argument
from dap.cli.values import METRICS, Name, Prior, Whole, assignments_option

__all__ = ["metrics"]


@click.command(
    cls=Command,
    examples=[
        "dap metrics distilled --real fashion-mini",
        "dap metrics distilled --real photos/train --features timm/resnet18 --per-class",
        "dap metrics distilled --real photos/train --against photos/test --only coverage --json metrics.json",
    ],
)
@click.argument("folder", type=click.Path())
@click.option("--real", help="Real training images to compare with; a built-in source of the run is known.")
@label_column_option
@class_names_option
@click.option(
    "--features",
    help='What is compared: "pixels", "vae", "prior", or a model of timm; if left out, "prior" with --prior, else '
    '"pixels".',
)
@assignments_option(
    "--features-set", "features_options", "Option of the features, such as size=16 or weights=FILE; repeatable."
)
@click.option("--prior", type=Prior(), help='Prior of the features "vae" and "prior"; fashion-dit if left out.')
@click.option(
    "--only", multiple=True, type=Name("metric", METRICS), help="Metric to compute; repeatable; all if left out."
)
@click.option("--against", help="Real test images: also find images that are in two of the three sets.")
@click.option("--per-class/--no-per-class", help="Also show the values of each class.")
@click.option(
    "--judge/--no-judge", help="Also report the share of images that a classifier trained on real images recognises."
)
@click.option("--seed", default=0, type=Whole(0), show_default=True, help="Seed of a prior's noise and of the judge.")
@device_option
@json_option
@quiet_option
@config_options
def metrics(
    folder: str,
    real: str | None,
    label_column: str | None,
    class_names: Path | None,
    features: str | None,
    features_options: dict[str, object],
    prior: str | None,
    only: tuple[str, ...],
    against: str | None,
    per_class: bool,
    judge: bool,
    seed: int,
    device: str | None,
) -> None:
    """Measures FOLDER (a distilled set, or any labelled images) against real images: FID, coverage and others."""
    from dap.data.builtin import recorded_builtin
    from dap.data.hub import is_hub_set
    from dap.data.manifest import read_manifest
    from dap.data.open import open_source
    from dap.errors import OptionError

    own = set_argument(folder)
    # the manifest of a set on the hub is not known before its download
    if real is None and not is_hub_set(own) and recorded_builtin(read_manifest(Path(own)) or {}) is None:
        raise OptionError("metrics compare with real images: give the real training images, --real")
    real_images = None if real is None else open_source(real, label_column=label_column)
    tests = None if against is None else open_source(against, split="test", label_column=label_column)

    from dap.api import load, measure

    distilled = own if class_names is None else load(own, class_map=class_names)
    result = measure(
        distilled, real_images, features=features, features_options=features_options or None, prior=prior,
        only=only or None, against=tests, judge=judge, seed=seed, device=device,
    )  # fmt: skip
    print_result(lambda: result.table(per_class=per_class), result.to_json())
