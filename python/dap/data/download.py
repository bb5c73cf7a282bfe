"""Files at URLs: downloaded once into the cache, by ``fsspec`` (an extra), and read from there."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

from dap.errors import SourceError
from dap.storage.cache import SHARDS, CacheEntry, cache_folder

__all__ = ["fetch_all"]

logger = logging.getLogger(__name__)

STALL_SECONDS, STALL_BYTES = 30.0, 1 << 15  # a download that gets fewer bytes in this time has stalled


def fetch_all(urls: Sequence[str], *, beside: Sequence[str] = ()) -> list[Path]:
    """Download files unless the cache has them; return the paths of the copies.

    Args:
        urls: The files.
        beside: Names of which the first that is there is fetched from each remote folder of a new file.

    Raises:
        SourceError: fsspec or what it needs for the protocol is not installed, or a download fails, or it stalls: gets
            less than 32 KB within 30 s.
    """
    new = [url for url in urls if not _entry(url).exists()]
    paths = [_fetch(url) for url in urls]
    for folder in dict.fromkeys(url.rpartition("/")[0] for url in new):
        for name in beside:
            try:
                _fetch(f"{folder}/{name}")
                break
            except SourceError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    logger.warning("%s", error)
    return paths


def _entry(url: str) -> CacheEntry:
    """Return the cache's entry of a URL: in one folder with others from the same remote folder."""
    folder, _, name = url.rpartition("/")
    return CacheEntry(cache_folder() / SHARDS / hashlib.sha256(folder.encode()).hexdigest()[:16] / name)


def _fetch(url: str) -> Path:
    entry = _entry(url)
    if not entry.exists():
        with entry.new_file(hashed=False) as temporary:
            _download(url, temporary)
    return entry.path


def _download(url: str, target: Path) -> None:
    """Download in a thread, which is given up when it stalls: not every protocol of fsspec has a time-out."""
    options: dict[str, object] = {}
    try:
        import fsspec
        from fsspec.core import url_to_fs

        if url.startswith(("http://", "https://")):
            import aiohttp

            # its own time-out is for the whole download, however large
            options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None)}}
    except ImportError as error:
        raise SourceError(f"{url}: to read shards from URLs: pip install 'dap-distill[remote]'") from error
    given_up = threading.Event()
    failures: list[Exception] = []

    def stop(*_: object, **__: object) -> None:
        if given_up.is_set():
            raise TimeoutError("the download was given up")

    def run() -> None:
        try:
            files, path = url_to_fs(url, **options)
            files.get_file(path, str(target), callback=progress)
        except Exception as error:  # each protocol of fsspec raises its own errors
            failures.append(error)

    progress = fsspec.Callback(hooks={"stop": stop})
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            before = progress.value
            thread.join(STALL_SECONDS)
            if thread.is_alive() and progress.value - before < STALL_BYTES:
                raise SourceError(
                    f"{url}: cannot be fetched: the server sent {progress.value - before} bytes in {STALL_SECONDS:.0f} "
                    f"s, expected at least {STALL_BYTES}; try again later, or download the file and open its path"
                )
    finally:
        given_up.set()
    if failures:
        failure = failures[0]
        raise SourceError(f"{url}: cannot be fetched ({type(failure).__name__}: {failure})") from failure
    if not target.is_file():
        raise SourceError(f"{url}: cannot be fetched: expected a file, found a folder")
