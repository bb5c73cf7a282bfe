"""An entry of the cache that takes long to make: the process after a killed one continues it.

Until it is finished, what there is of it lies in ``<entry>.unfinished/`` beside the entry. Its one writer holds the
system's lock on that folder. Processes that need the same entry claim it (:mod:`dap.storage.claims`): one makes it, and
the others wait, or help with what can be shared out.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from dap.errors import DapError, FormatError, OptionError, StoppedError, StorageError
from dap.stopping import check_stop
from dap.storage.cache import CacheEntry
from dap.storage.cache_bound import UNFINISHED
from dap.storage.cache_folder import CLAIMS, cache_folder, writing
from dap.storage.claims import Claims, pauses
from dap.storage.files import naming, sweep
from dap.storage.lock import Hold, lock, new_locked_folder
from dap.storage.waiting import waiting_for

__all__ = ["AHEAD", "Unfinished", "continued", "in_turns", "unfinished_bytes", "unfinished_folder"]

AHEAD = "blocks"  # in the folder of an unfinished entry, blocks of it that its file does not have yet
DYING = 1.0  # seconds after which a killed process has given its locks back: its threads end one after the other

logger = logging.getLogger(__name__)


class Unfinished(NamedTuple):
    """An entry that this process makes: the folder in which it does, and the process among those that use the cache."""

    folder: Path
    claims: Claims


def unfinished_bytes(entry: CacheEntry) -> int:
    """Return how many bytes on disk an earlier process has left of an entry that it did not finish."""
    unfinished = unfinished_folder(entry)
    files = [
        Path(folder, file)
        for folder, _, names in os.walk(unfinished)
        for file in names
        if Path(folder) != unfinished / AHEAD  # they are still to be written to the entry
    ]
    return sum(getattr(file.stat(), "st_blocks", 0) * 512 for file in files)  # Windows has no st_blocks


@contextmanager
def continued(
    entry: CacheEntry, *, hashed: bool = True, help: Callable[[Path, Claims], None] | None = None
) -> Iterator[Unfinished | None]:
    """Yield a folder whose file or folder ``RESULT`` becomes the entry when the block ends without an error.

    While another process makes the entry, this one waits, or helps it. If the entry is there then, it yields None.

    The folder may have what an earlier block has written before it was stopped. The caller checks that, continues it,
    and syncs what it writes. If a process that is stalled has it, or the file system has no locks, it is a new one.

    Args:
        entry: The entry.
        hashed: Record its hash for :meth:`CacheEntry.is_whole`.
        help: Does a share of the work in the folder of the process that makes the entry, and returns when there is
            nothing to do. An error ends the help. One of the input is raised if the entry is not there at the end.

    Raises:
        OptionError: The cache cannot be written.
        StorageError: The cache was deleted meanwhile.
        StoppedError: The run is to end, and another process still makes the entry.
    """
    entry.make_parent()
    with ExitStack() as stack:
        with writing(), naming(entry.path):
            claims = stack.enter_context(Claims(cache_folder() / CLAIMS))
            claims.remove_dead()
            helps, failed = help is not None, None
            say = waiting_for(entry.path, f"to prepare {entry.path.parent.name}")

            def wait(worker: str) -> None:
                nonlocal helps, failed
                say(worker)
                if help is not None and helps:
                    try:
                        help(unfinished_folder(entry), claims)
                    except StoppedError:
                        raise
                    except (FormatError, OptionError) as error:
                        helps, failed = False, error
                    except Exception:  # what is optional does not end the run
                        logger.debug("%s: could not help to make it", entry.path, exc_info=True)
                        helps = False

            stack.enter_context(claims.turn(_name(entry), wait))
        if entry.exists():
            _remove_left(entry)
            yield None
        elif failed is not None:
            raise failed
        else:
            entry.make_parent()  # somebody may have deleted the cache
            with _folder_of(entry, hashed) as folder:
                yield Unfinished(folder, claims)


def in_turns(entries: Sequence[CacheEntry]) -> Generator[int, None, None]:
    """Yield the number of each entry, first those that no other process makes.

    Until the next number is asked for, this process alone makes the entry, if it is not there yet.

    Args:
        entries: Entries that are made one after the other by whoever wants them.

    Raises:
        OptionError: The cache cannot be written.
        StoppedError: The run is to end, and an entry is left.
    """
    with ExitStack() as stack:
        try:
            claims = stack.enter_context(Claims(cache_folder() / CLAIMS))
            claims.remove_dead()
        except (OSError, StorageError):  # the cache cannot be written, and perhaps need not be
            yield from range(len(entries))
            return
        stack.enter_context(writing())
        left = []
        for number, entry in enumerate(entries):
            check_stop(entry.path)
            if claims.take(_name(entry)):
                try:
                    yield number
                finally:
                    claims.release(_name(entry))
            else:
                left.append(number)
        for number in left:
            path = entries[number].path
            with claims.turn(_name(entries[number]), waiting_for(path, f"to prepare {path.parent.name}")):
                yield number


def _name(entry: CacheEntry) -> str:
    """Return the name of the claim of an entry."""
    return f"{entry.path.parent.name}-{entry.path.name}"


@contextmanager
def _folder_of(entry: CacheEntry, hashed: bool) -> Iterator[Path]:
    path = unfinished_folder(entry)
    hold = _locked(path)
    if hold is None:
        with naming(entry.path), new_locked_folder(entry.path.parent) as folder:
            yield folder
            entry.publish(folder, hashed=hashed)
        return
    with closing(hold), naming(path):
        sweep(path)  # temporary files of the killed process
        try:
            yield path
            if not hold.is_on(path):
                raise _deleted(path)
            entry.publish(path, hashed=hashed)
        except (StorageError, StoppedError):
            raise
        except DapError:  # the same call would end in it again
            shutil.rmtree(path, ignore_errors=True)
            raise
        except FileNotFoundError as error:
            if hold.is_on(path):
                raise
            raise _deleted(path) from error
        shutil.rmtree(path, ignore_errors=True)


def _deleted(path: Path) -> StorageError:
    return StorageError(f"{path}: the cache was deleted while it was made; the same command makes it again")


def _remove_left(entry: CacheEntry) -> None:
    """Remove what a process has left that was killed when it had finished the entry."""
    path = unfinished_folder(entry)
    hold = _locked(path) if path.is_dir() else None
    if hold is not None:
        with closing(hold):
            shutil.rmtree(path, ignore_errors=True)


def unfinished_folder(entry: CacheEntry) -> Path:
    """Return the folder in which an entry is made, unless a process that is stalled has it."""
    return entry.path.with_name(f"{entry.path.name}{UNFINISHED}")


def _locked(path: Path) -> Hold | None:
    """Return the lock on the folder, which is made if it is missing; None if another has it or there are no locks."""
    began, waits = time.monotonic(), pauses()
    try:
        if path.is_file():
            path.unlink()  # of an older version
        while True:
            path.mkdir(exist_ok=True)
            try:
                hold = lock(path)
                break
            except (BlockingIOError, FileNotFoundError):  # another process holds it, or has just finished it
                if time.monotonic() - began > DYING:
                    return None
                time.sleep(next(waits))
    except OSError:  # it cannot be written, as others find too
        return None
    if hold is None:
        shutil.rmtree(path, ignore_errors=True)
    return hold
