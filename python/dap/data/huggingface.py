"""Sources from Hugging Face ``datasets``: an object that the user made, or the id of a dataset on the hub.

``datasets`` is an extra. An object is recognised by its type's module, so that only an id imports the library.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from dap.data.columns import choose_column, holds_labels, read_labels
from dap.data.from_labels import source_from_labels
from dap.data.image_files import encode_png
from dap.data.source import Source
from dap.data.splits import split_names
from dap.errors import FormatError, OptionError, SourceError

if TYPE_CHECKING:
    import datasets

__all__ = ["is_hf_dataset", "load_hf_dataset", "open_hf_dataset", "to_hf_dataset"]

KINDS = ("Image", "ClassLabel")
UNKNOWN_SPLIT = "Unknown split"  # how the message of datasets begins; its class is a plain ValueError


def is_hf_dataset(value: object) -> bool:
    """Whether ``value`` is a ``datasets.Dataset``; does not import the library."""
    return any(
        kind.__module__ == "datasets.arrow_dataset" and kind.__name__ == "Dataset" for kind in type(value).__mro__
    )


def load_hf_dataset(name: str, *, split: str, label_column: str | None = None) -> Source:
    """Loads a dataset of the hub (or of the local cache) by its id, "org/name".

    Args:
        name: The id.
        split: The split; other names of it (:func:`dap.data.splits.split_names`) are tried in turn.
        label_column: See :func:`open_hf_dataset`.

    Raises:
        SourceError: ``datasets`` is not installed, there is no such dataset or split, or it cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"{name!r} is not a folder; to read it as a Hugging Face dataset: pip install 'dap-distill[hf]'"
        ) from error
    errors = []
    for candidate in split_names(split):
        try:
            dataset = datasets.load_dataset(name, split=candidate)
        except MemoryError:
            raise
        except Exception as error:  # of datasets, of the hub, of the network, of the formats of the files
            errors.append(error)
            if not str(error).startswith(UNKNOWN_SPLIT):
                break
        else:
            return open_hf_dataset(dataset, name=name, label_column=label_column)
    raise SourceError(
        f"{name!r} is not a folder, and cannot be loaded as a Hugging Face dataset, split {split!r} "
        f"({type(errors[-1]).__name__}: {errors[-1]}); check the id and the split; a set that datasets cannot load can "
        "be downloaded and opened as a folder of Parquet files"
    ) from errors[-1]


def open_hf_dataset(dataset: datasets.Dataset, *, name: str | None = None, label_column: str | None = None) -> Source:
    """Opens a ``datasets.Dataset`` with a column of images and a column of labels.

    The image column is ``image``, or the only one of type ``Image``; the label column is ``label``, or the only
    ``ClassLabel``, or the only one of integers, booleans or text. The source's identity is the dataset's fingerprint,
    which also changes when the same data is downloaded again.

    Args:
        dataset: The dataset, one split.
        name: The source's name in the manifest; None: the dataset's own name.
        label_column: The label column, where several can be meant.

    Raises:
        OptionError: There is no such ``label_column``.
        SourceError: The columns are missing or ambiguous, or an image has no label.

    Example:
        >>> open_hf_dataset(datasets.load_dataset("cifar10", split="train"))  # doctest: +SKIP
    """
    # older versions of datasets have no "dataset_name"
    name = name or getattr(dataset.info, "dataset_name", None) or type(dataset).__name__
    features, schema = dataset.features, dataset.features.arrow_schema
    declared = {kind: [key for key in features if type(features[key]).__name__ == kind] for kind in KINDS}
    images_of, labels_of = declared["Image"], [field.name for field in schema if holds_labels(field.type)]
    image_column = choose_column(name, "image", schema, images_of, images_of)
    label_column = choose_column(name, "label", schema, declared["ClassLabel"], labels_of, label_column)
    table = dataset.select_columns([label_column]).with_format("arrow")[:]
    labels = read_labels(name, label_column, table[label_column])
    names = getattr(features[label_column], "names", None)  # of a ClassLabel
    identity = hashlib.sha256(json.dumps([dataset._fingerprint, image_column, label_column, names]).encode())
    images = dataset.select_columns([image_column]).with_format(None)
    undecoded = copy.copy(features[image_column])
    undecoded.decode = False
    files = images.cast_column(image_column, undecoded)
    source = source_from_labels(
        name,
        labels,
        names,
        partial(_load, images, image_column),
        digest=partial(str, identity.hexdigest()),
        read=partial(_read, files, image_column),
    )
    return replace(source, license=(dataset.info.license or "").strip() or None)


def to_hf_dataset(source: Source) -> datasets.Dataset:
    """A source as a ``datasets.Dataset`` in memory, with columns image (``Image``) and label (``ClassLabel``).

    Raises:
        OptionError: ``datasets`` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise OptionError("to_hf needs Hugging Face's datasets: pip install 'dap-distill[hf]'") from error
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(source.class_names))}
    read = source.read or (lambda index: encode_png(source.pixels(index)))
    columns = {"image": [{"bytes": read(index), "path": None} for index in range(len(source))], "label": source.labels}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _read(files: datasets.Dataset, column: str, index: int) -> bytes:
    """The bytes of a file: from the dataset itself, or from the path that the dataset gives."""
    file = files[index][column]
    if file is None:
        raise FormatError(f"row {index} has no image")
    data: bytes | None = file["bytes"]
    return Path(file["path"]).read_bytes() if data is None else data


def _load(images: datasets.Dataset, column: str, index: int) -> Image.Image:
    image: Image.Image = images[index][column]
    return image
