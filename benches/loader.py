"""The loader against torchvision's transforms in a DataLoader: crop, mirror and colour jitter, images a second.

    python benches/loader.py [--images 1000] [--threads 1 2] [--rounds 5]

Content: scikit-learn's two photographs, cut into tiles of 256×256. Every contender works on one set, epoch after epoch,
in turns in one process; shown are medians, and the ratio to the best rival. Rivals: transforms v2 on uint8 tensors in
memory, made float before or after the jitter, and ImageFolder with Pillow on PNG files; each in 2 persistent workers of
one thread. Before anything is timed, a batch is compared with torchvision's functions, image by image.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torchvision.transforms.v2 as transforms
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as reference

from dap.data.files import encode_png
from dap.loading import Loader
from dap.nets import Augmentation, get_augmentation

SIZE, BATCH, STRENGTH = 256, 64, 0.4
RECIPES = {
    "shift": Augmentation(shift=1 / 8, brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH),
    "standard": get_augmentation("standard"),
}


class Transformed(TensorDataset):
    def __init__(self, transform: transforms.Transform, *tensors: torch.Tensor) -> None:
        super().__init__(*tensors)
        self.transform = transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = super().__getitem__(index)
        return self.transform(image), label


def photographs(count: int) -> torch.Tensor:
    draw = np.random.default_rng(0)
    pictures = load_sample_images().images
    tiles = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = draw.integers(picture.shape[0] - SIZE + 1), draw.integers(picture.shape[1] - SIZE + 1)
        tiles.append(picture[top : top + SIZE, left : left + SIZE].transpose(2, 0, 1))
    return torch.from_numpy(np.stack(tiles))


def rivals(recipe: str, images: torch.Tensor, labels: torch.Tensor, folder: Path) -> dict[str, DataLoader]:
    if recipe == "shift":
        crop: transforms.Transform = transforms.RandomCrop(SIZE, padding=SIZE // 8)
    else:
        crop = transforms.RandomResizedCrop(SIZE, scale=(0.5, 1.0))
    geometry = [crop, transforms.RandomHorizontalFlip()]
    jitter, to_float = (
        transforms.ColorJitter(STRENGTH, STRENGTH, STRENGTH),
        transforms.ToDtype(torch.float32, scale=True),
    )
    sets = {
        "tensors, float jitter": Transformed(transforms.Compose([*geometry, to_float, jitter]), images, labels),
        "tensors, uint8 jitter": Transformed(transforms.Compose([*geometry, jitter, to_float]), images, labels),
        "ImageFolder": ImageFolder(folder, transforms.Compose([*geometry, jitter, transforms.ToImage(), to_float])),
    }
    return {
        name: DataLoader(one, BATCH, shuffle=True, num_workers=2, persistent_workers=True) for name, one in sets.items()
    }


def check(augmentation: Augmentation, images: torch.Tensor) -> None:
    draws = augmentation.draw(len(images), SIZE, SIZE, torch.Generator().manual_seed(0))
    found = augmentation.apply(images, draws, torch.empty(images.shape))
    for image, box, flip, factors, result in zip(images, *(drawn.tolist() for drawn in draws), found, strict=True):
        expected = reference.crop(image, *box)
        if expected.shape != image.shape:
            expected = reference.resize(expected, [SIZE, SIZE], antialias=True)
        expected = reference.to_dtype(
            reference.horizontal_flip(expected) if flip else expected, torch.float32, scale=True
        )
        expected = reference.adjust_contrast(reference.adjust_brightness(expected, factors[0]), factors[1])
        expected = reference.adjust_saturation(expected, factors[2])
        torch.testing.assert_close(result, expected, rtol=0, atol=2e-6)


def seconds(loader: Iterable[tuple[torch.Tensor, torch.Tensor]], count: int) -> float:
    start = time.perf_counter()
    seen = sum(len(batch) for batch, _ in loader)
    spent = time.perf_counter() - start
    assert seen == count
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    images, labels = photographs(options.images), torch.arange(options.images) % 10
    with tempfile.TemporaryDirectory() as place:
        for number, image in enumerate(images):
            folder = Path(place, str(number % 10))
            folder.mkdir(exist_ok=True)
            (folder / f"{number:05d}.png").write_bytes(encode_png(image.numpy()))
        for recipe, augmentation in RECIPES.items():
            check(augmentation, images[:BATCH])
            contenders: dict[str, Loader | DataLoader] = dict(rivals(recipe, images, labels, Path(place)))
            ours = Loader(images, labels, batch_size=BATCH, augment=augmentation, device="cpu")
            contenders |= {f"dap, {threads} threads": ours for threads in options.threads}
            times: dict[str, list[float]] = {name: [] for name in contenders}
            for turn in range(options.rounds + 1):  # the first one starts the workers
                for name, loader in contenders.items():
                    torch.set_num_threads(int(name.split()[1]) if loader is ours else 1)
                    spent = seconds(loader, options.images)
                    if turn:
                        times[name].append(spent)
            best = min(median(found) for name, found in times.items() if not name.startswith("dap"))
            print(f"{recipe}: {augmentation}")
            for name, found in times.items():
                print(f"  {name:24} {options.images / median(found):8.0f} images/s {best / median(found):6.2f} x")


if __name__ == "__main__":
    main()
