"""Sources from a torch map-style ``Dataset`` of (image, label) items."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dap.data.class_list import class_list
from dap.data.from_labels import check_labels, join_labels, same_in_all, source_from_labels
from dap.data.names import some
from dap.data.source import Source
from dap.errors import DapError, SourceError

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = ["open_torch_dataset"]


def open_torch_dataset(dataset: Dataset[Any]) -> Source:
    """Opens a dataset whose items are (image, label), such as torchvision's, or mappings with these two keys.

    Class names are ``dataset.wnids`` or ``dataset.classes`` (a tuple of synonyms is joined by commas), or else the
    labels themselves. Labels are ``dataset.targets``, or else every item is read once for its label. A ``Subset`` has
    the names and labels of the dataset that it is taken from; the parts of a ``ConcatDataset`` must have the same
    names. Leave out random augmentation: an image must be the same each time it is read. Open a folder of images by its
    path instead: :meth:`Source.identity` then need not decode them all.

    Args:
        dataset: A ``torch.utils.data.Dataset`` with ``__len__`` and ``__getitem__``. Its images are Pillow images, or
            tensors with shape (C, H, W) or (H, W), C = 1 or 3, uint8 or float in [0, 1]. A label is an integer or text.

    Raises:
        SourceError: It has no length or no items by index, labels are no integers or text, or they do not match the
            class names or the number of images.

    Example:
        >>> open_torch_dataset(torchvision.datasets.CIFAR10("cifar")).class_names[0]  # doctest: +SKIP
        'airplane'
    """
    from torch.utils.data import IterableDataset

    name = type(dataset).__name__
    if not hasattr(dataset, "__len__") or isinstance(dataset, IterableDataset):
        raise SourceError(
            f"{name}: expected a map-style torch Dataset, with a length and items by index; a stream of items has no "
            "fixed order: write it to files, or open the files that it reads"
        )
    try:
        labels, names = _labels_and_names(name, dataset)
        count = len(dataset)
    except (DapError, MemoryError):
        raise
    except Exception as error:  # the dataset's own code raises what it likes
        raise SourceError(f"{name}: its labels cannot be read ({type(error).__name__}: {error})") from error
    if len(labels) != count:
        raise SourceError(f"{name}: {len(labels)} targets for {count} images")
    return source_from_labels(name, labels, names, partial(_load, dataset))


def _labels_and_names(name: str, dataset: Any) -> tuple[np.ndarray, list[str] | None]:
    """Labels with shape (N,), before any ``target_transform``, and class names by label.

    Other people's datasets have ``targets``, ``wnids`` and ``classes`` or not: there is no base class to ask.
    """
    from torch.utils.data import ConcatDataset, Subset

    if isinstance(dataset, Subset):
        labels, names = _labels_and_names(name, dataset.dataset)
        return labels[np.asarray(dataset.indices, np.int64)], names
    if isinstance(dataset, ConcatDataset):
        wheres = [f"{name}: part {number}" for number in range(len(dataset.datasets))]
        parts = [_labels_and_names(*part) for part in zip(wheres, dataset.datasets, strict=True)]
        names = same_in_all("class names", [(where, part[1]) for where, part in zip(wheres, parts, strict=True)])
        return join_labels([(where, part[0]) for where, part in zip(wheres, parts, strict=True)]), names
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = [_label(name, index, _item(name, dataset, index)[1]) for index in range(len(dataset))]
    return check_labels(name, targets), _class_names(name, dataset)


def _class_names(name: str, dataset: object) -> list[str] | None:
    for attribute in ("wnids", "classes"):
        names = getattr(dataset, attribute, None)
        if names is None or len(names) == 0:
            continue
        if not isinstance(names, Mapping):
            names = [_class_name(entry) for entry in names]
        try:
            return class_list(names)
        except ValueError as error:
            raise SourceError(f"{name}: its {attribute} are no list of class names ({error})") from error
    return None


def _class_name(entry: object) -> object:
    if isinstance(entry, tuple | list):
        return ", ".join(entry)
    return str(entry) if isinstance(entry, Integral) else entry


def _item(name: str, dataset: Any, index: int) -> tuple[Any, object]:
    """Image and label of an item."""
    item = dataset[index]
    if isinstance(item, Mapping) and "image" in item and "label" in item:
        return item["image"], item["label"]
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    shown = f"a mapping with {some(list(item))}" if isinstance(item, Mapping) else f"a {type(item).__name__}"
    raise SourceError(
        f"{name}: expected items (image, label), or mappings with 'image' and 'label'; item {index} is {shown}"
    )


def _label(name: str, index: int, value: object) -> int | str:
    """The label of an item: an integer or text, also as an array of one element."""
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biu":
        shown = f"{array.dtype} with shape {array.shape}" if array.ndim else repr(value)
        raise SourceError(
            f"{name}: expected an integer or text as label, item {index} has {shown}; wrap the dataset so that it "
            "returns the class's number, for example argmax of a one-hot label"
        )
    return int(array.item())


def _load(dataset: Any, index: int) -> Image.Image:
    image = _item(type(dataset).__name__, dataset, index)[0]
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
