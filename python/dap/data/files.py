"""Image files, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from dap.data.codecs import FORMATS, encode

__all__ = ["IMAGE_EXTENSIONS", "encode_png", "read_image", "sha256_file", "write_atomic", "written_whole"]

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def write_atomic(path: str | Path, data: bytes) -> None:
    """Writes a file so that nobody ever sees a part of it, even when the machine stops.

    The bytes go to ``.tmp-…`` in the same folder, which is synced and renamed; then the folder is synced. After an
    error the temporary file is gone and the old file, if there was one, is untouched.

    Args:
        path: The file; its folder exists. A file of that name is replaced.
        data: The whole content.

    Raises:
        OSError: The folder is missing or cannot be written, or the disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(Path(folder, "x.txt"), b"whole")
        ...     Path(folder, "x.txt").read_bytes()
        b'whole'
    """
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """For writers that want a file's name: what is written to the one given here appears as ``path`` at the end.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_whole(Path(folder, "x.txt")) as temporary:
        ...         _ = temporary.write_text("whole")
        ...     Path(folder, "x.txt").read_text()
        'whole'
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is durable without it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; reads in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode_png(image: np.ndarray) -> bytes:
    r"""One image as the bytes of a PNG file, as :func:`dap.data.codecs.encode` writes it.

    Args:
        image: uint8 with shape (C, H, W), C = 1 (saved as grey) or 3 (RGB).

    Raises:
        ValueError: Another dtype or shape.

    Example:
        >>> encode_png(np.zeros((1, 32, 32), np.uint8))[:4]
        b'\x89PNG'
    """
    return encode(image, "png")


def read_image(path: str | Path | IO[bytes]) -> Image.Image:
    """Decodes a PNG, JPEG, WebP or BMP file whole; of an animation, the first frame.

    Raises:
        Exception: What Pillow raises for a file that is missing, damaged, of another format or a decompression bomb;
            :meth:`dap.data.source.Source.images` turns it into a :class:`~dap.errors.FormatError` that names the file.
    """
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        return image
