"""Which entries of the cache the runs use that are alive, and the clearing of the cache when there are none.

A run holds a shared lock on the cache. The entries that it uses are named in a file of its own, ``.uses-<random>``, on
which it holds a lock: the file of a run that was killed has none.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from pathlib import Path

from dap.errors import OptionError, StorageError
from dap.storage.cache_folder import HASHES, KINDS, cache_folder, cache_size
from dap.storage.lock import Hold, lock

__all__ = ["clear_cache", "hold_cache", "use", "used_by_runs", "wait_for_lock"]

USES = ".uses-"


class _Uses:
    """The entries that the runs of this process use."""

    def __init__(self) -> None:
        self.mutex = threading.Lock()
        self.runs = 0
        self.paths: set[Path] = set()
        self.file: tuple[Path, Hold] | None = None

    def begin(self) -> None:
        """Begin a run."""
        with self.mutex:
            self.runs += 1

    def add(self, path: Path) -> None:
        """Note a path, while a run of this process is in the cache."""
        with self.mutex:
            if not self.runs or path in self.paths:
                return
            if self.file is None:
                self.file = _own_file()
            if self.file is not None:
                with closing(wait_for_lock(path.parent, shared=True)), self.file[0].open("a", encoding="utf-8") as file:
                    file.write(f"{path.relative_to(cache_folder())}\n")
            self.paths.add(path)

    def end(self) -> None:
        """End a run; with the last one, the entries are free."""
        with self.mutex:
            self.runs -= 1
            if self.runs:
                return
            self.paths.clear()
            if self.file is not None:
                self.file[0].unlink(missing_ok=True)
                self.file[1].close()
                self.file = None


_USES = _Uses()


def _own_file() -> tuple[Path, Hold] | None:
    """Return a new file of this process with its lock; None where there are no locks."""
    while True:
        path = cache_folder() / f"{USES}{secrets.token_hex(8)}"
        path.touch()
        try:
            hold = lock(path)
        except (BlockingIOError, FileNotFoundError):  # another process took it for that of a dead one
            continue
        if hold is None:
            path.unlink(missing_ok=True)
            return None
        return path, hold


@contextmanager
def hold_cache() -> Iterator[bool]:
    """Keep the entries that are used in the block from being cleared or removed until it ends.

    Yields:
        Whether the cache can be held; False if it has no place.
    """
    with ExitStack() as stack:
        held = False
        with suppress(OSError, OptionError):  # an error where the cache is needed, not for runs that do without
            cache_folder().mkdir(parents=True, exist_ok=True)
            stack.enter_context(closing(wait_for_lock(cache_folder(), shared=True)))
            held = True
        _USES.begin()
        stack.callback(_USES.end)
        yield held


def use(path: Path) -> None:
    """Note that an entry is used, now and until the run of this process ends."""
    with suppress(OSError, ValueError, OptionError):  # there is no such folder yet, or the cache has moved
        _USES.add(path)
    with suppress(OSError):
        os.utime(path)


def used_by_runs() -> set[Path]:
    """Return the entries that runs use, in all processes; the files of dead processes are removed."""
    paths = set(_USES.paths)
    for file in cache_folder().glob(f"{USES}*"):
        try:
            hold = lock(file)
        except BlockingIOError:
            with suppress(OSError):
                paths |= {cache_folder() / line for line in file.read_text(encoding="utf-8").splitlines()}
        except OSError:
            continue
        else:
            if hold is not None:
                file.unlink(missing_ok=True)
                hold.close()
    return paths


def wait_for_lock(folder: Path, *, shared: bool = False) -> Hold:
    """Return a lock on a folder, when those who exclude it have ended.

    Raises:
        OSError: The folder is gone, or the file system has no locks.
    """
    while True:
        try:
            hold = lock(folder, shared=shared)
        except BlockingIOError:
            time.sleep(0.02)
            continue
        if hold is None:
            raise OSError(f"{folder}: the file system has no locks")
        return hold


def clear_cache() -> int:
    """Delete all entries of the cache, and nothing else; return the bytes that were freed.

    Raises:
        StorageError: A run uses the cache.
    """
    if not cache_folder().is_dir():
        return 0
    try:
        hold = lock(cache_folder())
    except BlockingIOError as error:
        raise StorageError(f"the cache {cache_folder()} is used by a run: clear it when the run has ended") from error
    with closing(hold) if hold else nullcontext():
        before = cache_size()
        used_by_runs()  # removes the files of dead runs
        for kind in (HASHES, *KINDS):
            shutil.rmtree(cache_folder() / kind, ignore_errors=True)
        return before - cache_size()
