"""Writes safetensors files that are larger than memory: the shapes are known, the values come in blocks.

A file is the header's length (u64, little-endian), the header (JSON, padded by spaces to a multiple of 8 bytes) and the
values of all tensors, one after the other. Format: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["blocks_in", "continue_tensors"]

NAMES = {"float16": "F16", "float32": "F32"}


def continue_tensors(
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    rows: Sequence[int],
    block: Callable[[int], npt.NDArray[np.floating]],
    dtype: str = "float32",
) -> Iterator[int]:
    """Write a safetensors file block by block, after the whole blocks that it has already.

    Args:
        path: The file: missing, or left by this function with the same shapes, blocks and dtype.
        shapes: The shape of each tensor by its name, in the order of the file.
        rows: The number of values of each block; together the tensors, in their order.
        block: Returns a block by its number, in any shape; it is written and synced.
        dtype: "float32" or "float16"; values are rounded to it.

    Yields:
        First the number of blocks that the file had, then the number that it has, after each block.

    Raises:
        OSError: The file cannot be written, or the disk is full.

    Example:
        >>> import tempfile
        >>> from safetensors.numpy import load_file
        >>> blocks = [np.ones((2, 2)), np.zeros(1)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     list(continue_tensors(Path(folder, "x"), {"a": (2, 2), "b": (1,)}, [4, 1], blocks.__getitem__))
        ...     load_file(Path(folder, "x"))["a"]
        [0, 1, 2]
        array([[1., 1.],
               [1., 1.]], dtype=float32)
    """
    stored = np.dtype(dtype).newbyteorder("<")
    header, ends = _layout(shapes, rows, dtype)
    path.touch()
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
            file.write(np.asarray(block(number), stored).tobytes())
            file.flush()
            os.fsync(file.fileno())
            yield number + 1


def blocks_in(path: Path, shapes: Mapping[str, Sequence[int]], rows: Sequence[int], dtype: str = "float32") -> int:
    """Return the number of whole blocks in a file that :func:`continue_tensors` writes; 0 if it is not there."""
    try:
        size = path.stat().st_size
    except OSError:
        return 0
    return max(0, bisect_right(_layout(shapes, rows, dtype)[1], size) - 1)


def _layout(shapes: Mapping[str, Sequence[int]], rows: Sequence[int], dtype: str) -> tuple[bytes, list[int]]:
    """Return the header of a file, and where it and each block ends."""
    width = np.dtype(dtype).itemsize
    header = _header(shapes, NAMES[dtype], width)
    return header, [len(header), *(len(header) + width * end for end in accumulate(rows))]


def _header(shapes: Mapping[str, Sequence[int]], dtype: str, width: int) -> bytes:
    """Return the length and header of a file."""
    layout, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * width
        layout[name] = {"dtype": dtype, "shape": [*shape], "data_offsets": [begin, end]}
    header = json.dumps(layout).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header
