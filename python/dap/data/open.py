"""One door to every source: a folder, a built-in name, a torch ``Dataset``, a Hugging Face dataset or its id."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from dap.data.builtin import BUILTIN, is_idx_folder, open_builtin, open_idx_folder
from dap.data.folder import open_folder
from dap.data.huggingface import is_hf_dataset, load_hf_dataset, open_hf_dataset
from dap.data.parquet import open_parquet
from dap.data.shard_paths import find_shards, is_url, shards_of_split
from dap.data.source import Source
from dap.data.tensors import TENSOR_SUFFIXES, open_tensors
from dap.data.torch_dataset import open_torch_dataset
from dap.data.webdataset import open_webdataset
from dap.errors import SourceError

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = ["SourceLike", "open_source"]

SourceLike: TypeAlias = Union[Source, str, Path, "Dataset[Any]"]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
OPENERS: Mapping[str, Callable[..., Source]] = {
    ".tar": open_webdataset,
    ".parquet": open_parquet,
    **dict.fromkeys(TENSOR_SUFFIXES, open_tensors),
}
ACCEPTED = (
    f"a folder (one folder per class, idx files, or shards), shards (paths or URLs that end in {', '.join(OPENERS)}), "
    f"a built-in name ({', '.join(BUILTIN)}), "
    "a Hugging Face dataset or its id (org/name), or a torch map-style Dataset of (image, label)"
)


def open_source(spec: SourceLike, *, split: str = "train", classes: Collection[str] | None = None) -> Source:
    """Opens labelled images. Reads names and labels; images are decoded when they are asked for.

    Args:
        spec: A folder with one folder per class, with MNIST's four idx files, or with shards; shards by themselves
            (WebDataset ``.tar``, ``.parquet``, ``.safetensors``, ``.pt``): a path or URL, in which braces
            (``{000000..000099}``) and, in a path, wildcards are expanded; a built-in name (which comes before a
            folder of that name: write ``./fashion-mini`` for the folder); a ``datasets.Dataset``; the id ``"org/name"``
            of a Hugging Face dataset, if there is no folder of that name; a torch map-style ``Dataset``; or a source.
        split: Which split, where ``spec`` names several.
        classes: Names of the classes to keep; None: all.

    Returns:
        The source, with at least one class and at least one image in each.

    Raises:
        SourceError: Nothing is there, it is empty, or its kind is unknown.
        FormatError: A file is damaged.
        OptionError: An unknown class or split.

    Example:
        >>> open_source("fashion-mini", classes=["Dress", "Bag"]).class_names
        ('Dress', 'Bag')
    """
    source = _open(spec, split)
    return source if classes is None else source.subset(classes)


def _open(spec: Any, split: str) -> Source:
    if isinstance(spec, Source):
        return spec
    if isinstance(spec, str | Path):
        return _open_named(spec, split)
    if is_hf_dataset(spec):
        return open_hf_dataset(spec)
    torch_data = sys.modules.get("torch.utils.data")  # whoever holds a torch Dataset has imported this
    if torch_data is not None and isinstance(spec, torch_data.Dataset):
        return open_torch_dataset(spec)
    raise SourceError(f"cannot read images from a {type(spec).__module__}.{type(spec).__name__}; expected {ACCEPTED}")


def _open_named(spec: str | Path, split: str) -> Source:
    if isinstance(spec, str) and spec in BUILTIN:
        return open_builtin(spec, split=split)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _open_directory(path, split)
    if open_shards := OPENERS.get(path.suffix):
        return open_shards(find_shards(str(spec)), name=str(spec))
    # "data/trian" is a slip in a path, not a dataset's id, if there is a folder "data"
    if isinstance(spec, str) and HUB_ID.fullmatch(spec) and not path.parent.exists():
        return load_hf_dataset(spec, split=split)
    if is_url(str(spec)):
        raise SourceError(f"cannot open {str(spec)!r}: expected a name that ends in {', '.join(OPENERS)}")
    near = difflib.get_close_matches(str(spec), BUILTIN, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    kind = "is a file" if path.exists() else "no such folder"
    raise SourceError(f"cannot open the source {str(spec)!r}: {kind}{hint}; expected {ACCEPTED}")


def _open_directory(path: Path, split: str) -> Source:
    if is_idx_folder(path):
        return open_idx_folder(path, split=split)
    for suffix, open_shards in OPENERS.items():
        if shards := shards_of_split(path, suffix, split):
            return open_shards(shards, name=str(path))
    return open_folder(path, split=split)
