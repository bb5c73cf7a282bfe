"""Which groups of rows of an index this process computes, when several fill it: each claims one after the other.

A group is computed by some process until the index has it. What each computes depends on the group alone, so the index
has the same bytes whoever fills it.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import TypeAlias

from dap.index import ClassRows, IndexWriter
from dap.stopping import check_stop
from dap.storage.claims import Claims, pauses
from dap.storage.waiting import waiting_for

__all__ = ["Group", "groups_to_fill", "pending_groups", "rows_in"]

Group: TypeAlias = tuple[ClassRows, int, int]
"""The rows of a class, the first one of a group, and the one after its last."""


def pending_groups(writer: IndexWriter) -> list[Group]:
    """Return the groups that an index lacks, as far as its writer knows."""
    return [(rows, start, stop) for rows in writer.classes for start, stop in writer.pending(rows.name)]


def rows_in(groups: Sequence[Group]) -> int:
    """Return the number of rows of some groups."""
    return sum(stop - start for _, start, stop in groups)


def groups_to_fill(writer: IndexWriter, claims: Claims, entry: str = "") -> Generator[Group, None, None]:
    """Yield each group that this process is to compute and write; its claim ends when the next one is asked for.

    Ends when the index has all of them.

    Args:
        writer: The index.
        claims: This process among those that fill it.
        entry: Before the names of the claims, where the claims are for other work too.
    """
    say, waits = waiting_for(writer.out, "to write the last groups"), pauses()
    numbers = {rows.name: number for number, rows in enumerate(writer.classes)}
    free = (
        True  # whether there may be groups that nobody has claimed; later the claims are tried: workers may have died
    )
    while True:
        writer.refresh()
        groups = pending_groups(writer)
        if not groups:
            return
        taken, worked, owner = claims.taken() if free else set(), False, ""
        for rows, start, stop in groups:
            check_stop(writer.out)
            work = f"{entry}group-{numbers[rows.name]}-{start}"
            if work in taken or not claims.take(work):
                owner = owner or claims.owner(work)
                continue
            try:
                writer.refresh()  # another may have written it and ended its claim since the last look
                if (start, stop) in writer.pending(rows.name):
                    worked = True
                    yield rows, start, stop
            finally:
                claims.release(work)
            taken = claims.taken() if free else set()
        if not worked and not free:
            say(owner)
            time.sleep(next(waits))
        free = worked
