"""A file of the cache that takes long to make: the process after a killed one continues it.

Until it is finished, it is ``<entry>.unfinished`` beside the entry. Its one writer holds the system's lock on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from dap.errors import DapError
from dap.storage.cache import CacheEntry
from dap.storage.files import naming
from dap.storage.lock import Hold, lock

__all__ = ["continued_file", "unfinished_bytes"]


def unfinished_bytes(entry: CacheEntry) -> int:
    """Return the size of what an earlier process has left of an entry that it did not finish."""
    path = _unfinished(entry)
    return path.stat().st_size if path.is_file() else 0


@contextmanager
def continued_file(entry: CacheEntry) -> Iterator[Path]:
    """Yield the name of a file, which becomes the entry, with its hash, when the block ends without an error.

    The file may have what an earlier block has written before it was stopped. The caller checks that, continues it, and
    syncs what it writes. If another process is at it, or the file system has no locks, the file is a new one.

    Raises:
        OptionError: The cache cannot be written.
    """
    entry.make_parent()
    path = _unfinished(entry)
    hold = _locked(path)
    if hold is None:
        with entry.new_file() as temporary:
            temporary.touch()
            yield temporary
        return
    with closing(hold), naming(path):
        try:
            yield path
        except DapError:  # the same call would end in it again
            path.unlink()
            raise
        entry.record_hash(path)
        os.replace(path, entry.path)


def _unfinished(entry: CacheEntry) -> Path:
    return entry.path.with_name(f"{entry.path.name}.unfinished")


def _locked(path: Path) -> Hold | None:
    try:
        path.touch()
        hold = lock(path)
    except OSError:  # another process holds it, or has just finished it; or it cannot be written, as others find too
        return None
    if hold is None:
        path.unlink(missing_ok=True)
    return hold
