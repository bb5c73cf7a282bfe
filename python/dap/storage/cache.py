"""The cache: a folder of things that can be made again, which users may delete at any time.

``$DAP_CACHE`` names it; without that it is ``dap`` in the platform's own place for caches.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dap.errors import OptionError

__all__ = [
    "CONCEPTS",
    "INDEXES",
    "LATENTS",
    "SHARDS",
    "SURROGATES",
    "cache_folder",
    "cache_size",
    "clear_cache",
    "writing_cache",
]

CONCEPTS, INDEXES, LATENTS, SHARDS, SURROGATES = (
    "concepts",
    "indexes",
    "latents",
    "shards",
    "surrogates",
)  # the folders in the cache that dap fills


def cache_folder() -> Path:
    """Where the cache is, or will be.

    Example:
        >>> import os
        >>> os.environ["DAP_CACHE"] = "/tmp/somewhere"  # doctest: +SKIP
        >>> cache_folder()  # doctest: +SKIP
        PosixPath('/tmp/somewhere')
    """
    if named := os.environ.get("DAP_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dap"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "dap"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dap"


@contextmanager
def writing_cache() -> Iterator[None]:
    """Whatever goes wrong while something is put into the cache becomes one error that says what to do.

    Raises:
        OptionError: The cache cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise OptionError(
            f"the cache {cache_folder()} cannot be written ({error}): set DAP_CACHE to a folder that can"
        ) from error


def cache_size() -> int:
    """Bytes of all files in the cache."""
    total = 0
    for folder, _, files in os.walk(cache_folder()):
        for file in files:
            try:
                total += os.lstat(os.path.join(folder, file)).st_size
            except FileNotFoundError:  # another process is at work here
                continue
    return total


def clear_cache() -> int:
    """Deletes what dap put into the cache, and nothing else; returns the bytes that were freed."""
    before = cache_size()
    for folder in (CONCEPTS, INDEXES, LATENTS, SHARDS, SURROGATES):
        shutil.rmtree(cache_folder() / folder, ignore_errors=True)
    return before - cache_size()
