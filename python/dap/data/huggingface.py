"""Sources from Hugging Face ``datasets``: an object that the user made, or the id of a dataset on the hub.

``datasets`` is an extra. An object is known by its type's module, so that only an id imports the library.
"""

from __future__ import annotations

import copy
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from dap.data.from_labels import source_from_labels
from dap.data.image_files import encode_png
from dap.data.names import some
from dap.data.source import Source
from dap.errors import OptionError, SourceError

__all__ = ["is_hf_dataset", "load_hf_dataset", "open_hf_dataset", "to_hf_dataset"]


def is_hf_dataset(thing: object) -> bool:
    """Whether it is a ``datasets.Dataset``; imports nothing."""
    return any(
        kind.__module__ == "datasets.arrow_dataset" and kind.__name__ == "Dataset" for kind in type(thing).__mro__
    )


def load_hf_dataset(name: str, *, split: str) -> Source:
    """Loads a dataset of the hub (or of the local cache) by its id, "org/name".

    Raises:
        SourceError: ``datasets`` is not installed, or finds no such dataset or split.
    """
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"{name!r} is no folder; to read it as a Hugging Face dataset: pip install dap-distill[hf]"
        ) from error
    try:
        dataset = datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{name!r} is no folder, and as a Hugging Face dataset, split {split!r}, it cannot be loaded: {error}"
        ) from error
    return open_hf_dataset(dataset, name=name)


def open_hf_dataset(dataset: Any, *, name: str | None = None) -> Source:
    """Opens a ``datasets.Dataset`` with one ``Image`` column and one ``ClassLabel`` column.

    Where there are several of a kind, those called "image" and "label" are taken. Its identity is the dataset's
    fingerprint, which also changes when the same data is downloaded again.

    Args:
        dataset: The dataset, one split.
        name: What the manifest calls it; None: the dataset's own name.

    Raises:
        SourceError: The columns are missing or ambiguous, or images without a label.

    Example:
        >>> open_hf_dataset(datasets.load_dataset("cifar10", split="train"))  # doctest: +SKIP
    """
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


def to_hf_dataset(source: Source) -> Any:
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


def _column(dataset: Any, name: str, kind: str) -> str:
    usual = {"Image": "image", "ClassLabel": "label"}[kind]
    columns: list[str] = [column for column, feature in dataset.features.items() if type(feature).__name__ == kind]
    if usual in columns:
        return usual
    if len(columns) == 1:
        return columns[0]
    raise SourceError(
        f"{name}: expected one column of type {kind}, or one called {usual!r} among them; found "
        f"{some(columns) or 'none'} in {some(list(dataset.features), 10)}; choose with dataset.select_columns(...)"
    )


def _read(files: Any, column: str, index: int) -> bytes:
    """The bytes of a file: in the dataset itself, or where the dataset says that it is."""
    file = files[index][column]
    data: bytes | None = file["bytes"]
    return Path(file["path"]).read_bytes() if data is None else data


def _load(images: Any, column: str, index: int) -> Image.Image:
    image: Image.Image = images[index][column]
    return image
