"""Opens the folder of a finished run as a source of images."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dap.data import classmap
from dap.data.image_files import read_image
from dap.data.manifest import check_finished, counts_in, images_of, read_manifest
from dap.data.source import Source
from dap.errors import FormatError

__all__ = ["OpenedRun", "open_run"]


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
    counts = counts_in(manifest)
    files = images_of(manifest)
    best_first: list[np.ndarray] = []
    for entry, count, first in zip(entries, counts, accumulate(counts, initial=0), strict=False):
        rank = manifest.get("rank", {}).get(entry.name, list(range(count)))
        if sorted(rank) != list(range(count)):
            raise FormatError(f"{path}: expected ranks 0 to {count - 1} of {entry.name!r}, got {rank}")
        best_first.append(first + np.argsort(rank))
    source = Source(
        name=str(path),
        class_names=tuple(entry.name for entry in entries),
        source_ids=tuple(entry.source_id for entry in entries),
        labels=np.repeat(np.arange(len(entries), dtype=np.int64), counts),
        ids=files,
        load=lambda index: read_image(path / files[index]),
        read=lambda index: (path / files[index]).read_bytes(),
    )
    return OpenedRun(source, manifest, best_first)
