"""The bound of the cache, ``$DAP_CACHE_SIZE``, and what killed processes left in it.

When the cache would become larger than its bound, the entries that were not used for the longest time are removed, but
none that a run uses. Without ``$DAP_CACHE_SIZE`` nothing is removed.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dap.errors import OptionError
from dap.storage.cache_folder import HASHED, HASHES, KINDS, RUNS, SHARDS, bytes_of, cache_folder
from dap.storage.cache_use import hold_cache, used_by_runs, wait_for_lock
from dap.storage.lock import NEW, Hold, lock
from dap.storage.processes import process_is_alive, temporary_owner

__all__ = [
    "UNFINISHED",
    "CachedPath",
    "cache_in_use",
    "cache_limit",
    "cached_paths",
    "make_room",
    "record_of",
    "remove",
]

UNFINISHED = ".unfinished"  # the end of the name of a folder that another process can continue
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
OLD_SECONDS = 86400.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedPath:
    """A file or folder in the cache: an entry, or one that is being made.

    Attributes:
        path: Where it lies.
        bytes: Its size.
        used: When it was last used, in seconds since 1970.
    """

    path: Path
    bytes: int
    used: float

    @property
    def entry(self) -> Path:
        """The path of the entry, which may not be finished."""
        return self.path.with_name(self.path.name.removesuffix(UNFINISHED))

    @property
    def being_made(self) -> bool:
        """Whether it is no entry yet."""
        return self.path.name.startswith(NEW) or self.path.name.endswith(UNFINISHED)


def cache_limit() -> int | None:
    """Return the bytes that the cache may have, ``$DAP_CACHE_SIZE``; None if it is not set.

    Raises:
        OptionError: It is not a number with a unit.

    Example:
        >>> os.environ["DAP_CACHE_SIZE"] = "50GB"  # doctest: +SKIP
        >>> cache_limit()  # doctest: +SKIP
        50000000000
    """
    text = os.environ.get("DAP_CACHE_SIZE", "").strip()
    if not text:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", text.upper())
    if match is None or match[2] not in UNITS:
        raise OptionError(f"DAP_CACHE_SIZE: expected a size such as 50GB or 500MB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2]])


@contextmanager
def cache_in_use() -> Iterator[None]:
    """Keep the entries that the block uses until it ends; first remove what dead processes left.

    Raises:
        OptionError: ``$DAP_CACHE_SIZE`` is not a size.
    """
    cache_limit()
    with hold_cache() as held:
        if held:
            _sweep()
        yield
    if held:
        make_room()


def cached_paths() -> list[CachedPath]:
    """Return all entries and what is being made, the one that was not used for the longest time first."""
    found = []
    for path in _paths():
        with suppress(OSError):  # another process has just removed it
            found.append(CachedPath(path, bytes_of(path), path.stat().st_mtime))
    return sorted(found, key=lambda cached: (cached.used, cached.path))


def make_room(need: int = 0, subject: str = "", advice: str = "", *, keep: Path | None = None) -> None:
    """Remove entries that no run uses until the cache, with some bytes more, is within its bound.

    Args:
        need: The bytes that will be written; with 0, what runs use may be more than the bound.
        subject: What they are, with its verb.
        advice: What to do if they do not fit.
        keep: An entry that is not removed: the one that was just made.

    Raises:
        OptionError: They do not fit beside the entries that runs use; nothing is removed.
    """
    limit = cache_limit()
    if limit is None:
        return
    cached, used = cached_paths(), used_by_runs()
    total = sum(one.bytes for one in cached)
    held = sum(one.bytes for one in cached if _is_used(one, used))
    if need and need + held > limit:
        raise OptionError(
            f"{subject} {need / 1e6:,.1f} MB, and DAP_CACHE_SIZE allows {limit / 1e6:,.1f} MB, of which runs use "
            f"{held / 1e6:,.1f} MB now: {advice}, or set DAP_CACHE_SIZE to more"
        )
    removed, freed = 0, 0
    for one in cached:
        if total - freed + need <= limit:
            break
        if one.path != keep and _remove_unused(one):
            removed, freed = removed + 1, freed + one.bytes
    if removed:
        logger.info(
            "%d entries of the cache removed, %.1f MB, which were not used for the longest time (DAP_CACHE_SIZE)",
            removed, freed / 1e6,
        )  # fmt: skip


def record_of(entry: Path) -> Path:
    """Return the path of the file with the hash of an entry."""
    return cache_folder() / HASHES / f"{entry.parent.name}-{entry.name}"


def remove(path: Path) -> None:
    """Delete a file or folder of the cache, if it is there, and the record of its hash."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
    with suppress(OSError):
        record_of(path).unlink()


def _paths() -> Iterator[Path]:
    for kind in KINDS:
        folder = cache_folder() / kind
        if kind in (HASHED, RUNS) or not folder.is_dir():
            continue  # they are nearly empty
        yield from folder.glob("*/*" if kind == SHARDS else "*")


def _is_used(cached: CachedPath, used: set[Path]) -> bool:
    if cached.entry in used:
        return True
    if not cached.being_made:
        return False
    hold = _free(cached.path)
    if hold is not None:
        hold.close()
    return hold is None


def _free(path: Path) -> Hold | None:
    """Return a lock on what is being made; None if a process that is alive makes it, or there are no locks."""
    try:
        return lock(path)
    except OSError:  # it is locked, or gone
        return None


def _remove_unused(cached: CachedPath) -> bool:
    """Remove an entry unless a run uses it; return whether it was removed."""
    try:
        with closing(wait_for_lock(cached.path.parent)):  # so that no run begins to use it
            if cached.entry in used_by_runs():
                return False
            if cached.being_made:
                return _remove_free(cached.path)
            remove(cached.path)
            return True
    except OSError:  # the file system has no locks: who uses it is not known
        return False


def _remove_free(path: Path) -> bool:
    """Remove what is being made, unless a process that is alive makes it; return whether it was removed."""
    hold = _free(path)
    if hold is not None:
        with closing(hold):
            remove(path)
    return hold is not None


def _sweep() -> None:
    """Remove what dead processes left; what can be continued stays."""
    for kind in (HASHES, *KINDS):
        folder = cache_folder() / kind
        for path in (*folder.glob(f"{NEW}*"), *(folder.glob(f"*/{NEW}*") if kind == SHARDS else ())):
            _remove_free(path)
        for path in folder.glob(f"*{UNFINISHED}"):
            if path.with_name(path.name.removesuffix(UNFINISHED)).exists():  # killed after it was finished
                _remove_free(path)
        for path in folder.glob(".tmp-*"):  # of an older version, whose names tell the process but not the machine
            owner = temporary_owner(path.name)
            if owner is not None and not process_is_alive(owner) and time.time() - _changed(path) > OLD_SECONDS:
                remove(path)
    used_by_runs()


def _changed(path: Path) -> float:
    """Return when a file, or anything in a folder, was changed last."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    with suppress(OSError):
        return max(file.lstat().st_mtime for file in files)
    return time.time()  # it is changing now
