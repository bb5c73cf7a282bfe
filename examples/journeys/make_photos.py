"""Draws a folder of "photographs" in three classes that no prior knows: python make_photos.py FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("kite", "button", "comb")


def draw(name: str, rng: np.random.Generator) -> Image.Image:
    """One object on a background of noise, each of its own size, colour and place."""
    width, height = rng.integers(70, 110, 2)
    background = rng.integers(0, 90, (6, 8, 3)).astype("uint8")
    image = Image.fromarray(background).resize((int(width), int(height))).filter(ImageFilter.GaussianBlur(3))
    pen, colour = ImageDraw.Draw(image), tuple(int(value) for value in rng.integers(140, 255, 3))
    x, y, size = int(rng.integers(25, width - 25)), int(rng.integers(25, height - 25)), int(rng.integers(14, 24))
    if name == "kite":
        pen.polygon([(x, y - size), (x + size // 2, y), (x, y + size), (x - size // 2, y)], fill=colour)
    elif name == "button":
        pen.ellipse([x - size, y - size, x + size, y + size], fill=colour)
        for dx, dy in ((-4, -4), (4, -4), (-4, 4), (4, 4)):
            pen.ellipse([x + dx - 2, y + dy - 2, x + dx + 2, y + dy + 2], fill=(20, 20, 20))
    else:
        for tooth in range(7):
            left = x - size + tooth * size // 3
            pen.rectangle([left, y - size, left + 2, y + size], fill=colour)
        pen.rectangle([x - size, y - size - 4, x + size + 2, y - size], fill=colour)
    return image


def main(folder: Path) -> None:
    for split, count in (("train", 20), ("test", 10)):
        for seed, name in enumerate(CLASSES):
            rng = np.random.default_rng([seed, count])
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                draw(name, rng).save(folder / split / name / f"{number}.jpg", quality=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
