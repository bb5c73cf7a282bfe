"""What a process does while it waits for another: it says so once, and ends when it is asked to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from dap.stopping import check_stop

__all__ = ["waiting_for"]

logger = logging.getLogger(__name__)


def waiting_for(place: Path, purpose: str) -> Callable[[str], None]:
    """Return a function that logs once, with the name of a worker, that this process waits for it.

    It raises StoppedError when this process is to end.

    Args:
        place: What both work on: the folder of a run or of an index, or an entry of the cache.
        purpose: What the other does, such as "to finish the run".
    """
    said: list[str] = []

    def say(worker: str) -> None:
        check_stop(place)
        if not said:
            logger.info("%s: waiting for %s %s", place, worker or "another worker", purpose)
            said.append(worker)

    return say
