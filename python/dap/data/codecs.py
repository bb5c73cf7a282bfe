"""Image files to pixels and back: PNG and WebP in Rust, JPEG by libjpeg-turbo, whatever is rare by Pillow.

Pixels follow the rules of :func:`dap.data.pixels.to_pixels`: PNG and lossless WebP to the bit, JPEG and lossy WebP as
Pillow decodes them to within 2 levels. All three decode without the GIL, so threads help. A file that ends too early
is an error, also where Pillow would make up for what is missing.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeAlias

import numpy as np
import simplejpeg
from PIL import Image

from dap import _core
from dap.data.pixels import CropFilter, to_pixels, to_upright
from dap.errors import FormatError

__all__ = ["EXTENSION_OF", "MAX_PIXELS", "codec_of", "decode", "decode_square", "encode"]

MAX_PIXELS = 89_478_485  # a quarter of a gigabyte in RGB, where Pillow begins to speak of a bomb
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # whatever a file is called, Pillow's other decoders never see it

ImageFormat: TypeAlias = Literal["png", "jpeg", "webp"]
EXTENSION_OF: Mapping[str, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}
_Info: TypeAlias = tuple[ImageFormat, int, int, int, int]


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a PNG, JPEG, WebP or BMP file, upright, in its own size; of an animation the first frame.

    Args:
        data: The whole file.
        max_pixels: Files that claim more pixels are refused before memory is taken for them.

    Returns:
        uint8 with shape (H, W, C); C is 1 if the file is grey, otherwise 3.

    Raises:
        FormatError: The file is damaged, cut short, too large or of another format. The message cannot name it.

    Example:
        >>> decode(encode(np.zeros((1, 4, 6), np.uint8), "png")).shape
        (4, 6, 1)
    """
    with _one_error():
        info = _core.image_info(data, max_pixels)
        if info is None:
            return to_upright(_open(data, max_pixels))
        pixels = _decode_jpeg(data, info, 0) if info[0] == "jpeg" else _core.decode_image(data, max_pixels)
        if pixels is None:
            return to_upright(_open(data, max_pixels))
        return np.ascontiguousarray(_upright(pixels, info[4]))


def decode_square(
    data: bytes,
    *,
    size: int,
    channels: int,
    filter: CropFilter = "adm",
    dct_scaling: bool = False,
    max_pixels: int = MAX_PIXELS,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Decodes a file as :func:`decode` does, to what :func:`~dap.data.pixels.to_pixels` makes of the Pillow image.

    Args:
        data: The whole file.
        size: Side of the result in pixels, at least 1.
        channels: 1 for grey, 3 for RGB.
        filter: See :func:`~dap.data.pixels.to_pixels`.
        dct_scaling: Let libjpeg decode a JPEG to as few eighths of its sides as are no smaller than ``size``. Faster
            for large photographs, but other pixels than ADM's.
        max_pixels: Files that claim more pixels are refused before memory is taken for them.
        out: Where the result goes, uint8 and C-contiguous; None for a new array.

    Returns:
        uint8 with shape (channels, size, size).

    Raises:
        FormatError: As :func:`decode`, or so long a strip that it cannot be resized.
        ValueError: Another number of channels, or no pixels wanted.

    Example:
        >>> decode_square(encode(np.zeros((1, 40, 60), np.uint8), "png"), size=32, channels=3).shape
        (3, 32, 32)
    """
    out = np.empty((channels, size, size), np.uint8) if out is None else out
    with _one_error():
        _decode_into(data, out, filter, dct_scaling, max_pixels)
    return out


def encode(image: np.ndarray, format: ImageFormat, *, quality: int = 95) -> bytes:
    r"""The bytes of an image file; the same pixels give the same bytes with the same version of dap.

    PNG is written for speed: about an eighth larger than Pillow's. WebP is lossless.

    Args:
        image: uint8 with shape (C, H, W), C = 1 (saved as grey; WebP has no grey, and saves RGB) or 3 (RGB).
        format: ``"png"``, ``"webp"`` or ``"jpeg"``.
        quality: Of JPEG alone: from 1 to 100. From 90 on colour keeps its full resolution.

    Raises:
        ValueError: Another dtype, shape, format or quality.

    Example:
        >>> encode(np.zeros((1, 32, 32), np.uint8), "png")[:4]
        b'\x89PNG'
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"expected uint8 of shape (1 or 3, H, W), got {image.dtype} of shape {image.shape}")
    if format != "jpeg":
        return _core.encode_image(np.ascontiguousarray(image), format)
    if not 1 <= quality <= 100:
        raise ValueError(f"quality: expected 1 to 100, got {quality}")
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    grey = len(image) == 1
    sampling = "Gray" if grey else "444" if quality >= 90 else "420"
    return bytes(simplejpeg.encode_jpeg(pixels, quality, "GRAY" if grey else "RGB", sampling))


def codec_of(data: bytes) -> ImageFormat | None:
    """The codec of an image file by its first bytes; None for others, such as BMP."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _decode_into(data: bytes, out: np.ndarray, filter: CropFilter, dct_scaling: bool, max_pixels: int) -> None:
    info = _core.image_info(data, max_pixels)
    if info is not None and info[0] != "jpeg":
        _core.decode_square(data, out, filter, max_pixels)
        return
    pixels = None if info is None else _decode_jpeg(data, info, out.shape[1] if dct_scaling else 0)
    if info is None or pixels is None:
        out[:] = to_pixels(_open(data, max_pixels), size=out.shape[1], channels=len(out), filter=filter)
    else:
        _core.crop_square(pixels, info[4], out, filter)


def _decode_jpeg(data: bytes, info: _Info, smallest: int) -> np.ndarray | None:
    """As stored; None if libjpeg-turbo would rather not: CMYK, and damage that Pillow looks past."""
    if info[3] not in (1, 3):
        return None
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, "GRAY" if info[3] == 1 else "RGB", min_height=smallest, min_width=smallest
        )
    except ValueError as error:
        if "Premature end of JPEG file" in str(error):
            raise FormatError("jpeg: truncated") from error
        return None
    return pixels


def _open(data: bytes, max_pixels: int) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > max_pixels:
            raise FormatError(f"{image.width}×{image.height} pixels are more than max_pixels = {max_pixels} allows")
        image.load()
        return image


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    return {
        2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        6: pixels[:, ::-1], 7: pixels[::-1, ::-1], 8: pixels[::-1],
    }.get(orientation, pixels)  # fmt: skip


@contextmanager
def _one_error() -> Iterator[None]:
    """Turns whatever a decoder raises into a :class:`FormatError`."""
    try:
        yield
    except (MemoryError, FormatError):
        raise
    except Exception as error:  # decoders raise almost anything when a file is damaged or hostile
        raise FormatError(f"{type(error).__name__}: {error}") from error
