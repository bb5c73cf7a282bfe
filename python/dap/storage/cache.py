"""The cache: a folder of files that can be made again, which users may delete at any time.

``$DAP_CACHE`` names the folder (:mod:`dap.storage.cache_folder`), ``$DAP_CACHE_SIZE`` bounds it
(:mod:`dap.storage.cache_bound`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dap.errors import StorageError
from dap.storage.cache_bound import cache_in_use, make_room, record_of, remove
from dap.storage.cache_folder import (
    ADAPTERS,
    CONCEPTS,
    FEATURES,
    HASHED,
    INDEXES,
    LATENTS,
    MODES,
    RUNS,
    SHARDS,
    SURROGATES,
    cache_folder,
    cache_size,
    unwritable,
    writing,
)
from dap.storage.cache_use import clear_cache, use
from dap.storage.files import naming, sha256_file, sync_file, sync_folder
from dap.storage.lock import new_locked_folder
from dap.storage.space import check_space

__all__ = [
    "ADAPTERS",
    "CONCEPTS",
    "FEATURES",
    "HASHED",
    "INDEXES",
    "LATENTS",
    "MODES",
    "RESULT",
    "RUNS",
    "SHARDS",
    "SURROGATES",
    "CacheEntry",
    "cache_folder",
    "cache_in_use",
    "cache_size",
    "clear_cache",
]

RESULT = "result"  # in the folder in which an entry is made, what becomes the entry


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

    def is_whole(self) -> bool:
        """Return whether the entry is there with the bytes that it was written with; a changed entry is removed."""
        self.use()
        if not self.exists():
            return False  # nothing is removed: another process may be about to publish it
        try:
            whole = record_of(self.path).read_text(encoding="ascii") == _hash(self.path)
        except (OSError, ValueError):
            whole = False
        if not whole:
            self.remove()
        return whole

    def use(self) -> None:
        """Keep the entry, and what there is of it, in the cache until the run ends that is going on."""
        use(self.path)

    def remove(self) -> None:
        """Delete the entry if it is there, to make it again."""
        remove(self.path)

    def exists(self) -> bool:
        """Return whether it is in the cache."""
        return self.path.exists()

    def make_parent(self) -> None:
        """Make the folder that the entry lies in.

        Raises:
            OptionError: The cache cannot be written.
        """
        with writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def check_space(self, need: int, subject: str, advice: str) -> None:
        """Raise OptionError if ``need`` bytes do not fit the disk of the cache or its bound.

        Entries that no run uses are removed if the bound asks for it.

        Args:
            need: The bytes that will be written.
            subject: What they are, with its verb; see :func:`dap.storage.space.check_space`.
            advice: What to do about it, besides another cache.
        """
        check_space(cache_folder(), need, subject, f"{advice}, or set DAP_CACHE to a folder on another disk")
        make_room(need, subject, advice)

    def write(self, data: bytes) -> None:
        """Put a file of these bytes into the cache.

        Raises:
            OptionError: The cache cannot be written.
        """
        with writing(), self.new_file() as temporary:
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
        with self._new() as folder:
            yield folder / RESULT
            self.publish(folder, hashed=hashed)

    @contextmanager
    def new_folder(self, *, hashed: bool = False) -> Iterator[Path]:
        """Yield a new folder, which becomes the entry when the block ends without an error.

        Args:
            hashed: Record the hash of its files for :meth:`is_whole`; False for a folder that has its own hashes.

        Raises:
            OptionError: The cache cannot be written.
        """
        with self._new() as folder:
            (folder / RESULT).mkdir()
            yield folder / RESULT
            self.publish(folder, hashed=hashed)

    @contextmanager
    def _new(self) -> Iterator[Path]:
        """Yield a folder in which the entry is made."""
        self.make_parent()
        with _full(), naming(self.path), new_locked_folder(self.path.parent) as folder:
            yield folder

    def publish(self, folder: Path, *, hashed: bool) -> None:
        """Make the entry of the file or folder ``RESULT`` in a folder, unless it is there already.

        Args:
            folder: A folder of this process alone, beside the entry.
            hashed: Record the hash, before the entry appears, so that no process sees one without the other.
        """
        result, hashes = folder / RESULT, folder / "hash"
        self.use()
        if result.is_file():
            sync_file(result)
        if hashed and not self.exists():  # that of the first process stays, with its hash
            with writing():
                record_of(self.path).parent.mkdir(parents=True, exist_ok=True)
                hashes.write_text(_hash(result), encoding="ascii")
                sync_file(hashes)
                os.replace(hashes, record_of(self.path))
        if not self.exists():
            try:
                os.replace(result, self.path)
            except OSError:
                if not self.path.is_dir():  # that of another process, which was quicker
                    raise
        sync_folder(self.path.parent)
        make_room(keep=self.path)


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
        raise unwritable(error) from error
