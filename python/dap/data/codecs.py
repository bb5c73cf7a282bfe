"""Image files to pixels and back: PNG by Rust, JPEG by libjpeg-turbo, other formats and unusual JPEG files by Pillow.

A file's content says what it is, whatever its name.

Pixels follow the rules of :func:`dap.data.pixels.to_pixels`. They equal those that Pillow decodes; those of JPEG
differ by at most 2 levels. All formats decode without the GIL, so threads help. A truncated file is an error, also
where Pillow would fill in the missing pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, TypeAlias

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from dap import _core
from dap.data.file_kinds import KINDS_READ, describe
from dap.data.pixels import CropFilter, to_pixels, to_upright
from dap.data.webp import check_size, check_webp
from dap.errors import FormatError

__all__ = ["EXTENSION_OF", "MAX_PIXELS", "codec_of", "decode", "decode_square", "encode", "open_image"]

MAX_PIXELS = 89_478_485  # a quarter of a gigabyte in RGB; above it, Pillow warns of decompression bombs
FORMATS = (
    "PNG",
    "JPEG",
    "WEBP",
    "BMP",
    "GIF",
    "TIFF",
    "PPM",
)  # Pillow's other decoders are never used, whatever a file's name

ImageFormat: TypeAlias = Literal["png", "jpeg", "webp"]
EXTENSION_OF: Mapping[str, str] = {"png": "png", "jpeg": "jpg", "webp": "webp"}


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a PNG, JPEG, WebP, BMP, GIF, TIFF or PNM file in its own size, upright; of an animation, frame 1.

    Args:
        data: The bytes of the file.
        max_pixels: A file that claims more pixels is an error, raised before memory is allocated for them.

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
            return to_upright(open_image(data, max_pixels))
        format, channels, exif, xmp = info
        pixels = _decode_jpeg(data, channels, 0) if format == "jpeg" else _core.decode_image(data, max_pixels)
        if pixels is None:
            return to_upright(open_image(data, max_pixels))
        return np.ascontiguousarray(_upright(pixels, _orientation(exif, xmp)))


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
    """Decode a file as :func:`decode` does, then crop and resize as :func:`~dap.data.pixels.to_pixels` does.

    Args:
        data: The bytes of the file.
        size: Side of the result in pixels, at least 1.
        channels: 1 for grey, 3 for RGB.
        filter: See :func:`~dap.data.pixels.to_pixels`.
        dct_scaling: Let libjpeg decode a JPEG to the smallest multiple of an eighth of its sides that is at least
            ``size``. This is faster for large photographs, but gives other pixels than ADM's crop.
        max_pixels: A file that claims more pixels is an error, raised before memory is allocated for them.
        out: The array to write to, uint8 and C-contiguous; None for a new one.

    Returns:
        uint8 with shape (channels, size, size).

    Raises:
        FormatError: As :func:`decode`; or the image is too long and narrow to be resized.
        ValueError: ``channels`` is neither 1 nor 3, or ``size`` is 0.

    Example:
        >>> decode_square(encode(np.zeros((1, 40, 60), np.uint8), "png"), size=32, channels=3).shape
        (3, 32, 32)
    """
    out = np.empty((channels, size, size), np.uint8) if out is None else out
    with _one_error():
        _decode_into(data, out, filter, dct_scaling, max_pixels)
    return out


def encode(image: np.ndarray, format: ImageFormat, *, quality: int = 95) -> bytes:
    r"""Return the bytes of an image file; the same pixels give the same bytes with the same version of dap.

    PNG is written for speed: its files are about an eighth larger than Pillow's. WebP is lossless.

    Args:
        image: uint8 with shape (C, H, W), C = 1 (saved as grey, in WebP as RGB) or 3 (RGB).
        format: ``"png"``, ``"webp"`` or ``"jpeg"``.
        quality: For JPEG only: from 1 to 100. From 90 on, colour keeps its full resolution.

    Raises:
        ValueError: ``image`` has another dtype or shape, or ``format`` or ``quality`` is not one of those above.

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
    """Return the codec of an image file by its first bytes; None for others, such as BMP."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _decode_into(data: bytes, out: np.ndarray, filter: CropFilter, dct_scaling: bool, max_pixels: int) -> None:
    info = _core.image_info(data, max_pixels)
    if info is not None:
        format, channels, exif, xmp = info
        if format == "png":
            _core.decode_square(data, _orientation(exif, xmp), out, filter, max_pixels)
            return
        pixels = _decode_jpeg(data, channels, out.shape[1] if dct_scaling else 0)
        if pixels is not None:
            _core.crop_square(pixels, _orientation(exif, xmp), out, filter)
            return
    out[:] = to_pixels(open_image(data, max_pixels), size=out.shape[1], channels=len(out), filter=filter)


def _decode_jpeg(data: bytes, channels: int, smallest: int) -> np.ndarray | None:
    """Return the pixels as stored; None where Pillow must decode: CMYK, and damage that only Pillow tolerates."""
    if channels not in (1, 3):
        return None
    try:
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, "GRAY" if channels == 1 else "RGB", min_height=smallest, min_width=smallest
        )
    except ValueError as error:
        if "Premature end of JPEG file" in str(error):
            raise FormatError("jpeg: truncated") from error
        return None
    return pixels


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a file by Pillow, in any mode.

    Raises:
        FormatError: It is of a kind that is not read, or has more than ``max_pixels`` pixels.
        Exception: Pillow's own error for a damaged file.
    """
    if codec_of(data) == "webp":
        check_webp(memoryview(data), max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:  # its message is the address of an object
        kind = describe(data) or "one of an unknown kind"
        raise FormatError(f"expected a whole file of {KINDS_READ}, got {kind}") from None
    with image:
        check_size((image.width, image.height), max_pixels)
        image.load()
        return image


def _orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """Return the orientation, 1 to 8, that Pillow reads from EXIF or XMP; 1 (upright) if there is none."""
    if not exif and not xmp:
        return 1
    carrier = Image.new("1", (1, 1))
    carrier.info |= {"exif": exif, "XML:com.adobe.xmp": xmp and xmp.decode("latin-1")}
    try:
        orientation = carrier.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises errors of many kinds for damaged metadata, which does not spoil the pixels
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    return {
        2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1],
        6: pixels[:, ::-1], 7: pixels[::-1, ::-1], 8: pixels[::-1],
    }.get(orientation, pixels)  # fmt: skip


@contextmanager
def _one_error() -> Iterator[None]:
    """Turn all that a decoder raises into a :class:`FormatError`."""
    try:
        yield
    except (MemoryError, FormatError):
        raise
    except Exception as error:  # decoders raise almost anything when a file is damaged or hostile
        raise FormatError(f"{type(error).__name__}: {error}") from error
