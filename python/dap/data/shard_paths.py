"""The files that a shard pattern names: a path, braces, wildcards, a folder's shards of one split, or URLs.

Shards at URLs are downloaded once, by ``fsspec`` (an extra), into the cache, and read from there.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dap.data.class_list import class_list
from dap.data.from_labels import same_in_all
from dap.data.names import some
from dap.data.splits import ALL_SPLIT_NAMES, split_names
from dap.errors import FormatError, SourceError
from dap.storage.cache import SHARDS, CacheEntry, cache_folder

__all__ = ["PACKED", "SIDECAR", "class_names_beside", "find_shards", "is_url", "shards_of_split"]

PACKED = "pack.json"  # written by packing: options, class names, provenance, hashes
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
        spec: A path or URL; braces (``{000000..000099}``) and, in a path, wildcards are expanded.

    Raises:
        SourceError: A file is missing, fsspec is not installed, or the download fails.
    """
    names = expand_braces(spec)
    if is_url(spec):
        new = [name for name in names if not _cached(name).exists()]
        fetched = [_fetch(name) for name in names]
        for folder in dict.fromkeys(name.rpartition("/")[0] for name in new):
            for name in (PACKED, CLASSES):  # they have the class names; a set may have neither
                with suppress(SourceError):
                    _fetch(f"{folder}/{name}")
                    break
        return fetched
    files: list[Path] = []
    for name in names:
        paths = sorted(glob.glob(str(Path(name).expanduser()))) if glob.has_magic(name) else [name]
        files += [Path(path).expanduser() for path in paths]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise SourceError(f"{spec}: expected files, found none called {some(missing or [spec])}")
    return files


def shards_of_split(folder: Path, suffix: str, split: str) -> list[Path]:
    """The files of a folder with this suffix, sorted; where file names begin with a split, only those of ``split``.

    Raises:
        SourceError: There are only other splits.
    """
    files = sorted(file for file in folder.glob(f"*{suffix}") if file.name[0] != "." and file.name != SIDECAR)
    by_split = {name: [file for file in files if re.match(rf"{name}\b|{name}_", file.name)] for name in ALL_SPLIT_NAMES}
    if not any(by_split.values()):
        return files
    for name in split_names(split):
        if split_files := by_split.get(name):
            return split_files
    present = [name for name, split_files in by_split.items() if split_files]
    raise SourceError(f"{folder}: no shards for split {split!r}; it has {some(present)}")


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


def _cached(url: str) -> CacheEntry:
    """Return the cache's entry of a URL: in one folder with others from the same remote folder."""
    folder, _, name = url.rpartition("/")
    return CacheEntry(cache_folder() / SHARDS / hashlib.sha256(folder.encode()).hexdigest()[:16] / name)


def _fetch(url: str) -> Path:
    """Download a file unless the cache has it; return the path of the copy."""
    entry = _cached(url)
    if entry.exists():
        return entry.path
    try:
        import fsspec
    except ImportError as error:
        raise SourceError(f"{url}: to read shards from URLs: pip install dap-distill[remote]") from error
    with entry.new_file() as temporary:
        try:
            with fsspec.open(url, "rb") as remote, temporary.open("xb") as local:
                shutil.copyfileobj(remote, local, 1 << 20)
        except Exception as error:  # each protocol of fsspec raises its own errors
            raise SourceError(f"{url}: cannot be fetched ({type(error).__name__}: {error})") from error
    return entry.path
