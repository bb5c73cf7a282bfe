"""``dap pack``."""

from __future__ import annotations

from pathlib import Path

import click

from dap.cli.classes import choose_classes, classes_option, label_column_option
from dap.cli.command import Command, json_option, print_result, quiet_option
from dap.cli.config_file import config_options
from dap.cli.values import Name, Out, Whole

__all__ = ["pack"]

FORMATS = ("imagefolder", "webdataset", "parquet", "safetensors")


@click.command(
    cls=Command,
    examples=[
        "dap pack distilled --to parquet --out packed",
        "dap pack distilled --to webdataset --codec webp --out shards",
        "dap pack photos --split test --classes cat,dog --to imagefolder --out cats-and-dogs",
    ],
)
@click.argument("source")
@click.option(
    "--to",
    "format",
    required=True,
    type=Name("format", FORMATS),
    help="imagefolder, webdataset, parquet or safetensors.",
)
@click.option("--out", required=True, type=Out(), help="Output folder; stopped packing is continued.")
@click.option("--split", default="train", show_default=True, help="Split of SOURCE to pack.")
@classes_option("pack")
@label_column_option
@click.option(
    "--codec",
    type=Name("codec", ("png", "jpeg", "webp")),
    help="png, jpeg or webp (lossless); if left out, files keep their format and pixels become PNG.",
)
@click.option("--quality", default=95, type=Whole(1, 100), show_default=True, help="JPEG quality, from 1 to 100.")
@click.option("--maxcount", default=100_000, type=Whole(), show_default=True, help="Most images of a shard.")
@click.option("--maxsize", default=500_000_000, type=Whole(), show_default=True, help="Most bytes of a shard's images.")
@click.option("--on-error", type=click.Choice(["raise", "skip"]), default="raise", show_default=True,
              help="What to do with an image that cannot be decoded.")  # fmt: skip
@json_option
@quiet_option
@config_options
def pack(
    source: str,
    format: str,
    out: Path,
    split: str,
    classes: tuple[str, ...],
    label_column: str | None,
    codec: str | None,
    quality: int,
    maxcount: int,
    maxsize: int,
    on_error: str,
) -> None:
    """Packs SOURCE, a distilled set or any other labelled images that dap reads, into another format."""
    from dap.data.manifest import MANIFEST
    from dap.data.open import open_source
    from dap.data.packing import PackOptions, pack_source
    from dap.data.shard_paths import PACKED

    options: PackOptions = {
        "codec": codec, "quality": quality, "maxcount": maxcount, "maxsize": maxsize, "on_error": on_error,
    }  # fmt: skip
    # a run, or a set that was packed from one, is packed with its manifest and in its order
    known = Path(source, MANIFEST).is_file() or (split == "train" and Path(source, PACKED).is_file())
    if known and label_column is None:
        import numpy as np

        from dap.api import load
        from dap.dataset import DistilledDataset

        distilled = load(source)
        chosen = choose_classes(classes, distilled.class_names)
        if chosen is not None:  # without the manifest, which has all classes
            rows = np.flatnonzero(np.isin([distilled.class_names[label] for label in distilled.labels], chosen))
            beside = {name: tensor.numpy()[rows] for name, tensor in distilled.tensors.items()}
            distilled = DistilledDataset(distilled.source.subset(chosen), tensors=beside)
        packed = distilled.save(out, format=format, **options)
    else:
        images = open_source(source, split=split, label_column=label_column)
        chosen = choose_classes(classes, images.class_names)
        images = images if chosen is None else images.subset(chosen)
        packed = pack_source(images, out, format=format, split=split, **options)
    for _, message in packed["skipped"]:
        click.echo(f"dap: skipped: {message}", err=True)
    skipped = f", {len(packed['skipped'])} skipped" if packed["skipped"] else ""
    print_result(lambda: f"{packed['images']} images in {len(packed['files'])} files in {out}{skipped}", packed)
