"""Hashes of large files, kept in the cache beside size, times and number of the files, so that they are read once.

A file that was changed a moment before it was read could change again within the same tick of its clock, and would look
the same. So hashes of such files are not kept, as git does not trust the entry of a file that is as young as its index.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dap.errors import OptionError
from dap.storage.cache import HASHED, CacheEntry

__all__ = ["FileStates", "file_state", "kept_hash"]

YOUNG = 2 * 10**9  # nanoseconds; FAT, the coarsest file system, counts two seconds


def file_state(path: Path) -> list[int] | None:
    """Return the size of a file and the times of change of its content and of its entry (ns); None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns] if stat.S_ISREG(status.st_mode) else None


@dataclass(frozen=True)
class FileStates:
    """The states of the files in a folder and in its folders.

    Attributes:
        folder: The absolute path.
        files: Path below it, size, time of change of content and of the entry (ns), and inode of each file.
        settled: Whether all files were old enough when this was made.
    """

    folder: str
    files: tuple[tuple[str, int, int, int, int], ...]
    settled: bool = field(compare=False)

    @classmethod
    def of(cls, folder: Path) -> FileStates:
        """Return the states of the files as they are now.

        Raises:
            OSError: The folder cannot be read.
        """
        now = time.time_ns()
        places = [folder, *(path for path in folder.iterdir() if path.is_dir())]
        paths = sorted(path for place in places for path in place.iterdir() if path.is_file())
        states = [(path.relative_to(folder).as_posix(), path.stat()) for path in paths]
        files = tuple((name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in states)
        settled = all(max(s.st_mtime_ns, s.st_ctime_ns) < now - YOUNG for _, s in states)
        return cls(os.path.abspath(folder), files, settled)


def kept_hash(states: FileStates, content: object, compute: Callable[[], str]) -> str:
    """Return a hash of files from the cache, or compute it and keep it there.

    Args:
        states: Those of the files, from before they were read.
        content: What else the hash depends on, as JSON.
        compute: Returns the hash of what was read.
    """
    try:
        entry = CacheEntry.of(HASHED, [content, states.folder, states.files])
    except OptionError:  # the cache has no place
        return compute()
    with suppress(OSError, OptionError):  # without a cache the hash is computed each time
        if entry.is_whole():
            return entry.path.read_text(encoding="ascii")
    computed = compute()
    with suppress(OSError, OptionError):
        if states.settled and FileStates.of(Path(states.folder)) == states:
            entry.write(computed.encode("ascii"))
    return computed
