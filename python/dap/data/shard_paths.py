"""Which files a name of shards stands for: one file, a folder, a pattern with braces or wildcards, or URLs.

Shards that are elsewhere are fetched once, through ``fsspec`` (an extra), into the cache, and read from there.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from dap.data.names import some
from dap.errors import FormatError, SourceError
from dap.storage.cache import SHARDS, cache_folder
from dap.storage.files import atomic_path

__all__ = ["BESIDE", "PACKED", "class_names_beside", "find_shards", "is_url", "shards_of_split"]

PACKED = "pack.json"  # what packing writes beside the shards
BESIDE = "beside.safetensors"  # tensors that go with the images, and are none
CLASSES = "classes.json"
MAX_JSON = 1 << 26
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_SHARDS = 1 << 20
SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}


def is_url(spec: str) -> bool:
    """Whether it names files elsewhere, as fsspec writes them: ``protocol://…``."""
    return "://" in spec


def expand_braces(pattern: str) -> list[str]:
    """All names that a pattern with braces stands for, as a shell has it.

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
    """The local files of one or more shards; those of URLs are fetched into the cache first.

    Args:
        spec: A path or URL; braces (``{000000..000099}``) and, in a path, wildcards are expanded.

    Raises:
        SourceError: A file is missing, or fsspec is, or cannot fetch.
    """
    names = expand_braces(spec)
    if is_url(spec):
        new = [name for name in names if not _kept(name).is_file()]
        fetched = [_fetch(name) for name in names]
        for folder in dict.fromkeys(name.rpartition("/")[0] for name in new):
            for beside in (PACKED, CLASSES):  # the class names, where there are some
                with suppress(SourceError):
                    _fetch(f"{folder}/{beside}")
                    break
        return fetched
    files: list[Path] = []
    for name in names:
        found = sorted(glob.glob(str(Path(name).expanduser()))) if glob.has_magic(name) else [name]
        files += [Path(path).expanduser() for path in found]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise SourceError(f"{spec}: expected files, found none called {some(missing or [spec])}")
    return files


def shards_of_split(folder: Path, suffix: str, split: str) -> list[Path]:
    """The files of a folder with this suffix, sorted; where names begin with a split, those of ``split`` alone.

    Raises:
        SourceError: There are only other splits.
    """
    files = sorted(file for file in folder.glob(f"*{suffix}") if not (file.name.startswith(".") or file.name == BESIDE))
    by_split = {name: [file for file in files if re.match(rf"{name}\b|{name}_", file.name)] for name in _all_splits()}
    if not any(by_split.values()):
        return files
    for name in SPLITS.get(split, (split,)):
        if found := by_split.get(name):
            return found
    there = [name for name, found in by_split.items() if found]
    raise SourceError(f"{folder}: no shards for split {split!r}; it has {some(there)}")


def _all_splits() -> list[str]:
    return [name for names in SPLITS.values() for name in names]


def class_names_beside(file: Path) -> list[str] | None:
    """Class names by label from ``pack.json`` or ``classes.json`` in the folder of a shard; None where neither is.

    ``classes.json`` is a list of names, or an object of label to name or of name to label.

    Raises:
        FormatError: It is something else.
    """
    for name in (PACKED, CLASSES):
        path = file.with_name(name)
        if not path.is_file():
            continue
        try:
            if path.stat().st_size > MAX_JSON:
                raise ValueError(f"{path.stat().st_size} bytes")
            return _names(json.loads(path.read_bytes()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(
                f"{path}: expected class names, a list or an object of label to name or name to label "
                f"({type(error).__name__}: {error})"
            ) from error
    return None


def _names(value: Any) -> list[str]:
    if isinstance(value, dict) and isinstance(value.get("class_names"), list):
        value = value["class_names"]
    if isinstance(value, dict):
        pairs = [(int(key), name) if isinstance(name, str) else (int(name), key) for key, name in value.items()]
        by_label = dict(pairs)
        value = [by_label[label] for label in range(len(pairs))]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise ValueError("not all labels from 0 on have a name that is text")
    return value


def _kept(url: str) -> Path:
    """Where the copy of a URL is: in the cache, beside others of its folder."""
    folder, _, name = url.rpartition("/")
    return cache_folder() / SHARDS / hashlib.sha256(folder.encode()).hexdigest()[:16] / name


def _fetch(url: str) -> Path:
    """A local copy of what a URL gave when it was first asked for."""
    kept = _kept(url)
    if kept.is_file():
        return kept
    try:
        import fsspec
    except ImportError as error:
        raise SourceError(f"{url}: to read shards from URLs: pip install dap-distill[remote]") from error
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_path(kept) as temporary, fsspec.open(url, "rb") as remote, temporary.open("xb") as local:
            shutil.copyfileobj(remote, local, 1 << 20)
    except Exception as error:  # each protocol of fsspec has errors of its own
        raise SourceError(f"{url}: cannot be fetched ({type(error).__name__}: {error})") from error
    return kept
