"""Joins the parts of an index that was built by several machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from dap.errors import OptionError
from dap.index.reader import Index, open_index
from dap.index.spec import GROUP_ROWS, ClassRows, row_groups
from dap.index.writer import IndexWriter

__all__ = ["merge"]


def merge(parts: Sequence[str | Path | Index], out: str | Path) -> Index:
    """The whole index of all n parts i/n, byte for byte what one machine would have built.

    The parts are verified first, so that damage is not given a new hash.

    Args:
        parts: Folders or opened indexes: each part once, in any order.
        out: Folder of the whole; a merge that was stopped is continued.

    Raises:
        OptionError: Parts are missing, given twice, or of different builds; says which and what differs.
        FormatError: A part is damaged.
    """
    opened = [part if isinstance(part, Index) else open_index(part) for part in parts]
    opened.sort(key=lambda part: part.spec.shard or (0, 0))
    _check_parts(opened)
    for part in opened:
        part.verify()
    classes = [_whole_class(opened, position) for position in range(len(opened[0].classes))]
    writer = IndexWriter(out, dataclasses.replace(opened[0].spec, shard=None), classes)
    for each in writer.classes:
        for start, stop in writer.pending(each.name):
            part, first = _place(opened, start)
            rows = slice(first, first + stop - start)
            features = {t: part.features(each.name, t)[rows] for t in part.timesteps}
            writer.write(each.name, start, part.latents(each.name)[rows], features)
    return writer.finish()


def _check_parts(parts: Sequence[Index]) -> None:
    given = [part.spec.shard for part in parts]
    count = given[0][1] if given and given[0] else 0
    if not count or given != [(number, count) for number in range(1, count + 1)]:
        shown = ", ".join(f"{shard[0]}/{shard[1]}" if shard else "a whole index" for shard in given)
        raise OptionError(f"parts: expected each of the parts 1/n to n/n once, got {shown or 'none'}")
    first = parts[0]
    for part in parts[1:]:
        mine, others = (dataclasses.replace(each.spec, shard=None).to_json() for each in (part, first))
        differing = [f"{key}: {others[key]!r} and {mine[key]!r}" for key in mine if mine[key] != others[key]]
        if [(each.name, each.label) for each in part.classes] != [(each.name, each.label) for each in first.classes]:
            differing.append("other classes")
        if differing:
            raise OptionError(f"parts: {first.path} and {part.path} are of different builds ({'; '.join(differing)})")


def _whole_class(parts: Sequence[Index], position: int) -> ClassRows:
    """The rows of a class, dealt back from its parts."""
    each = parts[0].classes[position]
    rows = [part.classes[position].rows for part in parts]
    for number, found in enumerate(rows, 1):
        expected = sum(stop - start for start, stop in row_groups(sum(rows), (number, len(parts))))
        if found != expected:
            raise OptionError(
                f"parts: part {number} has {found} rows of class {each.name!r}, expected {expected} of {sum(rows)}"
            )
    by_part = [part.ids(each.name) for part in parts]
    ids: list[str] = []
    for start, stop in row_groups(sum(rows)):
        first = start // (GROUP_ROWS * len(parts)) * GROUP_ROWS
        ids += by_part[start // GROUP_ROWS % len(parts)][first : first + stop - start]
    return ClassRows(each.name, each.label, tuple(ids))


def _place(parts: Sequence[Index], start: int) -> tuple[Index, int]:
    """The part that has the group from row ``start`` of the whole, and its first row there."""
    return parts[start // GROUP_ROWS % len(parts)], start // (GROUP_ROWS * len(parts)) * GROUP_ROWS
