"""Which units this process makes, when several work on one run: each claims a unit, and looks for the next.

Every unit is tried by some process until its files are there. One that fails is left for later, and tried again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence

from dap.errors import DapError, StorageError, UnitError
from dap.methods import Unit
from dap.run.folder import RunFolder
from dap.short_memory import ADVICE, in_own_words, is_short_memory
from dap.stopping import check_stop
from dap.storage.claims import Claims, pauses
from dap.storage.waiting import waiting_for

__all__ = ["note_failure", "raise_failures", "units_to_make"]

SHOWN = 3  # failed units that an error names

logger = logging.getLogger(__name__)


def units_to_make(
    folder: RunFolder, claims: Claims, numbers: Sequence[int], elsewhere: Callable[[int], None], retries: int
) -> Generator[Unit, None, None]:
    """Yield each unit that this process is to make; its claim ends when the next one is asked for.

    Ends when all units are recorded, or have failed too often. Units that others have claimed are looked at again when
    there is no free one: they may have failed, or their worker may have died.

    Args:
        folder: The folder of the run.
        claims: This process among those that work on the run.
        numbers: The units that are missing.
        elsewhere: Called with each number of a unit that another process has made.
        retries: How often a unit that failed is tried again.
    """
    say, waits, first = waiting_for(folder.out, "to make the last units"), pauses(), True
    while numbers:
        folder.refresh()
        taken = claims.taken() if first else set()
        left: list[int] = []
        worked = False
        for number in numbers:
            check_stop(folder.out)
            name = f"unit-{number}"
            if not folder.awaits(number):
                elsewhere(number)
            elif folder.state.failures[number] > retries:
                continue
            elif name in taken or not claims.take(name):
                left.append(number)
            else:
                try:
                    folder.refresh()  # another may have made it and ended its claim since the last look
                    if folder.awaits(number):
                        claims.note(name)
                        worked = True
                        yield folder.units[number]
                    else:
                        elsewhere(number)
                finally:
                    claims.release(name)
                left += [number] if folder.awaits(number) else []
                taken = claims.taken() if first else set()
        if left and not worked and not first:
            say(claims.owner(f"unit-{left[0]}"))
            time.sleep(next(waits))
        numbers, first = left, False


def note_failure(folder: RunFolder, unit: Unit, error: Exception, retries: int) -> None:
    """Keep the error of a unit, and let the run go on; or raise it, where the others would fail too.

    Args:
        folder: The folder of the run.
        unit: The unit.
        error: What making it has raised.
        retries: See :func:`units_to_make`.

    Raises:
        DapError: Nothing of the run has been made yet, or the disk is full.
        Exception: The error, if nothing was made and this is the last try.
    """
    tries = sum(folder.state.failures.values()) + 1
    nothing = not folder.has_images
    if isinstance(error, StorageError) or (nothing and (isinstance(error, DapError) or tries > retries)):
        if is_short_memory(error):
            several = folder.at_once > 1
            work = f"to make {folder.at_once} images at once" if several else "to make 1 image"
            raise in_own_words(error, work, f"a smaller batch_size=, or {ADVICE}" if several else ADVICE) from error
        raise error
    then = "it is tried again later" if retries else "the others are made"
    logger.warning(
        "%s: unit %d could not be made (%s: %s); %s", folder.out, unit.index, type(error).__name__, error, then
    )
    folder.add_failure(unit, error)


def raise_failures(folder: RunFolder, retries: int) -> None:
    """Raise if there are units that could not be made, each in one try and ``retries`` more.

    Raises:
        UnitError: It names them, with the errors.
    """
    failed = sorted(unit.index for unit in folder.missing())
    if failed:
        errors = "; ".join(f"unit {number}: {folder.state.errors.get(number)}" for number in failed[:SHOWN])
        tries = "one try" if retries == 0 else f"{retries + 1} tries"
        more = f"; and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        raise UnitError(
            f"{folder.out}: {len(failed)} of {len(folder.units)} units could not be made in {tries} "
            f"({errors}{more}); the others are there, and the same command tries these again; if memory is short, "
            "give batch_size= when the run is begun"
        )
