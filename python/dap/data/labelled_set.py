"""Labelled images as torchvision's ``ImageFolder`` has them: pairs of image and label, classes, a transform."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
from PIL import Image

from dap.data.huggingface import to_hf_dataset
from dap.data.source import Source
from dap.data.stack import stack_images
from dap.data.webdataset_pipeline import to_pipeline

if TYPE_CHECKING:
    import datasets
    import torch
    from webdataset import FluidWrapper

__all__ = ["LabelledSet", "Transform"]

Transform = Callable[[Image.Image], Any]


class LabelledSet:
    """A sequence of (image, label) that PyTorch's ``DataLoader`` takes; the base of ``dap.DistilledDataset``.

    Args:
        source: The images.
        transform: Turns each image that is indexed, a Pillow image (mode L or RGB), into another value.

    Attributes:
        source: As given; it decodes an image when it is used.
        transform: As given; it may be set later.

    Example:
        >>> import dap
        >>> images = LabelledSet(dap.open_source("fashion-mini", classes=["Dress", "Bag"]))
        >>> images[0][0].shape, images.class_to_idx
        ((1, 32, 32), {'Dress': 0, 'Bag': 1})
    """

    def __init__(self, source: Source, *, transform: Transform | None = None) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    @overload
    def __getitem__(self, index: int) -> tuple[Any, int]: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> tuple[Any, int] | Self:
        """Return image and label: uint8 (C, H, W), or what ``transform`` makes of it; for a slice, a set."""
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        label = int(self.source.labels[index])  # raises IndexError beyond the end, as iteration needs
        pixels = self.source.pixels(range(len(self))[index])
        if self.transform is None:
            return pixels, label
        return self.transform(Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))), label

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: np.ndarray) -> Self:
        """Return the images with these indices, in this order, as a set with the same classes and transform."""
        return type(self)(self.source.select(indices), transform=self.transform)

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
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index into it."""
        return self.source.class_names

    @property
    def classes(self) -> list[str]:
        """The class names as a list, as ``ImageFolder`` has them."""
        return list(self.class_names)

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The label of each class name."""
        return {name: label for label, name in enumerate(self.class_names)}

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def to_torch(self, *, size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """All images and labels, in order, decoded into memory; ``transform`` is not applied.

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
