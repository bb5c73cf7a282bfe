"""Image files: their extensions, reading one, and encoding a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from dap.data.codecs import FORMATS, encode

__all__ = ["IMAGE_EXTENSIONS", "encode_png", "read_image"]

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


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
    """Decodes a PNG, JPEG, WebP or BMP file; of an animation, the first frame.

    Raises:
        Exception: Pillow's own error for a file that is missing, damaged, of another format or a decompression bomb;
            :meth:`dap.data.source.Source.images` turns it into a :class:`~dap.errors.FormatError` that names the file.
    """
    with Image.open(path, formats=FORMATS) as image:
        image.load()
        return image
