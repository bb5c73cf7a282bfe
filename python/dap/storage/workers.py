"""The files by which the workers of a shared folder tell that they are there (:mod:`dap.storage.claims`)."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dap.storage.processes import HOST, process_is_alive

__all__ = ["NAME", "PATIENCE", "WORKER", "Worker", "names_in", "workers_in", "working_in"]

PATIENCE = 60.0  # seconds without a beat after which a worker counts as dead
WORKER = ".worker"
NAME = re.compile(r"(.+)-(\d{1,10})-[0-9a-f]{8}")  # of a worker: machine, process, a random number


class Worker(NamedTuple):
    """What the file of a worker says.

    Attributes:
        note: What it is at; "" before it is at anything.
        beat: When it was last renewed, in seconds since 1970 by the clock of the disk.
    """

    note: str
    beat: float


def workers_in(folder: Path) -> dict[str, Worker]:
    """Return all workers that have a file in a shared folder, dead or alive, by name."""
    workers = {}
    for name in sorted(names_in(folder)):
        if name.endswith(WORKER):
            path = folder / name
            with suppress(OSError):  # it has just ended
                note = path.read_text(encoding="utf-8", errors="replace")
                workers[name.removesuffix(WORKER)] = Worker(note, path.stat().st_mtime)
    return workers


def working_in(folder: Path) -> dict[str, Worker]:
    """Return the workers that seem to be alive: their beat is fresh, and their process is there if it is a local one.

    :class:`dap.storage.claims.Claims` looks twice, since the clocks of other machines may be wrong; this is one look.
    """
    return {name: worker for name, worker in workers_in(folder).items() if _seems_alive(name, worker)}


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder; none where it is gone."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _seems_alive(name: str, worker: Worker) -> bool:
    match = NAME.fullmatch(name)
    if match is None or time.time() - worker.beat >= PATIENCE:
        return False
    asked = match[1] == HOST and os.name == "posix"  # elsewhere a process cannot be asked for
    return not asked or process_is_alive(int(match[2]))
