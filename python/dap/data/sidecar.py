"""Tensors that go with a packed set, one row for each image: soft labels, latents.

They stand in ``beside.safetensors`` beside the shards, where no reader of the images looks. Rows go class by class, in
each class in the order of its images, which every format keeps; the metadata has how many each class has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dap.data.shard_paths import BESIDE
from dap.data.source import Source
from dap.errors import FormatError, OptionError
from dap.storage.files import atomic_path, sha256_file

__all__ = ["checked_tensors", "digest_of", "read_sidecar", "write_beside"]


def checked_tensors(tensors: Mapping[str, object], count: int) -> dict[str, np.ndarray]:
    """The tensors as they are stored: floats as float16, integers as they are.

    Args:
        tensors: Arrays or tensors by name.
        count: Rows that each must have.

    Raises:
        OptionError: One has another number of rows, another kind of values, or values beyond float16.

    Example:
        >>> checked_tensors({"soft_labels": np.eye(3)}, 3)["soft_labels"].dtype
        dtype('float16')
    """
    found = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        if array.ndim == 0 or len(array) != count or array.dtype.kind not in "fiu":
            raise OptionError(
                f"tensors: expected {name!r} with a row of numbers for each of {count} images, got {array.dtype} of "
                f"{array.shape}"
            )
        if array.dtype.kind == "f":
            if not np.abs(array).max(initial=0) <= np.finfo(np.float16).max:  # also when there is a NaN
                raise OptionError(f"tensors: {name!r} has values that float16 does not hold; scale it")
            array = array.astype(np.float16)
        found[name] = np.ascontiguousarray(array)
    return found


def digest_of(tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """SHA-256 of each tensor with its type and shape, so that packing is not continued with other ones."""
    return {
        name: hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()
        for name, array in sorted(tensors.items())
    }


def write_beside(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    labels: Sequence[int],
    class_names: Sequence[str],
    left_out: set[int],
) -> dict[str, str]:
    """Writes the rows of the images that were packed.

    Args:
        folder: The packed set.
        tensors: As :func:`checked_tensors` gives them.
        labels: Of each row.
        class_names: Names by label.
        left_out: Numbers of the rows whose images were skipped.

    Returns:
        The SHA-256 of the file by its name.
    """
    from safetensors.numpy import save_file

    kept = np.array([row for row in range(len(labels)) if row not in left_out], np.int64)
    own = np.asarray(labels, np.int64)[kept]
    counts = np.bincount(own, minlength=len(class_names)).tolist()
    rows = kept[np.argsort(own, kind="stable")]
    classes = json.dumps([[name, count] for name, count in zip(class_names, counts, strict=True)], ensure_ascii=False)
    with atomic_path(folder / BESIDE) as temporary:
        save_file({name: array[rows] for name, array in sorted(tensors.items())}, temporary, {"classes": classes})
    return {BESIDE: sha256_file(folder / BESIDE)}


def read_sidecar(folder: Path, source: Source) -> dict[str, np.ndarray]:
    """The tensors beside a packed set, a row for each image of the source that it was opened as.

    Args:
        folder: Any folder; without such a file there are none.
        source: The set's images, in any order that leaves those of a class in theirs.

    Raises:
        FormatError: The file is damaged, or has other images than the source.
    """
    path = folder / BESIDE
    if not path.is_file():
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            counts = {str(name): int(count) for name, count in json.loads(file.metadata()["classes"])}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{path}: expected the tensors of a packed set ({error})") from error
    there = {name: len(source.of_class(label)) for label, name in enumerate(source.class_names)}
    starts = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
    whole = {name: count for name, count in counts.items() if count} == {name: n for name, n in there.items() if n}
    if not whole or any(len(array) != len(source) for array in tensors.values()):
        raise FormatError(
            f"{path}: its rows are of {counts} images, the set has {there}; take away the one or the other"
        )
    rows = np.empty(len(source), np.int64)
    for label, name in enumerate(source.class_names):
        own = source.of_class(label)
        rows[own] = starts.get(name, 0) + np.arange(len(own))
    return {name: array[rows] for name, array in tensors.items()}
