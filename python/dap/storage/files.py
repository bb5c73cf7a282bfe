"""Files and folders that appear whole or not at all, and the hashes of files.

Until it is finished, a file or folder has a temporary name beside its final one, ``.tmp-<process>-<machine>-<random>``.
A killed process leaves it behind; :func:`sweep` removes it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dap.errors import OptionError, StorageError
from dap.storage.processes import TEMPORARY, process_is_alive, temporary_name, temporary_owner

__all__ = [
    "LOCK",
    "SHARED",
    "atomic_folder",
    "atomic_path",
    "check_writable",
    "is_vacant",
    "json_bytes",
    "move",
    "naming",
    "remove_below",
    "sha256_file",
    "sweep",
    "sync_file",
    "sync_folder",
    "write_atomic",
    "write_json",
]

LOCK = ".dap-lock"  # names the writer of a folder where the file system has no locks
SHARED = ".dap-run"  # what the processes share that work on one run, while it is not finished
FULL, GONE = "free some space", "see that the disk is mounted and writable"
ADVICE = {
    errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EROFS: GONE, errno.EIO: GONE, errno.ESTALE: GONE, errno.ENODEV: GONE,
    errno.ENOTCONN: GONE, errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close some programs, since the system has too many open files",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
}  # fmt: skip


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that nobody ever sees a part of it, even when the machine stops.

    The bytes go to a temporary file in the same folder, which is synced and renamed; then the folder is synced. After
    an error the temporary file is gone and the old file, if there was one, is untouched.

    Args:
        path: The file; its folder exists. A file of that name is replaced.
        data: The whole content.

    Raises:
        StorageError: The disk is full.
        OSError: The folder is missing or cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(Path(folder, "x.txt"), b"whole")
        ...     Path(folder, "x.txt").read_bytes()
        b'whole'
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: object) -> None:
    """Write :func:`json_bytes` of a value, as :func:`write_atomic` writes."""
    write_atomic(path, json_bytes(value))


def json_bytes(value: object) -> bytes:
    """Return a value as indented JSON in UTF-8 with a line break at the end."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


@contextmanager
def atomic_path(path: str | Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield the name of a temporary file, which becomes ``path`` when the block ends without an error.

    Args:
        path: The file; its folder exists.
        replace: Whether a file of that name is replaced; otherwise it stays, and the new one is thrown away.

    Raises:
        StorageError: The disk is full.
        OSError: As :func:`write_atomic`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder, "x.txt")) as temporary:
        ...         _ = temporary.write_text("whole")
        ...     Path(folder, "x.txt").read_text()
        'whole'
    """
    path = Path(path)
    temporary = path.with_name(temporary_name())
    try:
        with naming(path):
            yield temporary
            sync_file(temporary)
            if replace or not path.exists():
                os.replace(temporary, path)
            else:
                temporary.unlink()
    except BaseException:
        with suppress(OSError):  # not there, or on a disk that is lost
            temporary.unlink()
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder, which becomes ``path`` when the block ends without an error.

    If another process makes ``path`` in the meantime, its folder stays and this one is thrown away.

    Args:
        path: The folder; missing parents are made. The files that are put in should be synced by who writes them.

    Raises:
        StorageError: The disk is full.
        OSError: The parent cannot be written, or ``path`` is a file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with atomic_folder(Path(parent, "x")) as temporary:
        ...         write_atomic(temporary / "y.txt", b"whole")
        ...     [file.name for file in Path(parent, "x").iterdir()]
        ['y.txt']
    """
    temporary = path.with_name(temporary_name())
    try:
        with naming(path):
            temporary.mkdir(parents=True)
            yield temporary
            try:
                os.rename(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(path.parent)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn the error of a full or lost disk, or a limit of the system, into one that names ``path`` and what to do.

    Raises:
        StorageError: The disk, or the user's share of it, is full, read-only or gone; or there are too many open files.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}): {ADVICE[error.errno]} and give the same command again to "
            "continue, or choose a folder on another disk"
        ) from error


def move(path: Path, target: Path) -> None:
    """Rename a finished file or folder to ``target`` on the same disk, and remove what had that name before."""
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(path, target)


def is_vacant(folder: Path) -> bool:
    """Return whether a new result may be written there: nothing of that name, or a folder with only dap's leftovers."""
    if not folder.exists():
        return True
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else [folder.name]
    return all(name in (LOCK, SHARED) or TEMPORARY.fullmatch(name) for name in names)


def remove_below(folder: Path, paths: Iterable[str]) -> None:
    """Remove files by their paths below a folder, and the folders between that are then empty."""
    for path in paths:
        target = folder / path
        target.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            for parent in target.relative_to(folder).parents[:-1]:
                (folder / parent).rmdir()


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders below ``folder`` that dead processes of this machine left.

    Other names stay, even if they begin with ``.tmp-``.
    """
    for parent, folders, names in os.walk(folder):  # passes over what others remove meanwhile
        for name in (*folders, *names):
            owner, leftover = temporary_owner(name), Path(parent, name)
            if owner is None or (owner != os.getpid() and process_is_alive(owner)):
                continue
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal. The file is read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Wait until the bytes of a file are on disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where the file system can: CIFS and some FUSE file systems do not sync folders."""
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is durable without it
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def check_writable(out: Path, option: str = "out") -> None:
    """Raise OptionError, which names the option, unless the folder ``out`` can be made and written."""
    nearest = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OptionError(
            f"{option}: cannot write to {str(out)!r}: {nearest} is not a folder that this user may write to"
        )
