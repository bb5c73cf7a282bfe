"""Opens the folder of a finished run as a source of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dap.data import classmap
from dap.data.image_files import read_image
from dap.data.manifest import check_finished, counts_in, images_of, read_manifest
from dap.data.source import Source
from dap.errors import FormatError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["OpenedRun", "open_run", "ranking"]


class OpenedRun(NamedTuple):
    """A finished run of ``dap.distill``.

    Attributes:
        source: The images in order of class and slot.
        manifest: All of ``dap.json``.
        best_first: For each class, the numbers of its images in ``source``, best first.
    """

    source: Source
    manifest: dict[str, Any]
    best_first: list[np.ndarray]


def open_run(path: str | Path) -> OpenedRun | None:
    """Open the folder of a run; return None if it has no manifest.

    Args:
        path: The output folder.

    Raises:
        SourceError: The run there was not finished, or images of it are gone.
        FormatError: The manifest is damaged.
    """
    path = Path(path)
    manifest = read_manifest(path)
    if manifest is None:
        return None
    check_finished(path, manifest)
    entries = classmap.from_json(manifest["class_map"])
    files = images_of(manifest)
    source = Source(
        name=str(path),
        class_names=tuple(entry.name for entry in entries),
        source_ids=tuple(entry.source_id for entry in entries),
        labels=np.repeat(np.arange(len(entries), dtype=np.int64), counts_in(manifest)),
        ids=files,
        load=partial(_load, path, files),
        read=partial(_read, path, files),
    )
    return OpenedRun(source, manifest, ranking(source, manifest))


def _load(folder: Path, files: Sequence[str], index: int) -> Image.Image:
    return read_image(folder / files[index])


def _read(folder: Path, files: Sequence[str], index: int) -> bytes:
    return (folder / files[index]).read_bytes()


def ranking(source: Source, manifest: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the indices of each class's images, best first; in the source's order where there is no ranking of them.

    Args:
        source: The images of a run, or those that were packed from it, of which some may have been left out.
        manifest: The run's manifest; empty for other images.

    Raises:
        FormatError: The ranks of a class are not those of its images.
    """
    names = [entry["name"] for entry in manifest.get("class_map", ())]
    made = dict(zip(names, counts_in(manifest), strict=True)) if manifest else {}
    best_first = []
    for label, name in enumerate(source.class_names):
        indices = source.of_class(label)
        rank: list[int] | None = manifest.get("rank", {}).get(name) if made.get(name) == len(indices) else None
        if rank is not None and sorted(rank) != list(range(len(indices))):
            raise FormatError(f"{source.name}: expected ranks 0 to {len(indices) - 1} of {name!r}, got {rank}")
        best_first.append(indices if rank is None else indices[np.argsort(rank)])
    return best_first
