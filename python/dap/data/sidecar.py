"""Sidecar tensors of a packed set, such as soft labels or latents, with one row for each image.

They are stored in ``beside.safetensors`` in the folder of the shards; readers of the images ignore that file. Rows are
grouped by class, and follow the order of the images within a class, which every format preserves. The metadata has the
number of rows of each class.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dap.data.shard_paths import SIDECAR
from dap.data.source import Source
from dap.data.weights import WEIGHTS
from dap.errors import FormatError, OptionError
from dap.storage.files import atomic_path, sha256_file

__all__ = ["hash_tensors", "read_sidecar", "to_stored_arrays", "write_sidecar"]


def to_stored_arrays(tensors: Mapping[str, object], count: int) -> dict[str, np.ndarray]:
    """Checks tensors and converts them to what is stored: floats become float16, weights float32, integers stay.

    Args:
        tensors: Arrays or tensors by name.
        count: Number of rows that each must have.

    Raises:
        OptionError: A tensor has another number of rows, is not numeric, or has values beyond float16.

    Example:
        >>> to_stored_arrays({"soft_labels": np.eye(3)}, 3)["soft_labels"].dtype
        dtype('float16')
    """
    arrays = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        if array.ndim == 0 or len(array) != count or array.dtype.kind not in "fiu":
            raise OptionError(
                f"tensors: expected {name!r} with a row of numbers for each of {count} images, got {array.dtype} of "
                f"{array.shape}"
            )
        if array.dtype.kind == "f" and name == WEIGHTS:
            array = (array / (array.max(initial=0) or 1)).astype(np.float32)  # only their ratios count
        elif array.dtype.kind == "f":
            if not np.abs(array).max(initial=0) <= np.finfo(np.float16).max:  # also when there is a NaN
                raise OptionError(f"tensors: {name!r} has values that float16 does not hold; scale it")
            array = array.astype(np.float16)
        arrays[name] = np.ascontiguousarray(array)
    return arrays


def hash_tensors(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """SHA-256 of each tensor's dtype, shape and bytes, so that packing is not continued with other tensors."""
    return {
        name: hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()
        for name, array in sorted(tensors.items())
    }


def write_sidecar(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    labels: Sequence[int],
    class_names: Sequence[str],
    left_out: set[int],
) -> dict[str, str]:
    """Writes the rows of the images that were packed.

    Args:
        folder: The packed set.
        tensors: As :func:`to_stored_arrays` returns them.
        labels: Label of each row.
        class_names: Names by label.
        left_out: Numbers of the rows whose images were skipped.

    Returns:
        The SHA-256 of the file by its name.
    """
    from safetensors.numpy import save_file

    packed_rows = np.array([row for row in range(len(labels)) if row not in left_out], np.int64)
    packed_labels = np.asarray(labels, np.int64)[packed_rows]
    counts = np.bincount(packed_labels, minlength=len(class_names)).tolist()
    rows = packed_rows[np.argsort(packed_labels, kind="stable")]
    classes = json.dumps([[name, count] for name, count in zip(class_names, counts, strict=True)], ensure_ascii=False)
    with atomic_path(folder / SIDECAR) as temporary:
        save_file({name: array[rows] for name, array in sorted(tensors.items())}, temporary, {"classes": classes})
    return {SIDECAR: sha256_file(folder / SIDECAR)}


def read_sidecar(folder: Path, source: Source) -> dict[str, np.ndarray]:
    """The sidecar tensors of a packed set, with one row for each image of ``source``.

    Args:
        folder: The packed set. A folder without the sidecar file has no tensors.
        source: The set's images. Classes may come in any order, the images of a class in that of the packed set.

    Raises:
        FormatError: The file is damaged, or its rows do not match the images.
    """
    path = folder / SIDECAR
    if not path.is_file():
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            counts = {str(name): int(count) for name, count in json.loads(file.metadata()["classes"])}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{path}: expected the tensors of a packed set ({error})") from error
    expected = {name: len(source.of_class(label)) for label, name in enumerate(source.class_names)}
    starts = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
    matching = {name: count for name, count in counts.items() if count} == {k: n for k, n in expected.items() if n}
    if not matching or any(len(array) != len(source) for array in tensors.values()):
        raise FormatError(
            f"{path}: expected rows for the set's images by class, {expected}, got {counts}; the file belongs to "
            "another set: delete it, or restore the images"
        )
    rows = np.empty(len(source), np.int64)
    for label, name in enumerate(source.class_names):
        class_indices = source.of_class(label)
        rows[class_indices] = starts.get(name, 0) + np.arange(len(class_indices))
    return {name: array[rows] for name, array in tensors.items()}
