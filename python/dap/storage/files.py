"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_path", "sha256_file", "write_atomic"]


def write_atomic(path: str | Path, data: bytes) -> None:
    """Writes a file so that nobody ever sees a part of it, even when the machine stops.

    The bytes go to ``.tmp-…`` in the same folder, which is synced and renamed; then the folder is synced. After an
    error the temporary file is gone and the old file, if there was one, is untouched.

    Args:
        path: The file; its folder exists. A file of that name is replaced.
        data: The whole content.

    Raises:
        OSError: The folder is missing or cannot be written, or the disk is full.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomic(Path(folder, "x.txt"), b"whole")
        ...     Path(folder, "x.txt").read_bytes()
        b'whole'
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """For writers that want a file's name: what is written to the one given here appears as ``path`` at the end.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_path(Path(folder, "x.txt")) as temporary:
        ...         _ = temporary.write_text("whole")
        ...     Path(folder, "x.txt").read_text()
        'whole'
    """
    path = Path(path)
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is durable without it
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; reads in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
