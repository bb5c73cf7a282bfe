"""The idx format of MNIST and similar sets: a big-endian header, then the raw array.

Format: http://yann.lecun.com/exdb/mnist/ — two zero bytes, a type code (8 = uint8), the number of dimensions, each
dimension as a 32-bit big-endian integer, then the values in row-major order. Plain, gzip- or xz-compressed.
"""

from __future__ import annotations

import gzip
import lzma
import math
import os
import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from dap.errors import FormatError

__all__ = ["idx_files", "read_idx"]

MAX_BYTES = 800_000_000  # limit against forged headers; EMNIST, the largest set in this format, has 550 MB
BLOCK_BYTES = 1 << 20
NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz|\.xz)?")


def idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """The files with MNIST's names in a folder, by split ("train" or "test") and kind ("images" or "labels").

    The test files are called ``t10k`` or ``test``; ``idx3`` follows a hyphen or a dot. If a file is there in several
    forms, the uncompressed one is taken.
    """
    files: dict[tuple[str, str], Path] = {}
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            if (match := NAME.fullmatch(name.lower())) and (folder / name).is_file():
                split = "train" if match[1] == "train" else "test"
                files.setdefault((split, match[2]), folder / name)
    return files


def read_idx(path: str | Path, *, count: int | None = None) -> np.ndarray:
    """Reads one idx file of unsigned bytes.

    Args:
        path: The file, gzip-compressed if its name ends in ``.gz``, xz-compressed if in ``.xz``.
        count: What the first dimension must be; None: anything. It is compared before the values are read.

    Returns:
        The array, uint8, with the shape that the header states.

    Raises:
        FormatError: The file is not an idx file of uint8, holds more or fewer bytes than its header says, or items
            other than ``count``.

    Example:
        >>> images = read_idx("train-images-idx3-ubyte.gz")  # doctest: +SKIP
        >>> images.shape  # doctest: +SKIP
        (60000, 28, 28)
    """
    path = Path(path)
    try:
        with _open(path) as file:
            zeros, code, dims = struct.unpack(">HBB", file.read(4))
            if zeros != 0 or code != 8 or not 1 <= dims <= 4:
                raise FormatError(f"{path}: expected an idx file of uint8, got magic {zeros:04x}{code:02x}{dims:02x}")
            shape = struct.unpack(f">{dims}I", file.read(4 * dims))
            if count is not None and shape[0] != count:
                raise FormatError(f"{path}: expected {count} images, as many as labels, got {shape[0]}")
            size = math.prod(shape)
            if size > MAX_BYTES:
                raise FormatError(f"{path}: header claims {size} bytes, more than {MAX_BYTES}")
            values = _read_at_most(file, size + 1)
    except (struct.error, EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise FormatError(f"{path}: truncated or damaged idx file ({error})") from error
    if len(values) != size:
        got = "more" if len(values) > size else f"only {len(values)}"
        raise FormatError(f"{path}: header promises {size} bytes of values, the file holds {got}")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _open(path: Path) -> IO[bytes] | gzip.GzipFile | lzma.LZMAFile:
    if path.suffix == ".gz":
        return gzip.open(path)
    return lzma.open(path) if path.suffix == ".xz" else path.open("rb")


def _read_at_most(file: IO[bytes] | gzip.GzipFile | lzma.LZMAFile, size: int) -> bytearray:
    """Reads block by block: one large read would allocate what the header claims, even if the file is short."""
    values = bytearray()
    while len(values) < size and (block := file.read(min(size - len(values), BLOCK_BYTES))):
        values += block
    return values
