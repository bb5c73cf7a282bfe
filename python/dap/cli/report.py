"""``dap report``."""

from __future__ import annotations

from pathlib import Path

import click

from dap.cli.command import Command, json_option, print_result, quiet_option
from dap.cli.config_file import config_options
from dap.cli.options import device_option
from dap.errors import OptionError, SourceError

__all__ = ["report"]


@click.command(
    cls=Command,
    examples=[
        "dap report distilled",
        "dap report distilled other-run --real photos/train --out comparison.html",
        "dap report distilled --features timm/resnet18 --judge",
        "dap report distilled --evaluation distilled.json",
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
@click.option(
    "--evaluation", "evaluations", multiple=True, metavar="FILE", type=click.Path(path_type=Path),
    help="Result of dap evaluate --json, one for each FOLDER in their order; repeatable.",
)  # fmt: skip
@device_option
@json_option
@quiet_option
@config_options
def report(
    folders: tuple[Path, ...], real: str | None, out: Path, features: str, judge: bool, evaluations: tuple[Path, ...],
    device: str | None,
) -> None:  # fmt: skip
    """Writes a page of HTML about one or several sets: alerts, numbers, images beside the nearest real ones.

    The page holds all it shows, and at most 1,000 images. Several sets stand side by side.
    """
    from dap.data.builtin import recorded_builtin
    from dap.data.manifest import read_manifest
    from dap.data.open import open_source
    from dap.data.shard_paths import PACKED
    from dap.data.source import Source
    from dap.storage.files import write_atomic

    if not out.absolute().parent.is_dir():
        raise OptionError(f"--out {out}: there is no folder {out.absolute().parent}")
    if features == "prior":
        raise OptionError('--features prior: a report compares features without labels: "pixels", "vae" or one of timm')
    if len({folder.name for folder in folders}) < len(folders):
        raise OptionError("the folders of a report need different names, by which the page calls them")

    if evaluations and len(evaluations) != len(folders):
        raise OptionError(f"--evaluation: expected one for each of {len(folders)} folders, got {len(evaluations)}")
    for file in evaluations:
        if not file.is_file():
            raise SourceError(f"{file}: there is no such file; expected one that dap evaluate --json writes")

    for folder in folders:
        if not folder.exists():
            open_source(folder)
        packed = (folder / PACKED).is_file()  # it has the manifest, which is read when it is loaded
        if real is None and not packed and recorded_builtin(read_manifest(folder) or {}) is None:
            raise _without_real(folder.name)
    if real is not None:
        open_source(real)

    from dap.api import load
    from dap.evaluation import compare, judge_images
    from dap.features.encoders import encoder_by_name
    from dap.report.page import report_page

    sets = {folder.resolve().name: load(folder) for folder in folders}
    opened = dict[tuple[str, ...], Source]()  # sets of the same real images share them, and a judge
    reals = {}
    for name, distilled in sets.items():
        spec = real or recorded_builtin(distilled.manifest)
        if spec is None:
            raise _without_real(name)
        wanted = (str(spec), *distilled.class_names)
        if wanted not in opened:
            opened[wanted] = open_source(spec, classes=distilled.class_names)
        reals[name] = opened[wanted]
    encoder = encoder_by_name(features, prior="fashion-dit" if features == "vae" else None, device=device)
    comparison = compare(dict(zip(sets, evaluations, strict=True))) if evaluations else None
    judged = None
    if judge:
        seen = judge_images([(one.source, reals[name]) for name, one in sets.items()], 0, device)
        judged = dict(zip(sets, seen, strict=True))
    page = report_page(
        {name: (one.source, one.manifest) for name, one in sets.items()}, reals, encoder, judged, comparison
    ).encode()
    write_atomic(out, page)
    print_result(lambda: f"{out}: {len(page) / 1e6:.1f} MB; open it in a browser", {"out": str(out)})


def _without_real(name: str) -> OptionError:
    return OptionError(f"{name}: give the real images that it stands for, --real")
