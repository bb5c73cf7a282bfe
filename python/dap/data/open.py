"""``dap.open_source``: opens labelled images of any kind, and recognises which kind it is."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, Union

from dap.config import check_path
from dap.data.builtin import BUILTIN, open_builtin, open_idx_folder
from dap.data.folder import open_folder
from dap.data.huggingface import (
    is_hf_dataset,
    is_saved_dataset,
    load_hf_dataset,
    open_hf_dataset,
    open_saved_dataset,
)
from dap.data.layout import find_split
from dap.data.parquet import open_parquet
from dap.data.run_images import images_of_run, run_of
from dap.data.shard_paths import check_packed, find_shards, is_url, shard_files, shards_of_split
from dap.data.source import Source
from dap.data.tensors import TENSOR_SUFFIXES, open_tensors
from dap.data.torch_dataset import open_torch_dataset
from dap.data.webdataset import open_webdataset
from dap.errors import OptionError, SourceError

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = ["SourceLike", "check_outside", "open_source"]

SourceLike: TypeAlias = Union[Source, str, Path, "Dataset[object]"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class OpenShards(Protocol):
    """A function that opens shards of one format."""

    def __call__(self, files: Sequence[Path], /, *, name: str) -> Source:
        """Opens the files; ``name`` is the source's name in the manifest."""


OPENERS: Mapping[str, OpenShards] = {
    ".tar": open_webdataset,
    ".parquet": open_parquet,
    **dict.fromkeys(TENSOR_SUFFIXES, open_tensors),
}
ACCEPTED = (
    "a folder (one folder per class, idx files, shards, or what save_to_disk of datasets wrote), "
    f"shards (paths or URLs that end in {', '.join(OPENERS)}), "
    f"a built-in name ({', '.join(BUILTIN)}), "
    "a Hugging Face dataset or its id (org/name), or a torch map-style Dataset of (image, label)"
)


def open_source(
    spec: SourceLike,
    *,
    split: str = "train",
    classes: Collection[str] | None = None,
    label_column: str | None = None,
) -> Source:
    """Opens labelled images as a :class:`dap.data.source.Source`.

    Names and labels are read at once; an image is decoded when it is used.

    Args:
        spec: One of

            * a folder with one folder per class, with MNIST's four idx files, with shards, or one that
              ``save_to_disk`` of ``datasets`` wrote;
            * shards (WebDataset ``.tar``, ``.parquet``, ``.safetensors``, ``.pt``): a path, in which braces
              (``{000000..000099}``) and wildcards are expanded, or a URL, in which braces are;
            * a built-in name, "fashion-mini" or "fashion-mnist" (write ``./fashion-mini`` for a folder of that name);
            * the id "org/name" of a Hugging Face dataset, if there is no folder "org";
            * a ``datasets.Dataset``, a torch map-style ``Dataset`` of (image, label), or a source, which is returned.
        split: The split to open, if there are several. "train", "test" and "validation" also find a split that is
            stored by another of its names (:mod:`dap.data.splits`), such as ``Training`` or ``valid``, and "test" finds
            the validation split where there is no labelled test split.
        classes: Names of the classes to keep; None: all.
        label_column: The column of labels of Parquet files or a Hugging Face dataset, where several can be meant.

    Returns:
        The source. It has at least one class, and at least one image of each.

    Raises:
        SourceError: Nothing is there, it is empty, or its kind is unknown.
        FormatError: A file is damaged.
        OptionError: A class, split or column is unknown, or ``label_column`` is given for a source without columns.

    Example:
        >>> import dap
        >>> source = dap.open_source("fashion-mini", classes=["Dress", "Bag"])
        >>> source.class_names, len(source)
        (('Dress', 'Bag'), 2000)
        >>> source.images([0, 1], size=32, channels=1).shape
        (2, 1, 32, 32)
    """
    source = _open(spec, split, label_column)
    if label_column is not None:
        source = replace(source, name=f"{source.name} ({label_column})")  # a manifest says which labels were used
    return source if classes is None else source.subset(classes)


def _open(spec: SourceLike, split: str, label_column: str | None) -> Source:
    if isinstance(spec, str | Path):
        return _open_named(spec, split, label_column)
    if is_hf_dataset(spec):
        return open_hf_dataset(spec, label_column=label_column)
    _refuse_column(label_column, type(spec).__name__)
    if isinstance(spec, Source):
        return spec
    torch_data = sys.modules.get("torch.utils.data")  # imported already if ``spec`` is a torch Dataset
    if torch_data is not None and isinstance(spec, torch_data.Dataset):
        return open_torch_dataset(spec)
    raise SourceError(f"cannot read images from a {type(spec).__module__}.{type(spec).__name__}; expected {ACCEPTED}")


def _opener(suffix: str, label_column: str | None) -> OpenShards | None:
    """The function that opens shards of a suffix; None if no format has it."""
    if suffix == ".parquet":
        return partial(open_parquet, label_column=label_column)
    if suffix in OPENERS:
        _refuse_column(label_column, f"a {suffix} file")
    return OPENERS.get(suffix)


def _refuse_column(label_column: str | None, what: object) -> None:
    if label_column is not None:
        raise OptionError(
            f"label column {label_column!r}: only Parquet files and Hugging Face datasets have columns, {what} has none"
        )


def _open_named(spec: str | Path, split: str, label_column: str | None) -> Source:
    if isinstance(spec, str) and spec in BUILTIN:
        _refuse_column(label_column, spec)
        return open_builtin(spec, split=split)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_directory(path, split, label_column)
    if open_shards := _opener(path.suffix, label_column):
        shards = find_shards(str(spec))
        for folder in {shard.parent for shard in shards}:
            check_packed(folder)
        return open_shards(shards, name=str(spec))
    # if there is a folder "data", then "data/trian" is a mistyped path and not the id of a dataset
    if isinstance(spec, str) and HUB_ID.fullmatch(spec) and not path.parent.exists():
        return load_hf_dataset(spec, split=split, label_column=label_column)
    if is_url(str(spec)):
        raise SourceError(f"cannot open {str(spec)!r}: expected a name that ends in {', '.join(OPENERS)}")
    near = difflib.get_close_matches(str(spec), BUILTIN, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    kind = "is a file" if path.exists() else "no such folder"
    raise SourceError(f"cannot open the source {str(spec)!r}: {kind}{hint}; expected {ACCEPTED}")


def _open_directory(path: Path, split: str, label_column: str | None) -> Source:
    if is_saved_dataset(path):
        return open_saved_dataset(path, split=split, label_column=label_column)
    run = run_of(path)
    check_packed(path)
    folder, holding = find_split(path, split)
    if run is not None:
        _refuse_column(label_column, path)
        return images_of_run(open_folder(path, tree=folder), path, *run)
    suffixes = {file.suffix for file in shard_files(folder)} if holding == "shards" else set()
    for suffix in OPENERS:
        if suffix in suffixes and (open_shards := _opener(suffix, label_column)):
            return open_shards(shards_of_split(folder, suffix, split), name=str(path))
    _refuse_column(label_column, path)
    if holding == "idx":
        return open_idx_folder(folder, split=split, name=str(path))
    return open_folder(path, tree=folder)


def check_outside(out: Path, source: object) -> None:
    """Raise OptionError if ``out`` is the folder of the source or in it: what is written would change the source."""
    name = source.name if isinstance(source, Source) else source
    if not isinstance(name, str | Path) or name in BUILTIN:
        return
    folder = check_path("source", name)
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise OptionError(f"out: {str(out)!r} is in the source's folder {str(folder)!r}: choose one outside of it")
