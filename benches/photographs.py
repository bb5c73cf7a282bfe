"""Natural content for the benches: crops of scikit-learn's two photographs, or of those in a folder."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def photographs(count: int, size: int, folder: Path | None = None) -> list[np.ndarray]:
    """Return crops at random places, uint8 (size, size, 3), of the JPEG files below a folder or scikit-learn's two."""
    draw, crops = np.random.default_rng(0), []
    if folder is None:
        from sklearn.datasets import load_sample_images

        pictures = load_sample_images().images
    else:
        pictures = [
            _at_least(Image.open(path).convert("RGB"), size) for path in sorted(folder.rglob("*.[jJ][pP]*[gG]"))
        ]
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (int(draw.integers(side - size + 1)) for side in picture.shape[:2])
        crops.append(np.ascontiguousarray(picture[top : top + size, left : left + size]))
    return crops


def _at_least(image: Image.Image, size: int) -> np.ndarray:
    """Return the pixels, enlarged if a side is shorter than ``size``."""
    scale = max(1.0, size / min(image.size))
    return np.asarray(image.resize([round(scale * side) for side in image.size]) if scale > 1 else image)


def encoded(pixels: np.ndarray, format: str, **options: object) -> bytes:
    """Return a file as Pillow writes it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """Return the pixels that Pillow reads, uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
