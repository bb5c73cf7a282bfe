"""Several processes make one evaluation: each claims a training, and finds in the folder what the others have made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dap.evaluation.kept import Entry
from dap.evaluation.protocol import Outcome
from dap.storage.claims import Claims
from dap.storage.files import SHARED

__all__ = ["Together", "together"]

logger = logging.getLogger(__name__)


class Together:
    """This process among those that share a folder of outcomes.

    Args:
        claims: Of the folder.
    """

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def outcome(self, entry: Entry, work: str, train: Callable[[], Outcome], *, wait: bool) -> Outcome | None:
        """Return the outcome of a training that is kept, or made here; None if another process is at it.

        Args:
            entry: Its files.
            work: What is claimed: trainings that write the same files have the same name.
            train: Makes the outcome.
            wait: Wait for the other process, instead of returning None.
        """
        if (found := entry.outcome()) is not None:
            return found
        if wait:
            with self._claims.turn(work, _say):
                return self._made(entry, train)
        if not self._claims.take(work):
            return None
        try:
            return self._made(entry, train)
        finally:
            self._claims.release(work)

    def _made(self, entry: Entry, train: Callable[[], Outcome]) -> Outcome:
        found = entry.outcome()  # another may have made it since the last look
        if found is None:
            found = train()
            entry.finish(found)
        return found


def _say(worker: str) -> None:
    logger.debug("waiting for %s, which makes a training of this evaluation", worker)


@contextmanager
def together(folder: Path) -> Iterator[Together]:
    """Join the processes that share a folder of outcomes, for the block."""
    with Claims(folder / SHARED) as claims:
        yield Together(claims)
