"""The files that a shard pattern names: a path, braces, wildcards, a folder's shards of one split, or URLs."""

from __future__ import annotations

import glob
import json
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dap.data.class_list import class_list
from dap.data.download import fetch_all
from dap.data.from_labels import same_in_all
from dap.data.names import some
from dap.data.splits import ALL_SPLIT_NAMES, split_order, splits_in_name, words
from dap.errors import FormatError, SourceError
from dap.storage.checked_json import ANYTHING, read_json

__all__ = [
    "MAX_JSON", "PACKED", "SIDECAR", "check_packed", "class_names_beside", "find_shards", "is_url", "shard_files",
    "shards_of_split",
]  # fmt: skip

logger = logging.getLogger(__name__)

PACKED = "pack.json"  # written by packing: options, class names, provenance, hashes
SHARD_SUFFIXES = (".tar", ".parquet", ".safetensors", ".pt", ".pth")
SIDECAR = "beside.safetensors"  # soft labels or latents of the images; it holds no images
CLASSES = "classes.json"
MAX_JSON = 1 << 26
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_SHARDS = 1 << 20


def is_url(spec: str) -> bool:
    """Whether ``spec`` is a URL as fsspec writes it, ``protocol://…``."""
    return "://" in spec


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern with braces stands for, expanded as a shell does it.

    Raises:
        SourceError: A range runs backwards, or there are more than a million names.

    Example:
        >>> expand_braces("{a,b}-{08..10}.tar")
        ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']
    """
    names = [""]
    position = 0
    for match in [*BRACES.finditer(pattern), None]:
        names = [name + pattern[position : match.start() if match else None] for name in names]
        if match is None:
            return names
        position = match.end()
        if numbers := RANGE.fullmatch(match[1]):
            first, last, width = int(numbers[1]), int(numbers[2]), len(numbers[1])
            if not 0 <= last - first < MAX_SHARDS // len(names):
                raise SourceError(f"{pattern}: expected a range that runs forwards to at most {MAX_SHARDS} names")
            parts = [f"{number:0{width}d}" for number in range(first, last + 1)]
        else:
            parts = match[1].split(",")
        names = [name + part for name in names for part in parts]
    return names


def find_shards(spec: str) -> list[Path]:
    """The local files of one or more shards; shards at URLs are downloaded into the cache first.

    Args:
        spec: A path or URL; braces (``{000000..000099}``) and, in a path, wildcards are expanded, but for those in the
            name of a file or folder that exists.

    Raises:
        SourceError: A file is missing, or cannot be downloaded (:mod:`dap.data.download`).
    """
    if is_url(spec):
        return fetch_all(expand_braces(spec), beside=(PACKED, CLASSES))
    path = Path(spec).expanduser()
    base = _literal_folder(path)
    pattern = str(path.relative_to(base))
    names = [pattern] if path.is_file() else expand_braces(pattern)  # braces may belong to the file's name
    files = [file for name in names for file in _local_files(base, name)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise SourceError(f"{spec}: expected files, found none called {some(missing or [spec])}")
    return files


def _literal_folder(path: Path) -> Path:
    """The deepest folder of a path that exists as it is written: brackets and braces in it mean themselves."""
    return next((parent for parent in path.parents if parent.is_dir()), path.parent)


def _local_files(folder: Path, name: str) -> list[Path]:
    """The files in a folder that a name stands for: that of the name itself, or those that it matches as a pattern."""
    if (folder / name).exists() or not glob.has_magic(name):
        return [folder / name]
    return [folder / match for match in sorted(glob.glob(name, root_dir=folder))]


def shard_files(folder: Path) -> list[Path]:
    """The shards in a folder, of all formats, sorted."""
    with suppress(OSError):
        names = sorted(name for name in os.listdir(folder) if name.endswith(SHARD_SUFFIXES) and name[0] != ".")
        return [folder / name for name in names if name != SIDECAR and (folder / name).is_file()]
    return []


def shards_of_split(folder: Path, suffix: str, split: str) -> list[Path]:
    """The shards of a folder with this suffix, sorted; where names state splits, only those of ``split``.

    A name may state its split at any place, as in ``imagenet1k-train-0000.tar``.

    Raises:
        SourceError: There are only other splits, or the name of a shard states two.
    """
    files = [file for file in shard_files(folder) if file.name.endswith(suffix)]
    if split not in ALL_SPLIT_NAMES and (own := [file for file in files if split.casefold() in words(file.stem)]):
        return own
    splits = {file: splits_in_name(file.stem) for file in files}
    unclear = [file.name for file, names in splits.items() if len(names) > 1]
    if unclear:
        raise SourceError(
            f"{folder}: expected one split in the name of each shard, found several in {some(unclear)}; open the "
            f"shards of one split by a pattern, such as {folder}/*{suffix}"
        )
    present = sorted({name for names in splits.values() for name in names})
    if not present:
        return files
    for key in split_order(split):
        if chosen := [file for file, names in splits.items() if names == [key]]:
            if unnamed := [file.name for file, names in splits.items() if not names]:
                logger.warning("%s: not read, since their names state no split: %s", folder, some(unnamed))
            return chosen
    raise SourceError(f"{folder}: expected shards for split {split!r}, found those of {some(present)}")


def class_names_beside(shards: Sequence[Path]) -> list[str] | None:
    """Class names by label from the ``pack.json`` or ``classes.json`` in the shards' folder; None if it has neither.

    Raises:
        FormatError: A file is damaged or holds something else.
        SourceError: Shards of several folders have different class names.
    """
    one_of_each = {shard.parent: shard for shard in shards}
    return same_in_all("class names", [(folder, _class_names(shard)) for folder, shard in one_of_each.items()])


def _class_names(shard: Path) -> list[str] | None:
    """Class names beside one shard.

    ``classes.json`` is a list of names, an object of label to name, or an object of name to label.

    Raises:
        FormatError: The file is damaged or holds something else.
    """
    for name in (PACKED, CLASSES):
        path = shard.with_name(name)
        if not path.is_file():
            continue
        try:
            if path.stat().st_size > MAX_JSON:
                raise ValueError(f"{path.stat().st_size} bytes")
            content = json.loads(path.read_bytes())
            return class_list(
                content["class_names"] if isinstance(content, dict) and "class_names" in content else content
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(
                f"{path}: expected class names, a list or an object of label to name or name to label "
                f"({type(error).__name__}: {error})"
            ) from error
    return None


def check_packed(folder: Path) -> None:
    """Raise if a packing into the folder was begun and not finished.

    Raises:
        SourceError: It says how to continue.
        FormatError: The record of the packing is damaged.
    """
    with suppress(FileNotFoundError):
        record = read_json(folder / PACKED, ANYTHING, most=MAX_JSON)
        if isinstance(record, dict) and record.get("status") == "running":
            raise SourceError(
                f"{folder}: the packing there was not finished; run the same command again to continue it"
            )
