"""Batches for training, decoded from tar shards or augmented from memory; beside DataLoaders with workers.

A call is one epoch. dap has threads; the others have as many worker processes, which persist, each with one thread.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photographs import encoded, photographs
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from turns import Contender, Group, thread_count

from dap.data.batches import decode_batch
from dap.data.webdataset import open_webdataset
from dap.loader import Loader
from dap.nets import Augmentation

BATCH, STRENGTH, CLASSES = 64, 0.4, 10


def groups(quick: bool) -> list[Group]:
    count, size = (8, 64) if quick else (1_000, 256)
    return [_jpeg_batches(count, size), _augmented_batches(count, size)]


def test_batches(take_turns, group, contender):
    take_turns(group, contender)


def _named(task: str, count: int, size: int) -> str:
    return f"{task}, {count:,} of {size} × {size}, {thread_count()} thread{'s' * (thread_count() > 1)} or workers"


class Jpegs:
    """JPEG files of quality 90 in a folder for each class, and in two tar shards for each worker."""

    def __init__(self, count: int, size: int) -> None:
        images = photographs(count, size)
        files = [encoded(image, "JPEG", quality=90, subsampling=2) for image in images]
        self.brightness = np.sort([image[size // 2].mean() for image in images])
        self.temporary, self.size = tempfile.TemporaryDirectory(), size
        folder = Path(self.temporary.name)
        self.tree = _tree(folder / "tree", files, "jpg")
        self.shards = []
        for shard, (start, stop) in enumerate(pairwise(np.linspace(0, count, 2 * thread_count() + 1).astype(int))):
            self.shards.append(folder / f"{shard:06d}.tar")
            _write_shard(self.shards[-1], files, start, stop)
        self.source = open_webdataset(self.shards, name="bench")

    @functools.cached_property
    def webdataset(self) -> DataLoader[Any]:
        return self._loader("torchrgb8")

    @functools.cached_property
    def webdataset_torchvision(self) -> DataLoader[Any]:
        return self._loader(_decoded_jpeg)

    @functools.cached_property
    def image_folder(self) -> DataLoader[Any]:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms.v2.functional import pil_to_tensor

        return _with_workers(ImageFolder(str(self.tree), transform=pil_to_tensor))

    @functools.cached_property
    def image_folder_torchvision(self) -> DataLoader[Any]:
        from torchvision.datasets import ImageFolder
        from torchvision.io import decode_image

        return _with_workers(ImageFolder(str(self.tree), loader=decode_image))

    def _loader(self, decoder: Any) -> DataLoader[Any]:
        import webdataset

        samples = webdataset.WebDataset(list(map(str, self.shards)), shardshuffle=False).decode(decoder)
        batches = samples.to_tuple("jpg", "cls").batched(BATCH, collation_fn=default_collate)
        return DataLoader(batches, batch_size=None, num_workers=thread_count(), persistent_workers=True)


def _jpeg_batches(count: int, size: int) -> Group:
    def by_dap(data: Jpegs) -> list[float]:
        assert data.source.read is not None
        parts = np.split(np.arange(count), range(BATCH, count, BATCH))
        return _means(torch.from_numpy(decode_batch(data.source.read, part, size=size, channels=3)) for part in parts)

    def check(data: Jpegs, means: list[float], rtol: float) -> None:
        if len(means) != count or np.abs(np.sort(means) - data.brightness).max() > 1:
            raise ValueError(f"{len(means)} images, or others than the {count} that were packed")

    contenders = {
        "dap": Contender(by_dap, "dap"),
        "webdataset": Contender(lambda data: _means(images for images, _ in data.webdataset)),
        "webdataset, torchvision.io": Contender(
            lambda data: _means(images for images, _ in data.webdataset_torchvision)
        ),
        "ImageFolder": Contender(lambda data: _means(images for images, _ in data.image_folder)),
        "ImageFolder, torchvision.io": Contender(
            lambda data: _means(images for images, _ in data.image_folder_torchvision)
        ),
    }
    return Group(_named("JPEG batches from tar", count, size), partial(Jpegs, count, size), contenders, check)


class InMemory:
    """Images in memory and as PNG files; random shift by up to an eighth, mirror, and jitter of colours by 0.4."""

    def __init__(self, count: int, size: int) -> None:
        pixels = photographs(count, size)
        self.images = torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy())
        self.labels = torch.arange(count) % CLASSES
        self.temporary, self.size = tempfile.TemporaryDirectory(), size
        self.tree = _tree(Path(self.temporary.name) / "tree", [encoded(image, "PNG") for image in pixels], "png")
        recipe = Augmentation(shift=1 / 8, brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH)
        self.dap = Loader(self.images, self.labels, batch_size=BATCH, augment=recipe, device="cpu")

    @functools.cached_property
    def float32_jitter(self) -> DataLoader[Any]:
        geometry, jitter, to_float = self._transforms()
        return _with_workers(_Transformed([*geometry, to_float, jitter], self.images, self.labels), shuffle=True)

    @functools.cached_property
    def uint8_jitter(self) -> DataLoader[Any]:
        geometry, jitter, to_float = self._transforms()
        return _with_workers(_Transformed([*geometry, jitter, to_float], self.images, self.labels), shuffle=True)

    @functools.cached_property
    def image_folder(self) -> DataLoader[Any]:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2 as transforms

        geometry, jitter, to_float = self._transforms()
        chain = transforms.Compose([*geometry, jitter, transforms.ToImage(), to_float])
        return _with_workers(ImageFolder(str(self.tree), chain), shuffle=True)

    def _transforms(self) -> tuple[list[Any], Any, Any]:
        from torchvision.transforms import v2 as transforms

        geometry = [transforms.RandomCrop(self.size, padding=self.size // 8), transforms.RandomHorizontalFlip()]
        jitter = transforms.ColorJitter(STRENGTH, STRENGTH, STRENGTH)
        return geometry, jitter, transforms.ToDtype(torch.float32, scale=True)


class _Transformed(Dataset[Any]):
    def __init__(self, chain: list[Any], images: Tensor, labels: Tensor) -> None:
        from torchvision.transforms import v2 as transforms

        self.transform, self.images, self.labels = transforms.Compose(chain), images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def _augmented_batches(count: int, size: int) -> Group:
    def epoch(loader: Iterable[Any]) -> list[float]:
        return [float(image[0, size // 2].mean()) for batch, _ in loader for image in batch]

    def check(data: InMemory, means: list[float], rtol: float) -> None:
        if len(means) != count or not all(0 <= mean <= 1 for mean in means):
            raise ValueError(f"{len(means)} images of {count}, or values outside of [0, 1]")

    contenders = {
        "dap": Contender(lambda data: epoch(data.dap), "dap"),
        "torchvision, float32 jitter": Contender(lambda data: epoch(data.float32_jitter)),
        "torchvision, uint8 jitter": Contender(lambda data: epoch(data.uint8_jitter)),
        "ImageFolder": Contender(lambda data: epoch(data.image_folder)),
    }
    return Group(_named("augmented batches", count, size), partial(InMemory, count, size), contenders, check)


def _with_workers(dataset: Dataset[Any], shuffle: bool = False) -> DataLoader[Any]:
    return DataLoader(dataset, BATCH, shuffle, num_workers=thread_count(), persistent_workers=True)


def _tree(folder: Path, files: list[bytes], extension: str) -> Path:
    for number, data in enumerate(files):
        place = folder / str(number % CLASSES)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.{extension}").write_bytes(data)
    return folder


def _write_shard(path: Path, files: list[bytes], start: int, stop: int) -> None:
    from dap._core import TarWriter

    writer = TarWriter(path)
    for number in range(start, stop):
        writer.append([(f"{number:06d}.cls", str(number % CLASSES).encode()), (f"{number:06d}.jpg", files[number])])
    writer.finish()


def _decoded_jpeg(key: str, data: bytes) -> Tensor | None:
    """A handler of webdataset that has torchvision's decoder."""
    from torchvision.io import decode_image

    return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)) if key.endswith("jpg") else None


def _means(batches: Iterable[Tensor]) -> list[float]:
    """Of a row of each image: a consumer that takes no time of its own."""
    return [mean for batch in batches for mean in batch[:, :, batch.shape[2] // 2].numpy().mean((1, 2)).tolist()]
