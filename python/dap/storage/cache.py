"""The cache: a folder of files that can be made again, which users may delete at any time.

``$DAP_CACHE`` names the folder; the default is ``dap`` in the platform's folder for caches.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from dap.config import check_path
from dap.errors import OptionError, StorageError
from dap.storage.files import atomic_folder, atomic_path, sha256_file, write_atomic
from dap.storage.lock import Hold, lock
from dap.storage.space import check_space

__all__ = [
    "CONCEPTS",
    "FEATURES",
    "HASHED",
    "INDEXES",
    "LATENTS",
    "RUNS",
    "SHARDS",
    "SURROGATES",
    "CacheEntry",
    "cache_folder",
    "cache_in_use",
    "cache_size",
    "clear_cache",
]

CONCEPTS, FEATURES, HASHED, INDEXES, LATENTS, RUNS, SHARDS, SURROGATES = (
    "concepts",
    "features",
    "hashed",
    "indexes",
    "latents",
    "runs",
    "shards",
    "surrogates",
)  # the folders in the cache that dap fills

HASHES = "hashes"  # of the files in the other folders


@dataclass(frozen=True)
class CacheEntry:
    """A file or folder of the cache that is written once; its name is a hash of everything that its content depends on.

    It appears whole. If two processes make the same entry at once, both succeed, and that of the first one stays.

    Attributes:
        path: Its path, whether it exists yet or not.

    Example:
        >>> entry = CacheEntry.of(LATENTS, ["source", "prior"], ".safetensors")
        >>> if not entry.exists():  # doctest: +SKIP
        ...     entry.write(b"content")
    """

    path: Path

    @classmethod
    def of(cls, kind: str, content: object, suffix: str = "") -> CacheEntry:
        """Return the entry with this content, whether it is in the cache or not.

        Args:
            kind: The folder in the cache, such as ``LATENTS``.
            content: Everything that the entry's bytes depend on, as JSON: versions, options, hashes of the input.
            suffix: Of the name, such as ".safetensors".
        """
        key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return cls(cache_folder() / kind / f"{key}{suffix}")

    @property
    def _record(self) -> Path:
        return self.path.parents[1] / HASHES / f"{self.path.parent.name}-{self.path.name}"

    def is_whole(self) -> bool:
        """Return whether the entry is there with the bytes that it was written with; a changed entry is removed."""
        if not self.exists():
            return False  # nothing is removed: another process may be about to publish it
        try:
            whole = self._record.read_text(encoding="ascii") == _hash(self.path)
        except (OSError, ValueError):
            whole = False
        if not whole:
            self.remove()
        return whole

    def remove(self) -> None:
        """Delete the entry if it is there, to make it again."""
        if self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            with suppress(OSError):
                self.path.unlink()
        with suppress(OSError):
            self._record.unlink()

    def exists(self) -> bool:
        """Return whether it is in the cache."""
        return self.path.exists()

    def make_parent(self) -> None:
        """Make the folder that the entry lies in.

        Raises:
            OptionError: The cache cannot be written.
        """
        with _writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def check_space(self, need: int, subject: str, advice: str) -> None:
        """Raise OptionError if the disk of the cache has fewer than ``need`` bytes free.

        Args:
            need: The bytes that will be written.
            subject: What they are, with its verb; see :func:`dap.storage.space.check_space`.
            advice: What to do about it, besides another cache.
        """
        check_space(cache_folder(), need, subject, f"{advice}, or set DAP_CACHE to a folder on another disk")

    def write(self, data: bytes) -> None:
        """Put a file of these bytes into the cache.

        Raises:
            OptionError: The cache cannot be written.
        """
        with _writing(), self.new_file() as temporary:
            temporary.write_bytes(data)

    @contextmanager
    def new_file(self, *, hashed: bool = True) -> Iterator[Path]:
        """Yield the name of a temporary file, which becomes the entry when the block ends without an error.

        Args:
            hashed: Record its hash, for :meth:`is_whole`, before it appears, so that no process sees one without the
                other. False for files that are too large to be read whole each time.

        Raises:
            OptionError: The cache cannot be written.
        """
        self.make_parent()
        with _full(), atomic_path(self.path, replace=False) as temporary:
            yield temporary
            if hashed:
                self.record_hash(temporary)

    def record_hash(self, temporary: Path) -> None:
        """Record the hash of what is about to become the entry, for :meth:`is_whole`, unless the entry is there."""
        if self.exists():
            return  # that of the first process stays, with its hash
        with _writing():
            self._record.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._record, _hash(temporary).encode())

    @contextmanager
    def new_folder(self, *, hashed: bool = False) -> Iterator[Path]:
        """Yield a new folder, which becomes the entry when the block ends without an error.

        Args:
            hashed: Record the hash of its files for :meth:`is_whole`; False for a folder that has its own hashes.

        Raises:
            OptionError: The cache cannot be written.
        """
        with _full(), ExitStack() as stack:
            with _writing():
                temporary = stack.enter_context(atomic_folder(self.path))
            yield temporary
            if hashed:
                self.record_hash(temporary)


def cache_folder() -> Path:
    """Return the folder of the cache, which may not exist yet.

    Example:
        >>> import os
        >>> os.environ["DAP_CACHE"] = "/tmp/somewhere"  # doctest: +SKIP
        >>> cache_folder()  # doctest: +SKIP
        PosixPath('/tmp/somewhere')
    """
    if named := os.environ.get("DAP_CACHE"):
        return check_path("DAP_CACHE", named)
    try:
        home = Path.home()
    except RuntimeError as error:  # no HOME, and the user has no entry in passwd
        if any(os.environ.get(name) for name in ("XDG_CACHE_HOME", "LOCALAPPDATA")):
            home = Path()
        else:
            raise OptionError("the cache has no place, as this user has no home: set DAP_CACHE to a folder") from error
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "dap"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "dap"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "dap"


def cache_size() -> int:
    """Return the bytes of all files in the cache."""
    total = 0
    for folder, _, files in os.walk(cache_folder()):
        for file in files:
            try:
                total += os.lstat(os.path.join(folder, file)).st_size
            except FileNotFoundError:  # another process has just removed it
                continue
    return total


@contextmanager
def cache_in_use() -> Iterator[None]:
    """Keep :func:`clear_cache` from deleting anything until the block ends."""
    with ExitStack() as stack:
        with suppress(OSError, OptionError):  # an error where the cache is needed, not for runs that do without
            cache_folder().mkdir(parents=True, exist_ok=True)
            if hold := _share(cache_folder()):
                stack.callback(hold.close)
        yield


def _share(folder: Path) -> Hold | None:
    """Return a shared lock on the cache, when a process that is clearing it has ended."""
    while True:
        try:
            return lock(folder, shared=True)
        except BlockingIOError:
            time.sleep(0.02)


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
        return _delete_entries()


def _delete_entries() -> int:
    before = cache_size()
    for kind in (HASHES, CONCEPTS, FEATURES, HASHED, INDEXES, LATENTS, RUNS, SHARDS, SURROGATES):
        shutil.rmtree(cache_folder() / kind, ignore_errors=True)
    return before - cache_size()


def _hash(path: Path) -> str:
    """Return the SHA-256 of a file, or that of the names and hashes of a folder's files."""
    if not path.is_dir():
        return sha256_file(path)
    files = {file.name: sha256_file(file) for file in sorted(path.iterdir())}
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


@contextmanager
def _full() -> Iterator[None]:
    """Name the cache in the error of a full disk."""
    try:
        yield
    except StorageError as error:
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> OptionError:
    return OptionError(f"the cache {cache_folder()} cannot be written ({error}): set DAP_CACHE to a folder that can")


@contextmanager
def _writing() -> Iterator[None]:
    """Turn every OSError into one error that says what to do."""
    try:
        yield
    except OSError as error:
        raise _unwritable(error) from error
