"""A folder has one writer at a time: a lock on the folder, which ends with its process.

The lock is the operating system's (``flock``) on the folder itself, so nothing is left when the process is killed.
Where the file system or the system has no such lock, a file ``.dap-lock`` takes its place, which names its process.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

from dap.errors import StorageError
from dap.storage.files import LOCK, naming
from dap.storage.processes import process_is_alive

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["NEW", "Hold", "folder_lock", "lock", "new_locked_folder"]

NEW = ".new-"  # how the names of the folders of new_locked_folder begin
POLL = 0.02  # seconds between two looks at a lock that another holds
BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class Hold:
    """A lock that is held until :meth:`close`, or until the object or the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def close(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def is_on(self, path: Path) -> bool:
        """Return whether the lock is on what has this path now, not on what was deleted or moved since."""
        try:
            return self._descriptor is not None and os.path.samestat(os.fstat(self._descriptor), os.stat(path))
        except OSError:
            return False

    def __del__(self) -> None:
        with suppress(OSError, TypeError):  # TypeError: the interpreter is shutting down
            self.close()


def lock(path: Path, *, shared: bool = False) -> Hold | None:
    """Lock a file or folder without waiting.

    Args:
        path: It exists.
        shared: Whether others may hold a shared lock on it at the same time.

    Returns:
        The lock; None where the file system or the system has none.

    Raises:
        BlockingIOError: Another holds it.
        FileNotFoundError: It is gone.
    """
    if fcntl is None:
        return None
    while True:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return Hold(descriptor)
            os.close(descriptor)  # it was replaced in between: lock the new one
        except OSError as error:
            os.close(descriptor)
            if error.errno in BUSY:
                raise BlockingIOError(error.errno, "another process holds it", str(path)) from error
            if isinstance(error, FileNotFoundError):
                raise
            return None


@contextmanager
def new_locked_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder, which is removed when the block ends.

    While its process is alive it is locked, where there are locks: one that is not may be removed by others.
    """
    while True:
        path = parent / f"{NEW}{secrets.token_hex(8)}"
        path.mkdir()
        try:
            hold = lock(path)
        except (BlockingIOError, FileNotFoundError):  # another process took it for that of a dead one
            continue
        break
    with closing(hold) if hold else nullcontext():
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def folder_lock(folder: Path, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Be the only writer of a folder until the block ends.

    The folder is made if it is missing, and removed again if the block leaves it empty.

    Args:
        folder: The folder.
        shared: Let others write there that share it too, and take care of each other (:mod:`dap.storage.claims`).
        wait: Wait for another process that writes to it, instead of raising.

    Raises:
        StorageError: Another process writes to it, or the disk is full.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        hold = _folder_hold(folder, shared, wait)
        if hold is not None:
            with closing(hold):
                yield
        elif shared:  # where there are no locks, their claims have to do
            yield
        else:
            with _lock_file(folder, wait):
                yield
    finally:
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _folder_hold(folder: Path, shared: bool, wait: bool) -> Hold | None:
    """Return the lock on a folder, which is made if it is missing; None where there are no locks."""
    while True:
        with naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            return lock(folder, shared=shared)
        except BlockingIOError as error:
            if not wait:
                raise _busy(folder) from error
            time.sleep(POLL)
        except FileNotFoundError:  # another process has just removed the empty folder
            continue


@contextmanager
def _lock_file(folder: Path, wait: bool) -> Iterator[None]:
    """Hold a file that names this process and machine; that of a dead process of this machine is taken over."""
    path, owner = folder / LOCK, f"{socket.gethostname()} {os.getpid()}"
    while True:
        with suppress(OSError, ValueError):
            host, process = path.read_text(encoding="utf-8").rsplit(" ", 1)
            if host == socket.gethostname() and not process_is_alive(int(process)):
                path.unlink()
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(owner)
            break
        except FileExistsError as error:
            if not wait:
                raise _busy(folder, f"; if none does, delete {path}") from error
            time.sleep(POLL)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _busy(folder: Path, hint: str = "") -> StorageError:
    return StorageError(
        f"{folder}: another process is writing to it: wait until it ends, or choose another folder{hint}"
    )
