"""Sources from Hugging Face ``datasets``: an object that the user made, or the id of a dataset on the hub.

``datasets`` is an extra. An object is recognised by its type's module, so that only an id imports the library.
"""

from __future__ import annotations

import copy
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from dap.data.from_labels import source_from_labels
from dap.data.image_files import encode_png
from dap.data.names import some
from dap.data.source import Source
from dap.errors import OptionError, SourceError

if TYPE_CHECKING:
    import datasets

__all__ = ["is_hf_dataset", "load_hf_dataset", "open_hf_dataset", "to_hf_dataset"]


def is_hf_dataset(value: object) -> bool:
    """Whether ``value`` is a ``datasets.Dataset``; does not import the library."""
    return any(
        kind.__module__ == "datasets.arrow_dataset" and kind.__name__ == "Dataset" for kind in type(value).__mro__
    )


def load_hf_dataset(name: str, *, split: str) -> Source:
    """Loads a dataset of the hub (or of the local cache) by its id, "org/name".

    Raises:
        SourceError: ``datasets`` is not installed, or there is no such dataset or split.
    """
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"{name!r} is not a folder; to read it as a Hugging Face dataset: pip install dap-distill[hf]"
        ) from error
    try:
        dataset = datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{name!r} is not a folder, and cannot be loaded as a Hugging Face dataset, split {split!r}: {error}"
        ) from error
    return open_hf_dataset(dataset, name=name)


def open_hf_dataset(dataset: datasets.Dataset, *, name: str | None = None) -> Source:
    """Opens a ``datasets.Dataset`` with one ``Image`` column and one ``ClassLabel`` column.

    Among several columns of a type those called "image" and "label" are taken. The source's identity is the dataset's
    fingerprint, which also changes when the same data is downloaded again.

    Args:
        dataset: The dataset, one split.
        name: The source's name in the manifest; None: the dataset's own name.

    Raises:
        SourceError: The columns are missing or ambiguous, or an image has no label.

    Example:
        >>> open_hf_dataset(datasets.load_dataset("cifar10", split="train"))  # doctest: +SKIP
    """
    # older versions of datasets have no "dataset_name"
    name = name or getattr(dataset.info, "dataset_name", None) or type(dataset).__name__
    image_column, label_column = _column(dataset, name, "Image"), _column(dataset, name, "ClassLabel")
    labels = dataset.select_columns([label_column]).with_format("numpy")[:][label_column]
    names = dataset.features[label_column].names
    identity = hashlib.sha256(json.dumps([dataset._fingerprint, image_column, label_column, names]).encode())
    images = dataset.select_columns([image_column]).with_format(None)
    undecoded = copy.copy(dataset.features[image_column])
    undecoded.decode = False
    files = images.cast_column(image_column, undecoded)
    return source_from_labels(
        name,
        labels,
        names,
        partial(_load, images, image_column),
        digest=partial(str, identity.hexdigest()),
        read=partial(_read, files, image_column),
    )


def to_hf_dataset(source: Source) -> datasets.Dataset:
    """A source as a ``datasets.Dataset`` in memory, with columns image (``Image``) and label (``ClassLabel``).

    Raises:
        OptionError: ``datasets`` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise OptionError("to_hf needs Hugging Face's datasets: pip install dap-distill[hf]") from error
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(source.class_names))}
    read = source.read or (lambda index: encode_png(source.pixels(index)))
    columns = {"image": [{"bytes": read(index), "path": None} for index in range(len(source))], "label": source.labels}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _column(dataset: datasets.Dataset, name: str, kind: str) -> str:
    usual_name = {"Image": "image", "ClassLabel": "label"}[kind]
    columns: list[str] = [column for column, feature in dataset.features.items() if type(feature).__name__ == kind]
    if usual_name in columns:
        return usual_name
    if len(columns) == 1:
        return columns[0]
    raise SourceError(
        f"{name}: expected one column of type {kind}, or one called {usual_name!r} among them; found "
        f"{some(columns) or 'none'} in {some(list(dataset.features), 10)}; choose with dataset.select_columns(...)"
    )


def _read(files: datasets.Dataset, column: str, index: int) -> bytes:
    """The bytes of a file: from the dataset itself, or from the path that the dataset gives."""
    file = files[index][column]
    data: bytes | None = file["bytes"]
    return Path(file["path"]).read_bytes() if data is None else data


def _load(images: datasets.Dataset, column: str, index: int) -> Image.Image:
    image: Image.Image = images[index][column]
    return image
