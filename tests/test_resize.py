"""Resizing and cropping in Rust give the same bits as Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dap import _core
from dap.data.pixels import to_pixels, to_upright

SIZES = [  # (width, height): wide, tall, odd, tiny, square, and some that are enlarged
    (640, 427), (427, 640), (500, 375), (333, 217), (217, 333), (64, 64), (63, 65), (1, 1), (7, 3), (31, 33),
    (640, 97), (97, 640), (129, 128), (1023, 517), (300, 301), (17, 200), (28, 28), (2, 9), (512, 512), (255, 511),
]  # fmt: skip
PHOTOGRAPH = Image.fromarray(load_sample_images().images[1])
RESAMPLING = {
    "adm": Image.Resampling.BICUBIC,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def pillow_crop(image: Image.Image, size: int, filter: str) -> np.ndarray:
    """ADM's ``center_crop_arr`` in Pillow; the other filters at once."""
    if image.size != (size, size):
        while filter == "adm" and min(image.size) >= 2 * size:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = size / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), RESAMPLING[filter])
        left, top = (image.width - size) // 2, (image.height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image).reshape(size, size, -1).transpose(2, 0, 1)


def photograph(width: int, height: int) -> Image.Image:
    return PHOTOGRAPH.resize((width, height))


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 2, (height, width, 3), np.uint8) * 255)


@pytest.mark.parametrize("filter", RESAMPLING)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_a_square_has_the_pixels_of_pillow(width: int, height: int, filter: str) -> None:
    for image in (photograph(width, height), noise(width, height).convert("L")):
        for size in (1, 31, 100, 256):
            expected = pillow_crop(image, size, filter)
            pixels = to_pixels(image, size=size, channels=len(expected), filter=filter)  # type: ignore[arg-type]
            np.testing.assert_array_equal(pixels, expected)


def test_grey_and_colour_become_each_other() -> None:
    image = photograph(120, 90)
    grey = pillow_crop(image.convert("L"), 50, "adm")
    np.testing.assert_array_equal(to_pixels(image, size=50, channels=1), grey)
    np.testing.assert_array_equal(to_pixels(image.convert("L"), size=50, channels=3), grey.repeat(3, axis=0))


@pytest.mark.parametrize("orientation", range(9))
def test_an_orientation_turns_before_the_resize(orientation: int) -> None:
    image = photograph(61, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    expected = to_pixels(image, size=32, channels=3)
    pixels = np.empty((3, 32, 32), np.uint8)
    _core.crop_square(to_upright(photograph(61, 40)), orientation, pixels, "adm")
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((4, 4, 2), np.uint8)}, "1 or 3"),
        ({"pixels": np.zeros((0, 4, 3), np.uint8)}, "none of them empty"),
        ({"pixels": np.zeros((4, 8, 3), np.uint8)[:, ::2]}, "pixels"),
        ({"out": np.zeros((3, 2, 3), np.uint8)}, "out: expected a C-contiguous array"),
        ({"out": np.zeros((2, 2, 2), np.uint8)}, r"\(1 or 3, size, size\)"),
        ({"out": np.zeros((3, 0, 0), np.uint8)}, r"\(1 or 3, size, size\)"),
        ({"out": np.zeros((3, 2, 4), np.uint8)[:, :, ::2]}, "out: expected a C-contiguous array"),
        ({"filter": "nearest"}, "filter: expected adm, bicubic, lanczos or box"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    arguments = {
        "pixels": np.zeros((4, 4, 3), np.uint8),
        "out": np.zeros((3, 2, 2), np.uint8),
        "filter": "adm",
    } | change
    with pytest.raises(ValueError, match=message):
        _core.crop_square(arguments["pixels"], 1, arguments["out"], arguments["filter"])  # type: ignore[arg-type]
