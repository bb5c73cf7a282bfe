"""Image files: their extensions, reading one, and encoding a PNG."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from dap.data.codecs import encode, open_image
from dap.data.names import some

__all__ = ["IMAGE_EXTENSIONS", "UNREAD_EXTENSIONS", "WEB_EXTENSIONS", "encode_png", "log_skipped", "read_image"]

logger = logging.getLogger(__name__)

WEB_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
IMAGE_EXTENSIONS = (
    *WEB_EXTENSIONS, ".apng", ".jpe", ".jfif", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
UNREAD_EXTENSIONS = (  # images that no safe decoder of dap reads
    ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jpx", ".jxl", ".svg", ".ico", ".tga", ".psd", ".exr", ".hdr", ".dds",
    ".pcx", ".xcf", ".dng", ".cr2", ".nef", ".arw", ".dcm", ".npy",
)  # fmt: skip


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
    """Decodes an image file of a kind that :func:`dap.data.codecs.decode` reads; of an animation, the first frame.

    Raises:
        FormatError: It is of another kind or too large; the message does not name it.
        Exception: Pillow's own error for a damaged file; :meth:`dap.data.source.Source.images` turns it into a
            :class:`~dap.errors.FormatError` that names the file.
    """
    return open_image(Path(path).read_bytes() if isinstance(path, str | Path) else path.read())


def log_skipped(name: str, skipped: Sequence[tuple[str, str]]) -> None:
    """Log a warning that says how many files or folders of a source are not read, and why.

    Args:
        name: The source's name.
        skipped: (name, reason) of each.
    """
    if skipped:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in Counter(why for _, why in skipped).items())
        names = some([entry for entry, _ in skipped])
        logger.warning("%s: %d files or folders are not read (%s): %s", name, len(skipped), reasons, names)
