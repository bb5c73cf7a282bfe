"""Convert a decoded image of any mode and size to the uint8 pixels that priors and classifiers take."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, ImageOps

from dap import _core
from dap.errors import FormatError

__all__ = ["CropFilter", "is_grey", "to_pixels", "to_upright"]

CropFilter: TypeAlias = Literal["adm", "bicubic", "lanczos", "box"]


def to_pixels(image: Image.Image, *, size: int, channels: int, filter: CropFilter = "adm") -> np.ndarray:
    """Return an image's pixels, turned upright, without transparency, resized and cropped at the centre.

    The steps, in this order:

    1. The EXIF orientation is applied.
    2. 16-bit grey is scaled to 8 bits (v · 255 / 65535, rounded).
    3. Transparent pixels are composited on black.
    4. The mode becomes grey (ITU-R 601 luma) or RGB.
    5. The image is cropped as ADM's ``center_crop_arr`` does (Dhariwal and Nichol, 2021, arXiv 2105.05233), the crop
       that DiT was trained with: halved by box averages while its short side is at least twice ``size``, resized
       (bicubic) to a short side of ``size``, and cropped at the centre. An image of ``size`` × ``size`` keeps its
       pixels.

    Each resize gives the bytes of ``Image.resize`` of Pillow 13, whichever version is installed: older versions never
    resize columns first, and therefore round images that are more than twice as tall as wide differently.

    Args:
        image: Any Pillow image but mode ``F``.
        size: Side of the result in pixels, at least 1.
        channels: 1 for grey, 3 for RGB.
        filter: ``"adm"`` as above; or ``"bicubic"``, ``"lanczos"`` or ``"box"``: one resize by this filter, without
            the halving.

    Returns:
        uint8 with shape (channels, size, size).

    Raises:
        FormatError: Mode ``F``, whose range is not known; or the image is too long and narrow to be resized.

    Example:
        >>> to_pixels(Image.new("RGB", (50, 40), "white"), size=32, channels=1).shape
        (1, 32, 32)
    """
    pixels = to_upright(image, channels=channels)
    out = np.empty((channels, size, size), np.uint8)
    _core.crop_square(pixels, 1, out, filter)
    return out


def to_upright(image: Image.Image, *, channels: int | None = None) -> np.ndarray:
    """Return an image's pixels in its own size, after steps 1 to 4 of :func:`to_pixels`.

    Args:
        image: Any Pillow image but mode ``F``.
        channels: 1 for grey, 3 for RGB; None: 1 if the image is grey, otherwise 3.

    Returns:
        uint8 with shape (H, W, channels).

    Raises:
        FormatError: Mode ``F``, whose range is not known.

    Example:
        >>> to_upright(Image.new("LA", (50, 40))).shape
        (40, 50, 1)
    """
    channels = channels or (1 if is_grey(image) else 3)
    pixels = np.asarray(_to_mode(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


def is_grey(image: Image.Image) -> bool:
    """Return whether an image's mode has no colours.

    Example:
        >>> is_grey(Image.new("P", (1, 1)))
        False
    """
    return image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode and not image.has_transparency_data:
        return image
    if image.mode == "F":
        raise FormatError("a float image (mode F) has no known range; expected 8-bit or 16-bit pixels")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion clips at 255
        values = np.asarray(image).clip(0, 65535).astype(np.float64)
        image = Image.fromarray(np.rint(values * (255 / 65535)).astype(np.uint8))
    elif image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    return image.convert(mode)
