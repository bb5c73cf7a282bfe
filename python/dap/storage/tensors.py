"""Writes safetensors files that are larger than memory: the shapes are known, the values come in blocks.

A file is the header's length (u64, little-endian), the header (JSON, padded by spaces to a multiple of 8 bytes) and the
values of all tensors, one after the other. Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["continue_tensors", "write_tensors"]


def write_tensors(path: Path, shapes: Mapping[str, Sequence[int]], blocks: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write and sync a safetensors file of float32 tensors, holding one block of values in memory at a time.

    Args:
        path: The file, which does not exist.
        shapes: The shape of each tensor by its name, in the order of the file.
        blocks: The values of all tensors in that order, in blocks of any shape.

    Raises:
        ValueError: The blocks have more or fewer values than the shapes.
        OSError: The file exists or cannot be written, or the disk is full.

    Example:
        >>> import tempfile
        >>> from safetensors.numpy import load_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_tensors(Path(folder, "x"), {"a": (2, 2), "b": (1,)}, [np.ones((2, 2)), np.zeros(1)])
        ...     load_file(Path(folder, "x"))["a"]
        array([[1., 1.],
               [1., 1.]], dtype=float32)
    """
    header, end = _header(shapes)
    written = 0
    with path.open("xb") as file:
        file.write(header)
        for block in blocks:
            written += file.write(np.asarray(block, "<f4").tobytes())
        file.flush()
        os.fsync(file.fileno())
    if written != end:
        raise ValueError(f"{path}: expected values of {end} bytes by the shapes, got {written}")


def continue_tensors(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    rows: Sequence[int],
    block: Callable[[int], npt.NDArray[np.float32]],
) -> Iterator[int]:
    """Write a safetensors file of float32 tensors block by block, after the whole blocks that it has already.

    Args:
        path: The file, which exists: empty, or left by this function with the same shapes and blocks.
        shapes: As in :func:`write_tensors`.
        rows: The number of values of each block.
        block: Returns a block by its number, which is written and synced.

    Yields:
        First the number of blocks that the file had, then the number that it has, after each block.

    Raises:
        OSError: The file cannot be written, or the disk is full.
    """
    header, _ = _header(shapes)
    ends = [len(header), *(len(header) + 4 * end for end in accumulate(rows))]
    with path.open("rb+") as file:
        if file.read(len(header)) != header:
            file.truncate(0)
            file.seek(0)
            file.write(header)
        done = bisect_right(ends, file.seek(0, os.SEEK_END)) - 1
        file.truncate(ends[done])
        file.seek(ends[done])
        yield done
        for number in range(done, len(rows)):
            file.write(np.asarray(block(number), "<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
            yield number + 1


def _header(shapes: Mapping[str, Sequence[int]]) -> tuple[bytes, int]:
    """Return the length and header of a file, and the number of bytes of the values."""
    layout, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * 4
        layout[name] = {"dtype": "F32", "shape": [*shape], "data_offsets": [begin, end]}
    header = json.dumps(layout).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, end
