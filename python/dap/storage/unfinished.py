"""An entry of the cache that takes long to make: the process after a killed one continues it.

Until it is finished, what there is of it lies in ``<entry>.unfinished/`` beside the entry. Its one writer holds the
system's lock on that folder. Processes that need the same entry claim it (:mod:`dap.storage.claims`): one makes it, and
the others wait.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from dap.errors import DapError, StorageError
from dap.storage.cache import CacheEntry
from dap.storage.cache_bound import UNFINISHED
from dap.storage.cache_folder import CLAIMS, cache_folder, writing
from dap.storage.claims import Claims
from dap.storage.files import naming, sweep
from dap.storage.lock import Hold, lock, new_locked_folder
from dap.storage.waiting import waiting_for

__all__ = ["continued", "unfinished_bytes"]


def unfinished_bytes(entry: CacheEntry) -> int:
    """Return how many bytes on disk an earlier process has left of an entry that it did not finish."""
    files = [Path(folder, file) for folder, _, names in os.walk(_unfinished(entry)) for file in names]
    return sum(getattr(file.stat(), "st_blocks", 0) * 512 for file in files)  # Windows has no st_blocks


@contextmanager
def continued(entry: CacheEntry, *, hashed: bool = True) -> Iterator[Path | None]:
    """Yield a folder whose file or folder ``RESULT`` becomes the entry when the block ends without an error.

    While another process makes the entry, this one waits. If the entry is there then, it yields None.

    The folder may have what an earlier block has written before it was stopped. The caller checks that, continues it,
    and syncs what it writes. If a process that is stalled has it, or the file system has no locks, it is a new one.

    Args:
        entry: The entry.
        hashed: Record its hash for :meth:`CacheEntry.is_whole`.

    Raises:
        OptionError: The cache cannot be written.
        StoppedError: The run is to end, and another process still makes the entry.
    """
    entry.make_parent()
    with ExitStack() as stack:
        with writing(), naming(entry.path):
            claims = stack.enter_context(Claims(cache_folder() / CLAIMS))
            claims.remove_dead()
            name = f"{entry.path.parent.name}-{entry.path.name}"
            stack.enter_context(claims.turn(name, waiting_for(entry.path, f"to prepare {entry.path.parent.name}")))
        if entry.exists():
            yield None
        else:
            with _folder_of(entry, hashed) as folder:
                yield folder


@contextmanager
def _folder_of(entry: CacheEntry, hashed: bool) -> Iterator[Path]:
    path = _unfinished(entry)
    hold = _locked(path)
    if hold is None:
        with naming(entry.path), new_locked_folder(entry.path.parent) as folder:
            yield folder
            entry.publish(folder, hashed=hashed)
        return
    with closing(hold), naming(path):
        sweep(path)  # temporary files of the killed process
        try:
            yield path
            entry.publish(path, hashed=hashed)
        except StorageError:
            raise
        except DapError:  # the same call would end in it again
            shutil.rmtree(path, ignore_errors=True)
            raise
        shutil.rmtree(path, ignore_errors=True)


def _unfinished(entry: CacheEntry) -> Path:
    return entry.path.with_name(f"{entry.path.name}{UNFINISHED}")


def _locked(path: Path) -> Hold | None:
    """Return the lock on the folder, which is made if it is missing; None if another has it or there are no locks."""
    try:
        if path.is_file():
            path.unlink()  # of an older version
        path.mkdir(exist_ok=True)
        hold = lock(path)
    except OSError:  # another process holds it, or has just finished it; or it cannot be written, as others find too
        return None
    if hold is None:
        shutil.rmtree(path, ignore_errors=True)
    return hold
