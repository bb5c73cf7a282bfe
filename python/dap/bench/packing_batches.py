"""Batches for training: decoded from tar shards, and augmented from a set in memory; beside DataLoaders with workers.

A call is one epoch. dap has threads, the others as many worker processes, which persist, each with one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from dap.bench.fields import Field
from dap.bench.packing_images import encoded, photographs
from dap.bench.packing_shards import temporary_folder
from dap.bench.race import Contender
from dap.data.batches import decode_batch
from dap.data.codecs import encode
from dap.data.webdataset import open_webdataset
from dap.loader import Loader
from dap.nets import Augmentation

__all__ = ["augmented_batches", "jpeg_batches"]

BATCH, STRENGTH, CLASSES = 64, 0.4, 10


def jpeg_batches(count: int, size: int, threads: int) -> Field:
    """JPEG files of quality 90 as batches uint8 (64, 3, size, size), in the order of the files or the workers."""
    import torchvision
    import webdataset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2.functional import pil_to_tensor

    images = photographs(count, size)
    files = [encoded(image, "JPEG", quality=90, subsampling=2) for image in images]
    brightness = np.sort([image[size // 2].mean() for image in images])

    def check(means: Any, rtol: float) -> None:
        if len(means) != count or np.abs(np.sort(means) - brightness).max() > 1:
            raise ValueError(f"{len(means)} images, or others than the {count} that were packed")

    folder = temporary_folder(check)
    for number, data in enumerate(files):
        place = folder / "tree" / str(number % CLASSES)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(data)
    bounds = np.linspace(0, count, 2 * threads + 1).astype(int)  # shards, so that each worker has two
    for shard, (start, stop) in enumerate(pairwise(bounds)):
        with webdataset.TarWriter(str(folder / f"{shard:06d}.tar")) as writer:
            for number in range(start, stop):
                key = f"{number:06d}"
                writer.write({"__key__": key, "cls": str(number % CLASSES).encode(), "jpg": files[number]})
    shards = sorted(folder.glob("*.tar"))
    source = open_webdataset(shards, name="bench")
    read = source.read
    assert read is not None

    def by_dap() -> list[float]:
        parts = np.split(np.arange(len(source)), range(BATCH, len(source), BATCH))
        batches = (decode_batch(read, part, size=size, channels=3, threads=threads) for part in parts)
        return _means(map(torch.from_numpy, batches))

    def by_webdataset(decoder: Any) -> DataLoader[Any]:
        samples = webdataset.WebDataset(list(map(str, shards)), shardshuffle=False).decode(decoder)
        batches = samples.to_tuple("jpg", "cls").batched(BATCH, collation_fn=default_collate)
        return DataLoader(batches, batch_size=None, num_workers=threads, persistent_workers=True)

    def by_folder(**options: Any) -> DataLoader[Any]:
        tree: Dataset[Any] = ImageFolder(str(folder / "tree"), **options)
        return DataLoader(tree, BATCH, num_workers=threads, persistent_workers=True)

    loaders = {
        "webdataset": by_webdataset("torchrgb8"),
        "webdataset, torchvision.io": by_webdataset(_decoded_jpeg),
        "ImageFolder": by_folder(transform=pil_to_tensor),
        "ImageFolder, torchvision.io": by_folder(loader=torchvision.io.decode_image),
    }

    def epoch(loader: DataLoader[Any]) -> Callable[[], list[float]]:
        return lambda: _means(images for images, _ in loader)

    return [Contender("dap", by_dap, "dap"), *(Contender(name, epoch(one)) for name, one in loaders.items())], check


def augmented_batches(count: int, size: int, threads: int) -> Field:
    """Random shift by up to an eighth, mirror, and jitter of brightness, contrast and saturation by 0.4, to float32."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2 as transforms

    images = torch.from_numpy(np.stack(photographs(count, size)).transpose(0, 3, 1, 2).copy())
    labels = torch.arange(count) % CLASSES

    def check(seen: Any, rtol: float) -> None:
        if len(seen) != count or not all(0 <= mean <= 1 for mean in seen):
            raise ValueError(f"{len(seen)} images of {count}, or values outside of [0, 1]")

    folder = temporary_folder(check)
    for number, image in enumerate(images):
        place = folder / str(number % CLASSES)
        place.mkdir(exist_ok=True)
        (place / f"{number:06d}.png").write_bytes(encode(image.numpy(), "png"))
    geometry = [transforms.RandomCrop(size, padding=size // 8), transforms.RandomHorizontalFlip()]
    jitter, to_float = (
        transforms.ColorJitter(STRENGTH, STRENGTH, STRENGTH),
        transforms.ToDtype(torch.float32, scale=True),
    )
    sets = {
        "torchvision, float32 jitter": _Transformed(transforms.Compose([*geometry, to_float, jitter]), images, labels),
        "torchvision, uint8 jitter": _Transformed(transforms.Compose([*geometry, jitter, to_float]), images, labels),
        "ImageFolder": ImageFolder(
            str(folder), transforms.Compose([*geometry, jitter, transforms.ToImage(), to_float])
        ),
    }
    recipe = Augmentation(shift=1 / 8, brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH)
    loaders: dict[str, Iterable[Any]] = {"dap": Loader(images, labels, batch_size=BATCH, augment=recipe, device="cpu")}
    for name, one in sets.items():
        loaders[name] = DataLoader(one, BATCH, shuffle=True, num_workers=threads, persistent_workers=True)

    def epoch(loader: Iterable[Any]) -> Callable[[], list[float]]:
        return lambda: [float(image[0, size // 2].mean()) for batch, _ in loader for image in batch]

    return [
        Contender(name, epoch(loader), "dap" if name == "dap" else "rival") for name, loader in loaders.items()
    ], check


class _Transformed(Dataset[Any]):
    def __init__(self, transform: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> None:
        self.transform, self.images, self.labels = transform, images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def _decoded_jpeg(key: str, data: bytes) -> Tensor | None:
    """A handler of webdataset that has torchvision's decoder."""
    from torchvision.io import decode_image

    return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)) if key.endswith("jpg") else None


def _means(batches: Iterable[Tensor]) -> list[float]:
    """Of a row of each image: a consumer that takes no time of its own."""
    return [mean for batch in batches for mean in batch[:, :, batch.shape[2] // 2].numpy().mean((1, 2)).tolist()]
