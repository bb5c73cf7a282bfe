"""A distilled dataset, dap's own or another method's: labelled images, ready for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dap.data.huggingface import to_hf_dataset
from dap.data.packing import source_samples, write_packed
from dap.data.source import Source
from dap.data.stack import stack_images
from dap.data.webdataset import to_pipeline
from dap.errors import OptionError
from dap.report import contact_sheet

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from dap.loader import Augment, Loader

__all__ = ["DistilledDataset"]


class DistilledDataset:
    """Labelled images that a classifier is to be trained on; made by :func:`dap.load` and :func:`dap.distill`.

    Args:
        source: The images.
        manifest: Of the run that made them.
        best_first: Numbers of each class's images, best first; None: in the source's order.
        tensors: Arrays by name with a row for each image.

    Attributes:
        source: The images as a :class:`dap.data.source.Source`, which decodes them when they are asked for.
        manifest: All of ``dap.json``: options, versions, seeds, class map, hashes, seconds. Empty for a set that
            ``dap.distill`` did not make.
        class_names: Names of the classes; a label is a position in it.

    Example:
        >>> import dap
        >>> images, labels = dap.load("distilled").to_torch()  # doctest: +SKIP
    """

    def __init__(
        self,
        source: Source,
        *,
        manifest: dict[str, Any] | None = None,
        best_first: Sequence[np.ndarray] | None = None,
        tensors: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.source, self.manifest = source, manifest or {}
        self.class_names = source.class_names
        self._tensors = dict(tensors or {})
        self._best_first = best_first or [source.of_class(label) for label in range(len(source.class_names))]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Image, uint8 with shape (C, H, W), and label."""
        label = int(self.source.labels[index])  # an index beyond the end ends an iteration here
        return self.source.pixels(range(len(self))[index]), label

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return (self[index] for index in range(len(self)))

    @property
    def path(self) -> Path:
        """Where the set was opened."""
        return Path(self.source.name)

    @property
    def labels(self) -> np.ndarray:
        """Labels, int64 with shape (N,); of a run in order of class and slot."""
        return self.source.labels.copy()

    @property
    def files(self) -> list[str]:
        """Of each image its path below the folder, or its number or key where the set is no folder of images."""
        return list(self.source.ids)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What was saved beside the images (soft labels, latents, …) by name, a row for each image; often nothing."""
        import torch

        return {name: torch.from_numpy(array.copy()) for name, array in self._tensors.items()}

    def take(self, n: int) -> DistilledDataset:
        """The best n images of each class, best first: the same set, seen in part.

        The best are those that the method ranked first (``rank`` in the manifest): chosen one after another so that
        each prefix stands for the class. Where nothing ranks them they are the first n.

        Args:
            n: Images of each class, from 1 to as many as the smallest class has.

        Raises:
            OptionError: There are fewer.

        Example:
            >>> import dap
            >>> images, labels = dap.load("distilled").take(5).to_torch()  # doctest: +SKIP
        """
        kept = [best for best in self._best_first if len(best)]
        most = min(map(len, kept))
        if type(n) is not int or not 1 <= n <= most:
            raise OptionError(f"take: expected 1 to {most} images per class, as many as there are, got {n!r}")
        numbers = np.concatenate([best[:n] for best in kept])
        tensors = {name: array[numbers] for name, array in self._tensors.items()}
        return DistilledDataset(self.source.select(numbers), manifest=self.manifest, tensors=tensors)

    def to_torch(self, *, size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """All images and labels, in order, in memory of their own.

        Args:
            size: Side in pixels that all images are brought to, as :meth:`dap.data.source.Source.images` does it, grey
                or RGB as the first one; None: they are all of one size and keep it.

        Returns:
            Images, uint8 (N, C, H, W), and labels, int64 (N,).

        Raises:
            OptionError: They differ in size or channels and ``size`` is not given, or are more than fits into memory.
            FormatError: An image cannot be decoded; the message names it.

        Example:
            >>> import dap
            >>> images, labels = dap.load("distilled").to_torch()  # doctest: +SKIP
        """
        import torch

        return torch.from_numpy(stack_images(self.source, size)), torch.from_numpy(self.labels)

    def loader(
        self,
        batch_size: int,
        *,
        augment: Augment | None = None,
        size: int | None = None,
        seed: int = 0,
        device: str | torch.device | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> Loader:
        """Batches for training: the whole set is decoded once and stays on the device, where it is also augmented.

        Args:
            batch_size: Images of a batch.
            augment: None, "flip", "crop" or "standard" (:func:`dap.nets.get_augmentation`), a
                :class:`dap.nets.Augmentation`, or a function of uint8 images (B, C, H, W) and a generator.
            size: See :meth:`to_torch`.
            seed: Root of the order and the augmentation; epoch e of a seed has the same batches whenever it comes.
            device: Where the images are; the GPU if there is one.
            shuffle: Whether each epoch has an order of its own.
            drop_last: Whether to leave out a last batch that is not full.
            mean: Of each channel, to normalise with; None: values in [0, 1].
            std: Of each channel; goes with ``mean``.

        Returns:
            An iterable with a length: images, float32 (B, C, H, W), and labels, int64 (B,).

        Raises:
            OptionError: A value is out of range, or the images do not fit.

        Example:
            >>> import dap
            >>> loader = dap.load("distilled").loader(64, augment="standard")  # doctest: +SKIP
            >>> for images, labels in loader: ...  # doctest: +SKIP
        """
        from dap.loader import Loader

        return Loader(
            *self.to_torch(size=size), batch_size=batch_size, augment=augment, seed=seed, device=device,
            shuffle=shuffle, drop_last=drop_last, mean=mean, std=std,
        )  # fmt: skip

    def to_hf(self) -> Any:
        """A Hugging Face ``datasets.Dataset`` in memory, with columns image (``Image``) and label (``ClassLabel``).

        Images are the files' own bytes, or PNG where the set is stored as tensors.

        Raises:
            OptionError: ``datasets`` is not installed.

        Example:
            >>> import dap
            >>> dap.load("distilled").to_hf()[0]["image"].size  # doctest: +SKIP
            (32, 32)
        """
        return to_hf_dataset(self.source)

    def to_webdataset(self) -> Any:
        """A ``webdataset`` pipeline over the files in memory, with samples ``__key__``, the image, and ``cls``.

        Raises:
            OptionError: ``webdataset`` is not installed.

        Example:
            >>> import dap
            >>> pipeline = dap.load("distilled").to_webdataset().decode("pil").to_tuple("png", "cls")  # doctest: +SKIP
        """
        return to_pipeline(self.source)

    def save(
        self,
        out: str | Path,
        *,
        format: str = "imagefolder",
        codec: str | None = None,
        quality: int = 95,
        maxcount: int = 100_000,
        maxsize: int = 500_000_000,
        on_error: str = "raise",
        tensors: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Packs the set into a format that other packages read; :func:`dap.data.packing.write_packed` says how.

        Args:
            out: The folder: new, empty, or of the same packing.
            format: "imagefolder", "webdataset", "parquet" or "safetensors".
            codec: "png", "jpeg" or "webp" (lossless); None keeps the files as they are.
            quality: Of JPEG, 1 to 100.
            maxcount: Most images of a shard.
            maxsize: Most bytes of a shard's images.
            on_error: "skip" leaves out what cannot be decoded, and lists it.
            tensors: Arrays or tensors by name with a row for each image, such as soft labels or latents, to be saved
                beside the images, floats as float16; ``tensors`` of the set that is loaded has them. None: its own.

        Returns:
            What ``pack.json`` holds: "files", "images", "skipped", and this set's manifest as "provenance".

        Raises:
            DapError: One of its kinds, for a bad option, a damaged image, or a folder that holds something else.

        Example:
            >>> import dap
            >>> dap.load("distilled").save("shards", format="webdataset")  # doctest: +SKIP
        """
        provenance = self.manifest or {"name": self.source.name, "identity": self.source.identity()}
        return write_packed(
            source_samples(self.source), out, format=format, class_names=self.class_names, provenance=provenance,
            codec=codec, quality=quality, maxcount=maxcount, maxsize=maxsize, on_error=on_error,
            tensors=self._tensors if tensors is None else tensors,
        )  # fmt: skip

    def show(self) -> Image.Image:
        """The contact sheet, as a Pillow image."""
        rows = [(name, self.source.of_class(label).tolist()) for label, name in enumerate(self.class_names)]
        return contact_sheet(
            [(name, [partial(self.source.load, index) for index in indices]) for name, indices in rows if indices]
        )

    def __repr__(self) -> str:
        method = f", method {self.manifest['options']['method']['name']!r}" if self.manifest else ""
        return f"DistilledDataset({self.source.name!r}, {len(self)} images, {len(self.class_names)} classes{method})"
