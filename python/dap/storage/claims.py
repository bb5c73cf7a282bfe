"""Claims: processes on any machines share out work through a folder, without a coordinator.

Each process has a file ``<machine>-<process>-<random>.worker`` there, whose time of change it renews every few seconds.
A piece of work is claimed by a file of its name, which can be made only once and names its worker. The claim ends with
its removal. If its worker has died or beats no more, another process takes it over.

A process that is only stalled may go on after its claim was taken over. So whatever is claimed has to be harmless when
two do it: the same bytes, put in place by a rename. Claims save work; nothing is wrong without them.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from dap.storage.files import naming
from dap.storage.processes import HOST, process_is_alive
from dap.storage.workers import NAME, PATIENCE, WORKER, names_in, workers_in

__all__ = ["Claims", "pauses"]

BEAT = 5.0  # seconds between beats
POLL = 0.05, 1.0  # seconds between two looks while others work: the first pause, and the longest

_here: set[str] = set()  # the workers of this process that have not ended


class Claims:
    """This process among those that share a folder, from the start of the block to its end.

    Args:
        folder: Made when it is needed; removed with the last file in it.

    Attributes:
        name: This worker's name, which no other has.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Claims(Path(folder, "shared")) as first:
        ...     with Claims(Path(folder, "shared")) as second:
        ...         first.take("unit-0"), second.take("unit-0"), second.take("unit-1")
        (True, False, True)
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, f"{HOST}-{os.getpid()}-{secrets.token_hex(4)}"
        self._file = folder / f"{self.name}{WORKER}"
        self._note = ""
        self._held: set[str] = set()
        self._beats: dict[str, tuple[int, float]] = {}  # of each worker the last beat, and when it was first seen
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="dap claims", daemon=True)

    def __enter__(self) -> Self:
        self._appear()
        _here.add(self.name)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        _here.discard(self.name)
        self._end.set()
        self._thread.join()
        for work in list(self._held):
            self.release(work)
        with suppress(OSError):  # gone, or the disk is
            self._file.unlink()
        self._remove_folder()

    def take(self, work: str) -> bool:
        """Claim a piece of work; return whether nobody else has it."""
        path = self.folder / work
        while True:
            try:
                if not self._file.exists():  # another process took this one for dead
                    self._appear()
                with naming(path):
                    _make(path, self.name)
            except FileNotFoundError:  # the folder has just been removed
                continue
            except FileExistsError:
                if not self._set_aside(path):
                    return False
                continue
            self._held.add(work)
            return True

    def release(self, work: str) -> None:
        """End a claim; nothing happens if another worker has taken it over."""
        self._held.discard(work)
        if self.owner(work) == self.name:
            with suppress(OSError):  # on a disk that is lost; the claim ends with this process
                (self.folder / work).unlink()

    @contextmanager
    def turn(self, work: str, waiting: Callable[[str], None]) -> Iterator[None]:
        """Claim a piece of work for the block; wait until those who have it have ended, or died.

        Args:
            work: Its name.
            waiting: Called before each pause, with the name of the worker that has the claim.
        """
        for pause in pauses():
            if self.take(work):
                break
            waiting(self.owner(work))
            time.sleep(pause)
        try:
            yield
        finally:
            self.release(work)

    def holds(self, work: str) -> bool:
        """Return whether the claim is still this worker's: after a stall it may be another's."""
        return self.owner(work) == self.name

    def owner(self, work: str) -> str:
        """Return the name of the worker that has claimed a piece of work; "" if nobody has."""
        return self._owner(self.folder / work)

    def taken(self) -> set[str]:
        """Return the names of all work that is claimed, by whom and however long ago."""
        return {name for name in names_in(self.folder) if not name.endswith(WORKER)}

    def clear(self) -> None:
        """Remove all files but this worker's own, when all work is finished. Those who still wait make theirs again."""
        own = {self._file.name, *self._held}
        for name in names_in(self.folder):
            if name not in own:
                (self.folder / name).unlink(missing_ok=True)

    def remove_dead(self) -> None:
        """Remove the files of workers that have died, and their claims: of finished work nobody wants them."""
        for name in workers_in(self.folder):
            if name != self.name and not self._is_alive(name):
                (self.folder / f"{name}{WORKER}").unlink(missing_ok=True)
        for work in self.taken():
            self._set_aside(self.folder / work)

    def note(self, text: str) -> None:
        """Let the others read what this worker is at."""
        self._note = text
        with naming(self._file), suppress(FileNotFoundError):
            self._file.write_text(text, encoding="utf-8")

    def others(self) -> list[str]:
        """Return the other workers that are alive and have made a note."""
        return [name for name, worker in workers_in(self.folder).items() if worker.note and self._is_alive(name)]

    def _appear(self) -> None:
        while True:
            with naming(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):  # the folder has just been removed by the last to leave it
                    self._file.write_text(self._note, encoding="utf-8")
                    return

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            with suppress(OSError):
                os.utime(self._file)
            for name in workers_in(self.folder):  # so that a death is known when its work is looked at
                self._is_alive(name)

    def _is_alive(self, worker: str) -> bool:
        """Return whether a worker may be working. Clocks of other machines are not trusted: only changes count."""
        match = NAME.fullmatch(worker)
        if match is None or worker == self.name:
            return False
        try:
            beat = (self.folder / f"{worker}{WORKER}").stat().st_mtime_ns
        except OSError:
            return False
        if match[1] == HOST and not (
            worker in _here if int(match[2]) == os.getpid() else process_is_alive(int(match[2]))
        ):
            return False
        last, since = self._beats.get(worker, (0, 0.0))
        if beat != last:
            self._beats[worker] = (beat, time.monotonic())
            return True
        return time.monotonic() - since < PATIENCE

    def _set_aside(self, path: Path) -> bool:
        """Remove the claim of a dead worker; return whether it may be gone."""
        owner = self._owner(path)
        if owner == self.name or (self._is_alive(owner) if owner else self._is_young(path)):
            return False
        aside = self.folder / f".{path.name}.{self.name}"
        try:
            os.rename(path, aside)  # only one process succeeds
            if self._owner(aside) != owner:  # another was quicker, and this is its claim
                os.rename(aside, path)
                return False
        except FileNotFoundError:
            return True
        aside.unlink(missing_ok=True)
        return True

    def _is_young(self, path: Path) -> bool:
        """Return whether a claim without a name may be of a process that is writing it."""
        _, since = self._beats.setdefault(path.name, (0, time.monotonic()))
        return time.monotonic() - since < PATIENCE

    @staticmethod
    def _owner(path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8")
        except OSError:
            return ""

    def _remove_folder(self) -> None:
        with suppress(OSError):  # others are at work
            self.folder.rmdir()


def pauses() -> Iterator[float]:
    """Yield seconds to wait between two looks at what others do, longer and longer."""
    pause, longest = POLL
    while True:
        yield pause
        pause = min(1.5 * pause, longest)


def _make(path: Path, text: str) -> None:
    """Make a file that is not there; a part of it, on a full disk, is removed."""
    file = path.open("x", encoding="utf-8")
    try:
        with file:
            file.write(text)
    except OSError:
        path.unlink(missing_ok=True)
        raise
