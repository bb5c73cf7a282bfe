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
from dap.data.names import some
from dap.data.source import Source
from dap.data.splits import ALL_SPLIT_NAMES, split_names
from dap.data.tree import subfolders
from dap.errors import DapError, FormatError, OptionError, SourceError

if TYPE_CHECKING:
    import datasets

__all__ = [
    "is_hf_dataset", "is_saved_dataset", "load_hf_dataset", "open_hf_dataset", "open_saved_dataset", "to_hf_dataset",
]  # fmt: skip

KINDS = ("Image", "ClassLabel")
SPLITS, SAVED = "dataset_dict.json", ("state.json", "dataset_info.json")  # of save_to_disk
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


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by ``save_to_disk`` of ``datasets``, or has such folders for splits."""
    return _is_saved(folder) or bool(_saved_splits(folder))


def open_saved_dataset(folder: Path, *, split: str, label_column: str | None = None) -> Source:
    """Opens what ``save_to_disk`` of ``datasets`` wrote.

    Args:
        folder: The folder of a ``Dataset``, or one with a folder for each split, as of a ``DatasetDict``.
        split: The split, if there are several; other names of it are tried in turn.
        label_column: See :func:`open_hf_dataset`.

    Raises:
        SourceError: ``datasets`` is not installed, or there is no such split.
        FormatError: The files cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise SourceError(f"{folder}: written by datasets, which reads it: pip install 'dap-distill[hf]'") from error
    place = folder
    if not _is_saved(folder):
        splits = _saved_splits(folder)
        found = next((splits[name] for name in (*split_names(split), split.casefold()) if name in splits), None)
        if found is None:
            raise SourceError(f"{folder}: has no split {split!r}, it has {some(sorted(splits.values()))}")
        place = folder / found
    if odd := [path.name for path in place.iterdir() if not path.is_file() and not path.is_dir()]:
        raise FormatError(f"{place}: expected files, got something else: {some(odd)}")
    try:
        dataset = datasets.load_from_disk(str(place))
        return open_hf_dataset(dataset, name=str(folder), label_column=label_column)
    except (DapError, MemoryError):
        raise
    except Exception as error:  # of datasets, of Arrow, of a file that somebody else wrote
        reason = f"{type(error).__name__}: {error}"
        raise FormatError(f"{place}: datasets cannot read it ({reason}); save it anew") from error


def _is_saved(folder: Path) -> bool:
    return all((folder / name).is_file() for name in SAVED)


def _saved_splits(folder: Path) -> dict[str, str]:
    """Return the names of the folders that hold a split, by the name in lower case."""
    known = None if (folder / SPLITS).is_file() else ALL_SPLIT_NAMES
    names = {name.casefold(): name for name in subfolders(folder)}
    return {key: name for key, name in names.items() if (known is None or key in known) and _is_saved(folder / name)}


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
