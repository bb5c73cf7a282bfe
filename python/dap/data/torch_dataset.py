"""Sources from a torch map-style ``Dataset`` of (image, label) items."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from dap.data.from_labels import source_from_labels
from dap.data.source import Source
from dap.errors import SourceError

__all__ = ["open_torch_dataset"]


def open_torch_dataset(dataset: Any) -> Source:
    """Opens a dataset whose items are (image, label), such as torchvision's.

    Class names are ``dataset.wnids`` or ``dataset.classes`` (a tuple of synonyms is joined by commas), or else the
    labels themselves. Labels are ``dataset.targets``, or else every item is read once for its label. A ``Subset`` has
    the names and labels of the dataset that it is taken from. Leave out random augmentation: an image must be the same
    each time it is read. Open a folder of images by its path instead: :meth:`Source.identity` then need not decode them
    all.

    Args:
        dataset: A ``torch.utils.data.Dataset`` with ``__len__`` and ``__getitem__``. Its images are Pillow images, or
            tensors with shape (C, H, W) or (H, W), C = 1 or 3, uint8 or float in [0, 1].

    Raises:
        SourceError: It has no length, or labels do not match the class names or the number of images.

    Example:
        >>> open_torch_dataset(torchvision.datasets.CIFAR10("cifar")).class_names[0]  # doctest: +SKIP
        'airplane'
    """
    name = type(dataset).__name__
    if not hasattr(dataset, "__len__"):
        raise SourceError(f"{name}: expected a map-style torch Dataset, with a length and items by index")
    labels, names = _labels_and_names(dataset)
    if len(labels) != len(dataset):
        raise SourceError(f"{name}: {len(labels)} targets for {len(dataset)} images")
    return source_from_labels(name, labels, names, partial(_load, dataset))


def _labels_and_names(dataset: Any) -> tuple[np.ndarray, Sequence[str] | None]:
    """Labels with shape (N,), before any ``target_transform``, and class names by label.

    Other people's datasets have these attributes or do not have them: there is no base class to ask.
    """
    if hasattr(dataset, "indices") and hasattr(dataset, "dataset"):  # torch.utils.data.Subset
        labels, names = _labels_and_names(dataset.dataset)
        return labels[np.asarray(dataset.indices, np.int64)], names
    targets = getattr(dataset, "targets", None)
    if targets is None:
        items = (dataset[index][1] for index in range(len(dataset)))
        targets = [label if isinstance(label, str) else int(label) for label in items]
    names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None)
    if names is not None:
        names = [entry if isinstance(entry, str) else ", ".join(entry) for entry in names]
    return np.asarray(targets), names


def _load(dataset: Any, index: int) -> Image.Image:
    image = dataset[index][0]
    return image if isinstance(image, Image.Image) else _from_tensor(image)


def _from_tensor(tensor: object) -> Image.Image:
    values = np.asarray(tensor)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or values.shape[0] not in (1, 3) or not (values.dtype == np.uint8 or values.dtype.kind == "f"):
        raise TypeError(f"expected a tensor (1 or 3, H, W) of uint8 or float, got {values.dtype} of {values.shape}")
    if values.dtype != np.uint8:
        if not (values.min() >= 0 and values.max() <= 1):
            raise TypeError(
                f"float pixels must lie in [0, 1], got {values.min()} to {values.max()}; leave Normalize out"
            )
        values = np.rint(values * 255.0).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)))
