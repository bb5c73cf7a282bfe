"""Makes the pictures of the methods' pages: four images of five classes of fashion-mini, by each method. Resumable.

    python examples/method_pictures.py --out runs/method_pictures --pictures docs/methods

A picture has the seed 0, and the preset "fashion" where the method has one. ``d3m`` needs a prior with text, which is
not among the built-in ones: it has no picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import dap

CLASSES = ("T-shirt/top", "Trouser", "Dress", "Sneaker", "Bag")
OPTIONS = {"guided": "guided:set_mode"}  # no terms of its own
SCALE = 2  # pixels of the picture for each pixel of an image


def block(images: np.ndarray) -> np.ndarray:
    """Return four grey images (4, 1, H, W) as a square of two rows."""
    return np.concatenate([np.concatenate(list(images[row : row + 2, 0]), axis=1) for row in (0, 2)])


def draw(distilled: dap.DistilledDataset, path: Path) -> None:
    """Write the squares of all classes side by side, with a white line between them."""
    images, labels = (tensor.numpy() for tensor in distilled.to_torch(size=32))
    line = np.full((64, 2), 255, dtype=np.uint8)
    parts = [part for label in range(len(CLASSES)) for part in (line, block(images[labels == label]))][1:]
    picture = Image.fromarray(np.concatenate(parts, axis=1))
    picture.resize((picture.width * SCALE, picture.height * SCALE), Image.Resampling.NEAREST).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of the pictures")
    args = parser.parse_args()
    args.pictures.mkdir(parents=True, exist_ok=True)
    for info in dap.list_methods():
        if "text" in info.needs:
            continue
        method = OPTIONS.get(info.name) or f"{info.name}:fashion" * ("fashion" in info.presets) or info.name
        folder = args.out / info.name
        distilled = dap.distill("fashion-mini", method=method, ipc=4, classes=CLASSES, out=folder)
        draw(distilled, args.pictures / f"{info.name}.png")
        print(info.name, method, flush=True)


if __name__ == "__main__":
    main()
