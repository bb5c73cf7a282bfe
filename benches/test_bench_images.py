"""Images in and out: decoding, PNG encoding, the crop of ADM; beside Pillow, simplejpeg, torchvision.io and OpenCV.

64 crops of 256 × 256: JPEG of quality 90 (4:2:0), PNG of Pillow's level 6, WebP of its defaults; on one thread, since
every contender would be shared out among threads alike. Pixels must be Pillow's: to the bit where the format is
lossless, within 2 levels of 255 for JPEG and WebP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from photographs import decoded, encoded, photographs
from PIL import Image
from turns import Contender, Group

from dap.data.codecs import decode, encode
from dap.data.pixels import to_pixels

FORMATS: dict[str, tuple[str, dict[str, object], int]] = {
    "JPEG": ("JPEG", {"quality": 90, "subsampling": 2}, 2),
    "PNG": ("PNG", {}, 0),
    "WebP": ("WebP", {}, 2),
    "WebP, lossless": ("WebP", {"lossless": True}, 0),
}
"""The format, Pillow's options, and the levels by which pixels may differ."""


def groups(quick: bool) -> list[Group]:
    count, size = (4 if quick else 64), 256
    decoding = [_decoding(name, count, size) for name in FORMATS]
    return [*decoding, _png_encoding(count, size), _adm_crop(count, size)]


def test_images(take_turns, group, contender):
    take_turns(group, contender)


class Images:
    """What all start from (files, pixels or pictures), and the pixels that must come out."""

    def __init__(self, inputs: Sequence[Any], expected: Sequence[np.ndarray], levels: int = 0) -> None:
        self.inputs, self.expected, self.levels = inputs, expected, levels
        self.most_bytes = 0.0


def check_pixels(data: Images, images: Any, rtol: float) -> None:
    pairs = zip(images, data.expected, strict=True)
    worst = max(int(np.abs(np.asarray(image, np.int16) - other).max()) for image, other in pairs)
    if worst > data.levels:
        raise ValueError(f"pixels off by {worst} levels")


def _all(way: Callable[[Any], Any]) -> Callable[[Images], list[Any]]:
    return lambda data: [way(item) for item in data.inputs]


def _by_torchvision(data: bytes) -> np.ndarray:
    import torch
    from torchvision.io import decode_image

    return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)).permute(1, 2, 0).numpy()


def _by_opencv(data: bytes) -> np.ndarray:
    import cv2

    cv2.setNumThreads(1)
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def _by_simplejpeg(data: bytes) -> np.ndarray:
    import simplejpeg

    return simplejpeg.decode_jpeg(data)


def _decoding(name: str, count: int, size: int) -> Group:
    format, options, levels = FORMATS[name]

    def prepare() -> Images:
        files = [encoded(pixels, format, **options) for pixels in photographs(count, size)]
        return Images(files, [decoded(data) for data in files], levels)

    contenders = {
        "dap": Contender(_all(decode), "dap"),
        "Pillow": Contender(_all(decoded)),
        "torchvision.io": Contender(_all(_by_torchvision)),
        "OpenCV": Contender(_all(_by_opencv)),
    }
    if format == "JPEG":
        contenders["simplejpeg"] = Contender(_all(_by_simplejpeg))
    return Group(f"decode {name}, {count} of {size} × {size}", prepare, contenders, check_pixels)


def _png_encoding(count: int, size: int) -> Group:
    """Files may be up to 15 % larger than those of Pillow's level 6."""

    def prepare() -> Images:
        pixels = photographs(count, size)
        data = Images([(image, np.ascontiguousarray(image.transpose(2, 0, 1))) for image in pixels], pixels)
        data.most_bytes = 1.15 * sum(len(encoded(image, "PNG")) for image in pixels)
        return data

    def by_opencv(image: np.ndarray) -> bytes:
        import cv2

        return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()

    def check(data: Images, files: Any, rtol: float) -> None:
        check_pixels(data, [decoded(bytes(file)) for file in files], rtol)
        if (written := sum(map(len, files))) > data.most_bytes:
            raise ValueError(f"{written:,} bytes are more than the {data.most_bytes:,.0f} of the rule")

    contenders = {
        "dap": Contender(_all(lambda item: encode(item[1], "png")), "dap"),
        "Pillow": Contender(_all(lambda item: encoded(item[0], "PNG"))),
        "Pillow, level 1": Contender(_all(lambda item: encoded(item[0], "PNG", compress_level=1))),
        "OpenCV": Contender(_all(lambda item: by_opencv(item[0]))),
    }
    return Group(f"encode PNG, {count} of {size} × {size}", prepare, contenders, check)


def _adm_crop(count: int, size: int) -> Group:
    def by_pillow(picture: np.ndarray) -> np.ndarray:
        image = Image.fromarray(picture)
        while min(image.size) >= 2 * size:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = size / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)

    def prepare() -> Images:
        from sklearn.datasets import load_sample_images

        pictures = (load_sample_images().images * count)[:count]
        return Images(pictures, [by_pillow(picture) for picture in pictures])

    by_dap = partial(to_pixels, size=size, channels=3)
    contenders = {
        "dap": Contender(_all(lambda picture: by_dap(Image.fromarray(picture))), "dap"),
        "Pillow": Contender(_all(by_pillow)),
    }
    return Group(f"ADM crop, {count} of 640 × 427 to {size} × {size}", prepare, contenders, check_pixels)
