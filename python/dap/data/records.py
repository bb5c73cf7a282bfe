"""What the workers of a run have finished: a ledger for each worker, which only that worker writes.

A line has the files of a unit, path to SHA-256, the state of each when it was written, the time that the unit took, and
the worker's number of threads; or the error with which a unit failed; or the states of files whose bytes have been
compared with their hashes. Ledgers are read as they grow. The last line of a killed worker may have no end; it is never
read, since each worker begins a ledger of its own.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from dap.errors import FormatError
from dap.storage.checked_json import (
    BELOW,
    NOTHING,
    NUMBER,
    SHA256,
    TEXT,
    check_shape,
    either,
    fields,
    items,
    mapping,
    parse_json,
    whole,
)
from dap.storage.ledger import Ledger

__all__ = ["Records"]

SUFFIX = ".jsonl"
STATES = mapping(items(whole()), keys=BELOW)
LINE = fields(
    {"unit": whole()},
    optional={
        "files": mapping(SHA256, keys=BELOW), "states": STATES, "seconds": mapping(NUMBER), "threads": whole(1),
        "error": TEXT,
        "energy": mapping(fields({"slots": whole(1), "mean": items(either(NOTHING, NUMBER))})),
    },
)  # fmt: skip
VERIFIED = fields({"states": STATES})


class Records:
    """The ledgers in a folder, and that of one worker.

    Args:
        folder: The folder that the workers share.
        worker: The name of the worker that writes.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder, self._own = folder, Ledger(folder / f"{worker}{SUFFIX}")
        self._advice = self._own.advice
        self._read: dict[str, int] = {}  # of each ledger the bytes that were read

    def append(self, entry: dict[str, object]) -> None:
        """Write a line into this worker's ledger, and wait until it is on disk. :meth:`new` leaves it out."""
        self._own.append(entry)
        self._read[self._own.path.name] = self._own.path.stat().st_size

    def new(self) -> list[dict[str, Any]]:
        """Return the lines that the workers have written since the last call.

        Raises:
            FormatError: A line is not what workers write.
        """
        lines: list[dict[str, Any]] = []
        for name in self._names():
            path = self._folder / name
            with suppress(FileNotFoundError):  # the run has just been finished
                lines += [self._checked(path, line) for line in self._grown(path)]
        return lines

    def _grown(self, path: Path) -> list[bytes]:
        """Return the finished lines of a ledger after those that were read."""
        before = self._read.get(path.name, 0)
        with path.open("rb") as file:
            file.seek(before)
            data = file.read()
        finished = data[: data.rfind(b"\n") + 1]
        self._read[path.name] = before + len(finished)
        return finished.split(b"\n")[:-1]

    def remove(self) -> None:
        """Delete all ledgers."""
        with suppress(OSError):
            for name in os.listdir(self._folder):
                if name.endswith(SUFFIX):
                    (self._folder / name).unlink(missing_ok=True)
        self._read.clear()

    def _names(self) -> list[str]:
        """Return the names of the ledgers that have grown since they were read."""
        names = []
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if not stat.S_ISREG(status.st_mode):
                            raise FormatError(f"{entry.path}: expected a regular file; {self._advice}")
                        if status.st_size > self._read.get(entry.name, 0):
                            names.append(entry.name)
        return sorted(names)

    def _checked(self, path: Path, line: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = parse_json(f"{path}: damaged", line, advice=self._advice)
        shape = VERIFIED if isinstance(entry, dict) and "unit" not in entry else LINE
        check_shape(f"{path}: damaged", entry, shape, advice=self._advice)
        return entry
