"""``dap report``."""

from __future__ import annotations

from pathlib import Path

import click

from dap.cli.command import Command, print_result, quiet_option
from dap.cli.options import device_option
from dap.errors import OptionError

__all__ = ["report"]


@click.command(
    cls=Command,
    examples=[
        "dap report distilled",
        "dap report distilled other-run --real photos/train --out comparison.html",
        "dap report distilled --features timm/resnet18",
    ],
)
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option("--real", help="Real images to compare with; a built-in source of a run is known.")
@click.option("--out", default="report.html", type=click.Path(path_type=Path), show_default=True, help="Page to write.")
@click.option(
    "--features", default="pixels", show_default=True,
    help='Features that are compared: "pixels", "vae" (of fashion-dit), or a model of timm.',
)  # fmt: skip
@click.option("--judge/--no-judge", help="Train a classifier on the real images, and see what it recognises.")
@device_option
@quiet_option
def report(
    folders: tuple[Path, ...], real: str | None, out: Path, features: str, judge: bool, device: str | None
) -> None:
    """Writes a page of HTML about one or several sets: alerts, images beside the nearest real ones, coverage.

    The page holds all it shows, and at most 1,000 images.
    """
    from dap.data.builtin import recorded_builtin
    from dap.data.open import open_source
    from dap.storage.files import write_atomic

    if not out.absolute().parent.is_dir():
        raise OptionError(f"--out {out}: there is no folder {out.absolute().parent}")
    if features == "prior":
        raise OptionError('--features prior: a report compares features without labels: "pixels", "vae" or one of timm')
    if len({folder.name for folder in folders}) < len(folders):
        raise OptionError("the folders of a report need different names, by which the page calls them")

    from dap.api import load
    from dap.evaluation.judge import judge_source
    from dap.features.encoders import encoder_by_name
    from dap.report.page import report_page

    sets = {folder.resolve().name: load(folder) for folder in folders}
    reals = {}
    for name, distilled in sets.items():
        spec = real or recorded_builtin(distilled.manifest)
        if spec is None:
            raise OptionError(f"{name}: give the real images that it stands for, --real")
        reals[name] = open_source(spec, classes=distilled.class_names)
    encoder = encoder_by_name(features, prior="fashion-dit" if features == "vae" else None, device=device)
    shares = None
    if judge:
        shares = {
            name: {one.class_names[label]: share for label, share in recognition.per_class.items()}
            for name, one in sets.items()
            for recognition in [judge_source(one.source, reals[name], 0, device)]
        }
    page = report_page({name: (one.source, one.manifest) for name, one in sets.items()}, reals, encoder, shares)
    write_atomic(out, page.encode())
    print_result(lambda: f"{out}: {len(page) / 1e6:.1f} MB; open it in a browser", {"out": str(out)})
