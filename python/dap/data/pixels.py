"""From a decoded image of any mode and size to the square uint8 pixels that priors and classifiers take."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from dap.errors import FormatError

__all__ = ["to_pixels"]

MAX_PIXELS = 1 << 28  # a strip of one pixel's height would grow without bound when its short side is enlarged


def to_pixels(image: Image.Image, *, size: int, channels: int) -> np.ndarray:
    """Upright, flattened, resized and centre-cropped pixels.

    In this order: the EXIF orientation is applied; 16-bit grey is scaled to 8 bits (v · 255 / 65535, rounded); what is
    transparent is laid on black; the mode becomes grey (ITU-R 601 luma) or RGB; the image is cut as ADM's
    ``center_crop_arr`` does it (Dhariwal and Nichol, 2021, arXiv 2105.05233, the crop that DiT was trained with):
    halved by box averages while its short side is at least twice ``size``, resized (bicubic) to a short side of
    ``size``, and cropped at the centre. An image that is ``size`` × ``size`` already keeps its pixels.

    Args:
        image: Any Pillow image but mode ``F``.
        size: Side of the result in pixels, at least 1.
        channels: 1 for grey, 3 for RGB.

    Returns:
        uint8 with shape (channels, size, size).

    Raises:
        FormatError: Mode ``F``, whose range is not known, or so long a strip that it cannot be resized.

    Example:
        >>> to_pixels(Image.new("RGB", (50, 40), "white"), size=32, channels=1).shape
        (1, 32, 32)
    """
    image = _center_crop(_to_mode(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB"), size)
    return np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)


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


def _center_crop(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    if width * height > MAX_PIXELS:
        raise FormatError(f"an image of {image.width}×{image.height} is too long a strip to be resized to {size}")
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
