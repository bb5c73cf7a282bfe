"""Photographs in and out: decoding, the crop of ADM, PNG; beside Pillow, simplejpeg, torchvision.io and OpenCV.

Pixels must be Pillow's: to the bit where the format is lossless, within 2 levels of 255 for JPEG and WebP.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image

from dap import _core
from dap.bench.fields import Field
from dap.bench.race import Contender
from dap.data.codecs import decode, encode

__all__ = ["adm_crop", "decoding", "encoded", "photographs", "png_encoding"]

Bytes = npt.NDArray[np.uint8]


def photographs(count: int, size: int) -> list[Bytes]:
    """Crops of scikit-learn's two photographs at random places, uint8 (size, size, 3)."""
    from sklearn.datasets import load_sample_images

    draw, crops = np.random.default_rng(0), []
    pictures = load_sample_images().images
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (int(draw.integers(side - size + 1)) for side in picture.shape[:2])
        crops.append(np.ascontiguousarray(picture[top : top + size, left : left + size]))
    return crops


def encoded(pixels: Bytes, format: str, **options: Any) -> bytes:
    """A file as Pillow writes it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def decoding(format: str, options: dict[str, Any], count: int, size: int, threads: int) -> Field:
    """Files to pixels (H, W, 3)."""
    import cv2
    from torchvision import io as torchvision

    warnings.filterwarnings("ignore", message=".*(deprecated|decode_image).*", module="torchvision")
    cv2.setNumThreads(1)
    files = [encoded(pixels, format, **options) for pixels in photographs(count, size)]
    expected = [_pillow(data) for data in files]
    levels = 0 if format == "PNG" or options.get("lossless") else 2

    def by_torchvision(data: bytes) -> Any:
        return torchvision.decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()

    def by_opencv(data: bytes) -> Any:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)

    ways: dict[str, Callable[[bytes], Any]] = {"Pillow": _pillow, "torchvision.io": by_torchvision, "OpenCV": by_opencv}
    if format == "JPEG":
        ways["simplejpeg"] = simplejpeg.decode_jpeg
    return _field(decode, ways, files, threads), _same(expected, levels)


def adm_crop(count: int, size: int, threads: int) -> Field:
    """The photographs, whole, resized and cropped at the centre to (3, size, size)."""
    from sklearn.datasets import load_sample_images

    pictures: list[Bytes] = (load_sample_images().images * count)[:count]

    def by_dap(picture: Bytes) -> Bytes:
        out = np.empty((3, size, size), np.uint8)
        _core.crop_square(picture, 1, out, "adm")
        return out

    def by_pillow(picture: Bytes) -> Bytes:
        image = Image.fromarray(picture)
        while min(image.size) >= 2 * size:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = size / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)

    return _field(by_dap, {"Pillow": by_pillow}, pictures, threads), _same(list(map(by_pillow, pictures)), 0)


def png_encoding(count: int, size: int, threads: int) -> Field:
    """Pixels to PNG files, which may be up to 15 % larger than those of Pillow's level 6."""
    import cv2

    pixels = photographs(count, size)
    planes = {id(one): np.ascontiguousarray(one.transpose(2, 0, 1)) for one in pixels}
    most = 1.15 * sum(len(encoded(one, "PNG")) for one in pixels)

    def check(files: Any, rtol: float) -> None:
        _same(pixels, 0)([_pillow(bytes(file)) for file in files], rtol)
        if (written := sum(map(len, files))) > most:
            raise ValueError(f"{written:,} bytes are more than the {most:,.0f} of the rule")

    ways: dict[str, Callable[[Bytes], Any]] = {
        "Pillow": lambda one: encoded(one, "PNG"),
        "Pillow, level 1": lambda one: encoded(one, "PNG", compress_level=1),
        "OpenCV": lambda one: cv2.imencode(".png", cv2.cvtColor(one, cv2.COLOR_RGB2BGR))[1].tobytes(),
    }
    return _field(lambda one: encode(planes[id(one)], "png"), ways, pixels, threads), check


def _pillow(data: bytes) -> Bytes:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _field(
    ours: Callable[[Any], Any], rivals: dict[str, Callable[[Any], Any]], inputs: Sequence[Any], threads: int
) -> Any:
    """Every way over all inputs, shared out among threads."""
    pool = ThreadPoolExecutor(threads)

    def whole(way: Callable[[Any], Any]) -> Callable[[], Any]:
        return lambda: list(map(way, inputs) if threads == 1 else pool.map(way, inputs))

    return [Contender("dap", whole(ours), "dap"), *(Contender(name, whole(way)) for name, way in rivals.items())]


def _same(expected: Sequence[Bytes], levels: int) -> Callable[[Any, float], None]:
    def check(found: Any, rtol: float) -> None:
        pairs = zip(found, expected, strict=True)
        worst = max(int(np.abs(np.asarray(one, np.int16) - other).max()) for one, other in pairs)
        if worst > levels:
            raise ValueError(f"pixels off by {worst} levels")

    return check
