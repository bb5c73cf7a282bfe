"""Batches for training, decoded from tar shards or augmented from memory; beside DataLoaders with workers.

A call is one epoch. dap has threads; the others have as many worker processes, which persist, each with one thread.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photographs import encoded, photographs
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate
from turns import Contender, Group, named, thread_count

from dap._core import TarWriter
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


class Images:
    """Images in memory, in a folder for each class, and in two tar shards for each worker."""

    def __init__(self, count: int, size: int, extension: str) -> None:
        pixels = photographs(count, size)
        self.size, self.loaders = size, {}
        self.images = torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy())
        self.brightness = np.sort([image[size // 2].mean() for image in pixels])
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        options = {"quality": 90, "subsampling": 2} if extension == "jpg" else {}
        files = [encoded(image, "JPEG" if extension == "jpg" else "PNG", **options) for image in pixels]
        for number, data in enumerate(files):
            place = self.folder / "tree" / str(number % CLASSES)
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:06d}.{extension}").write_bytes(data)
        for shard, numbers in enumerate(np.array_split(np.arange(count), 2 * thread_count())):
            writer = TarWriter(self.folder / f"{shard:06d}.tar")
            for number in numbers:
                members = (("cls", str(number % CLASSES).encode()), (extension, files[number]))
                writer.append([(f"{number:06d}.{suffix}", data) for suffix, data in members])
            writer.finish()
        self.shards = sorted(self.folder.glob("*.tar"))
        self.source = open_webdataset(self.shards, name="bench")

    def loader(self, make: Callable[[Images], Any]) -> Any:
        """What ``make`` makes of the images: a loader, with workers that stay for all epochs."""
        if make not in self.loaders:
            self.loaders[make] = make(self)
        return self.loaders[make]


def _jpeg_batches(count: int, size: int) -> Group:
    def by_dap(data: Images) -> list[float]:
        assert data.source.read is not None
        parts = np.split(np.arange(count), range(BATCH, count, BATCH))
        return _means(torch.from_numpy(decode_batch(data.source.read, part, size=size, channels=3)) for part in parts)

    def check(data: Images, means: list[float], rtol: float) -> None:
        if len(means) != count or np.abs(np.sort(means) - data.brightness).max() > 1:
            raise ValueError(f"{len(means)} images, or others than the {count} that were packed")

    contenders = {
        "dap": Contender(by_dap, "dap"),
        "webdataset": _epoch(partial(_webdataset, decoder="torchrgb8")),
        "webdataset, torchvision.io": _epoch(partial(_webdataset, decoder=_decoded_jpeg)),
        "ImageFolder": _epoch(_image_folder),
        "ImageFolder, torchvision.io": _epoch(_image_folder_by_torchvision),
    }
    name = named("JPEG batches from tar", f"{count:,} of {size} × {size}")
    return Group(name, partial(Images, count, size, "jpg"), contenders, check)


def _augmented_batches(count: int, size: int) -> Group:
    """Random shift by up to an eighth, mirror, and jitter of brightness, contrast and saturation by 0.4, to float32."""
    recipe = Augmentation(shift=1 / 8, brightness=STRENGTH, contrast=STRENGTH, saturation=STRENGTH)

    def dap_loader(data: Images) -> Loader:
        labels = torch.arange(count) % CLASSES
        return Loader(data.images, labels, batch_size=BATCH, augment=recipe, device="cpu")

    def check(data: Images, means: list[float], rtol: float) -> None:
        if len(means) != count or not all(0 <= mean <= 1 for mean in means):
            raise ValueError(f"{len(means)} images of {count}, or values outside of [0, 1]")

    contenders = {
        "dap": _epoch(dap_loader, "dap"),
        "torchvision": _epoch(_transformed),
        "ImageFolder": _epoch(_image_folder_augmented),
    }
    name = named("augmented batches", f"{count:,} of {size} × {size}")
    return Group(name, partial(Images, count, size, "png"), contenders, check)


def _epoch(make: Callable[[Images], Any], role: Any = "rival") -> Contender:
    return Contender(lambda data: _means(images for images, _ in data.loader(make)), role)


def _means(batches: Iterable[Tensor]) -> list[float]:
    """The mean of a row of each image: a consumer that takes no time of its own."""
    return [mean for batch in batches for mean in batch[:, :, batch.shape[2] // 2].numpy().mean((1, 2)).tolist()]


def _webdataset(data: Images, decoder: Any) -> DataLoader[Any]:
    import webdataset

    samples = webdataset.WebDataset(list(map(str, data.shards)), shardshuffle=False).decode(decoder)
    batches = samples.to_tuple("jpg", "cls").batched(BATCH, collation_fn=default_collate)
    return DataLoader(batches, batch_size=None, num_workers=thread_count(), persistent_workers=True)


def _decoded_jpeg(key: str, data: bytes) -> Tensor | None:
    """A handler of webdataset that has torchvision's decoder."""
    from torchvision.io import decode_image

    return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8)) if key.endswith("jpg") else None


def _image_folder(data: Images) -> DataLoader[Any]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.v2.functional import pil_to_tensor

    return _with_workers(ImageFolder(str(data.folder / "tree"), transform=pil_to_tensor))


def _image_folder_by_torchvision(data: Images) -> DataLoader[Any]:
    from torchvision.datasets import ImageFolder
    from torchvision.io import decode_image

    return _with_workers(ImageFolder(str(data.folder / "tree"), loader=decode_image))


def _image_folder_augmented(data: Images) -> DataLoader[Any]:
    from torchvision.datasets import ImageFolder

    return _with_workers(ImageFolder(str(data.folder / "tree"), _transform(data.size)))


class _Transformed(TensorDataset):
    """Images in memory, transformed one by one by torchvision."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.tensors[0][index]), 0


def _transformed(data: Images) -> DataLoader[Any]:
    dataset = _Transformed(data.images)
    dataset.transform = _transform(data.size)
    return _with_workers(dataset)


def _transform(size: int) -> Callable[[Any], Tensor]:
    from torchvision.transforms import v2

    return v2.Compose([
        v2.RandomCrop(size, padding=size // 8), v2.RandomHorizontalFlip(), v2.ToImage(),
        v2.ColorJitter(STRENGTH, STRENGTH, STRENGTH), v2.ToDtype(torch.float32, scale=True),
    ])  # fmt: skip


def _with_workers(dataset: Any) -> DataLoader[Any]:
    return DataLoader(dataset, BATCH, num_workers=thread_count(), persistent_workers=True)
