"""Where the cache lies, and the names of its folders.

``$DAP_CACHE`` names the folder; the default is ``dap`` in the platform's folder for caches.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dap.config import check_path
from dap.errors import OptionError

__all__ = [
    "ADAPTERS",
    "CLAIMS",
    "CONCEPTS",
    "FEATURES",
    "HASHED",
    "HASHES",
    "INDEXES",
    "KINDS",
    "LATENTS",
    "MODES",
    "RUNS",
    "SHARDS",
    "SURROGATES",
    "bytes_of",
    "cache_folder",
    "cache_size",
    "unwritable",
    "writing",
]

KINDS = ADAPTERS, CONCEPTS, FEATURES, HASHED, INDEXES, LATENTS, MODES, RUNS, SHARDS, SURROGATES = (
    "adapters",
    "concepts",
    "features",
    "hashed",
    "indexes",
    "latents",
    "modes",
    "runs",
    "shards",
    "surrogates",
)  # the folders in the cache that hold entries

HASHES = "hashes"  # of the files in the other folders
CLAIMS = "claims"  # who makes which entry now


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
    return bytes_of(cache_folder())


def bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 if there is nothing."""
    if not path.is_dir() or path.is_symlink():
        return _size(path)
    return sum(_size(Path(folder, file)) for folder, _, files in os.walk(path) for file in files)


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # another process has just removed it
        return 0


def unwritable(error: OSError) -> OptionError:
    """Return the error for a cache that cannot be written."""
    return OptionError(f"the cache {cache_folder()} cannot be written ({error}): set DAP_CACHE to a folder that can")


@contextmanager
def writing() -> Iterator[None]:
    """Turn every OSError into one error that says what to do."""
    try:
        yield
    except OSError as error:
        raise unwritable(error) from error
