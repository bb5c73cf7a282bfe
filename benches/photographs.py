"""Natural content for the benches: crops of scikit-learn's two photographs."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def photographs(count: int, size: int) -> list[np.ndarray]:
    """Return crops at random places, uint8 (size, size, 3)."""
    from sklearn.datasets import load_sample_images

    draw, crops = np.random.default_rng(0), []
    pictures = load_sample_images().images
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (int(draw.integers(side - size + 1)) for side in picture.shape[:2])
        crops.append(np.ascontiguousarray(picture[top : top + size, left : left + size]))
    return crops


def encoded(pixels: np.ndarray, format: str, **options: object) -> bytes:
    """Return a file as Pillow writes it."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def decoded(data: bytes) -> np.ndarray:
    """Return the pixels that Pillow reads, uint8 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
