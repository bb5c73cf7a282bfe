"""A distilled dataset: labelled images to train on, show and save, made by dap or by another method's authors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dap.config import check_whole
from dap.data.huggingface import to_hf_dataset
from dap.data.open import check_outside
from dap.data.packing import source_samples, write_packed
from dap.data.source import Source
from dap.data.stack import stack_images
from dap.data.webdataset import to_pipeline
from dap.report import source_sheet

if TYPE_CHECKING:
    import datasets
    import torch
    from PIL import Image
    from webdataset import FluidWrapper

    from dap.loader import Augment, Loader

__all__ = ["DistilledDataset"]


class DistilledDataset:
    """Labelled images to train a classifier on; made by :func:`dap.load` and :func:`dap.distill`.

    Args:
        source: The images.
        manifest: The manifest of the run that made them.
        best_first: Indices of each class's images, best first; None: in the source's order.
        tensors: Arrays by name with a row for each image.

    Attributes:
        source: The images as a :class:`dap.data.source.Source`, which decodes an image when it is used.
        manifest: The content of ``dap.json``: options, versions, seeds, class map, hashes, seconds. Empty for a set
            that ``dap.distill`` did not make.
        class_names: Names of the classes; a label is an index into it.

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
        self.source, self.class_names, self.manifest = source, source.class_names, manifest or {}
        self._tensors = dict(tensors or {})
        self._best_first = best_first or [source.of_class(label) for label in range(len(self.class_names))]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:  # image, uint8 (C, H, W), and label
        label = int(self.source.labels[index])  # raises IndexError beyond the end, as iteration needs
        return self.source.pixels(range(len(self))[index]), label

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return (self[index] for index in range(len(self)))

    @property
    def path(self) -> Path:
        """The path from which the set was opened."""
        return Path(self.source.name)

    @property
    def labels(self) -> np.ndarray:
        """Labels, int64 with shape (N,); the images of a run are in order of class and slot."""
        return self.source.labels.copy()

    @property
    def files(self) -> list[str]:
        """The path of each image below the folder; its key or number in a set that is not a folder of images."""
        return list(self.source.ids)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """Tensors saved with the images (soft labels, latents, …) by name, with a row for each image; may be empty."""
        import torch

        return {name: torch.from_numpy(array.copy()) for name, array in self._tensors.items()}

    def take(self, n: int) -> DistilledDataset:
        """The best n images of each class, best first, as a set of their own.

        Images are ranked by the method (``rank`` in the manifest), so that the first n represent the class well for
        each n. Without a ranking these are the first n images.

        Args:
            n: Images of each class, from 1 to the number that the smallest class has.

        Raises:
            OptionError: ``n`` is out of that range.

        Example:
            >>> import dap
            >>> images, labels = dap.load("distilled").take(5).to_torch()  # doctest: +SKIP
        """
        rankings = [best for best in self._best_first if len(best)]
        check_whole("take", n, 1, min(map(len, rankings)))
        indices = np.concatenate([best[:n] for best in rankings])
        tensors = {name: array[indices] for name, array in self._tensors.items()}
        return DistilledDataset(self.source.select(indices), manifest=self.manifest, tensors=tensors)

    def to_torch(self, *, size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """All images and labels, in order, decoded into memory.

        Args:
            size: Side in pixels to which all images are resized (:meth:`dap.data.source.Source.images`), RGB if
                some are in colour; None: all have one size already.

        Returns:
            Images, uint8 (N, C, H, W), and labels, int64 (N,).

        Raises:
            OptionError: They differ in size or channels and ``size`` is not given, or they do not fit into memory.
            FormatError: An image cannot be decoded; the message names it.
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
        """Batches for training: the set is decoded once, stays on the device, and is augmented there.

        Args:
            batch_size: Images of a batch.
            augment: None, "flip", "crop" or "standard" (:func:`dap.nets.get_augmentation`), a
                :class:`dap.nets.Augmentation`, or a function of uint8 images (B, C, H, W) and a generator.
            size: See :meth:`to_torch`.
            seed: Root of order and augmentation. The batches of an epoch depend on the seed and its number alone.
            device: Device of the images; None: the GPU if there is one.
            shuffle: Whether to shuffle the images anew in each epoch.
            drop_last: Whether to leave out a last batch that is not full.
            mean: Mean of each channel, for normalisation (x − mean) / std; None: values stay in [0, 1].
            std: Standard deviation of each channel; given together with ``mean``.

        Returns:
            An iterable with a length: images, float32 (B, C, H, W), and labels, int64 (B,).

        Example:
            >>> import dap
            >>> loader = dap.load("distilled").loader(64, augment="standard")  # doctest: +SKIP
        """
        from dap.loader import Loader

        return Loader(
            *self.to_torch(size=size), batch_size=batch_size, augment=augment, seed=seed, device=device,
            shuffle=shuffle, drop_last=drop_last, mean=mean, std=std,
        )  # fmt: skip

    def to_hf(self) -> datasets.Dataset:
        """A Hugging Face ``datasets.Dataset`` in memory, with columns image (``Image``) and label (``ClassLabel``).

        Image files keep their bytes; images that are stored as tensors become PNG.

        Raises:
            OptionError: ``datasets`` is not installed.

        Example:
            >>> import dap
            >>> dap.load("distilled").to_hf()[0]["image"].size  # doctest: +SKIP
            (32, 32)
        """
        return to_hf_dataset(self.source)

    def to_webdataset(self) -> FluidWrapper:
        """A ``webdataset`` pipeline over the files in memory; a sample has ``__key__``, the image, and ``cls``.

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
        tensors: Mapping[str, object] | None = None,
    ) -> dict[str, Any]:
        """Packs the set into a format that other packages read, by :func:`dap.data.packing.write_packed`.

        Args:
            out: The folder: new, empty, or of the same packing.
            format: "imagefolder", "webdataset", "parquet" or "safetensors".
            codec: "png", "jpeg" or "webp" (lossless); None keeps the files as they are.
            quality: JPEG quality, 1 to 100.
            maxcount: Most images of a shard.
            maxsize: Most bytes of a shard's images.
            on_error: "skip" leaves out images that cannot be decoded, and lists them.
            tensors: Arrays or tensors by name with a row for each image, such as soft labels or latents, to save with
                the images, floats as float16; :func:`dap.load` returns them in ``tensors``. None: those of this set.

        Returns:
            The content of ``pack.json``: "files", "images", "skipped", and this set's manifest as "provenance".

        Raises:
            DapError: A subclass of it, for a bad option, a damaged image, or a folder that holds something else.

        Example:
            >>> import dap
            >>> dap.load("distilled").save("shards", format="webdataset")  # doctest: +SKIP
        """
        if not self.manifest:  # a run's folder may hold more, since its manifest names its images
            check_outside(Path(out), self.source)
        provenance = self.manifest or {"name": self.source.name, "identity": self.source.identity()}
        return write_packed(
            source_samples(self.source), out, format=format, class_names=self.class_names, provenance=provenance,
            codec=codec, quality=quality, maxcount=maxcount, maxsize=maxsize, on_error=on_error,
            tensors=self._tensors if tensors is None else tensors,
        )  # fmt: skip

    def show(self) -> Image.Image:
        """The contact sheet, as a Pillow image."""
        return source_sheet(self.source)

    def __repr__(self) -> str:
        method = f", method {self.manifest['options']['method']['name']!r}" if self.manifest else ""
        return f"DistilledDataset({self.source.name!r}, {len(self)} images, {len(self.class_names)} classes{method})"
