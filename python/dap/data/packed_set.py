"""What ``pack.json`` says of a packed set: its class names in label order, and the run that made the images."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dap.data.label_order import reorder_labels
from dap.data.manifest import check_manifest
from dap.data.pack_record import read_pack_record
from dap.data.shard_paths import MAX_JSON, PACKED
from dap.data.source import Source
from dap.storage.checked_json import ANYTHING, read_json

__all__ = ["PackedSet", "in_packed_order", "read_packed"]


class PackedSet(NamedTuple):
    """The record of a packed set.

    Attributes:
        class_names: Names by label.
        manifest: That of the run of ``dap.distill`` whose images were packed; empty for all other images.
    """

    class_names: tuple[str, ...]
    manifest: dict[str, Any]


def read_packed(folder: Path) -> PackedSet | None:
    """Return what the ``pack.json`` of a folder says; None if it has none, or one that lists the class names alone.

    Raises:
        FormatError: It is damaged.
    """
    path = folder / PACKED
    if not path.is_file():
        return None
    content = read_json(path, ANYTHING, most=MAX_JSON)
    if not isinstance(content, dict) or "schema" not in content:
        return None
    record = read_pack_record(path)
    provenance = record.get("provenance")
    manifest: dict[str, Any] = provenance if isinstance(provenance, dict) and "class_map" in provenance else {}
    if manifest:
        check_manifest(path, manifest, "provenance")
    return PackedSet(tuple(record.get("class_names", ())), manifest)


def in_packed_order(source: Source, class_names: Collection[str]) -> Source:
    """Return a packed set's images with the labels that they had, in the order of these if it was another.

    A folder of classes is read in the order of their names, which is seldom that of the labels.

    Args:
        source: The images.
        class_names: Names by label when the set was packed; of those, classes without images have no label.
    """
    names = [name for name in class_names if name in source.class_names]
    if names == list(source.class_names) or len(names) != len(source.class_names):
        return source
    relabelled = reorder_labels(source, names)
    return relabelled.select(np.argsort(relabelled.labels, kind="stable"))
