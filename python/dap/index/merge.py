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
    """Join all n parts i/n into the whole index, with the bytes that one machine would have written.

    All parts are verified first: otherwise damaged data would get new hashes and look sound.

    Args:
        parts: Folders or opened indexes: each part once, in any order.
        out: Folder of the whole index; a merge that was stopped is continued.

    Raises:
        OptionError: Parts are missing, given twice, or of different builds; the message says what differs.
        FormatError: A part is damaged.
    """
    indexes = [part if isinstance(part, Index) else open_index(part) for part in parts]
    indexes.sort(key=lambda part: part.spec.shard or (0, 0))
    _check_parts(indexes)
    for part in indexes:
        part.verify()
    classes = [_joined_class(indexes, position) for position in range(len(indexes[0].classes))]
    writer = IndexWriter(out, dataclasses.replace(indexes[0].spec, shard=None), classes)
    with writer.alone():
        for name in (entry.name for entry in classes):
            for start, stop in writer.pending(name):
                part, first = _place(indexes, start)
                rows = slice(first, first + stop - start)
                features = {t: part.features(name, t)[rows] for t in part.timesteps}
                writer.write(name, start, part.latents(name)[rows], features)
        return writer.finish()


def _check_parts(parts: Sequence[Index]) -> None:
    shards = [part.spec.shard for part in parts]
    count = shards[0][1] if shards and shards[0] else 0
    if not count or shards != [(number, count) for number in range(1, count + 1)]:
        shown = ", ".join(f"{shard[0]}/{shard[1]}" if shard else "a whole index" for shard in shards)
        raise OptionError(f"parts: expected each of the parts 1/n to n/n once, got {shown or 'none'}")
    first = parts[0]
    for part in parts[1:]:
        options, expected = (dataclasses.replace(index.spec, shard=None).to_json() for index in (part, first))
        differing = [
            f"{key}: {expected.get(key)!r} and {options.get(key)!r}"
            for key in expected | options
            if options.get(key) != expected.get(key)
        ]
        if _names_and_labels(part) != _names_and_labels(first):
            differing.append("other classes")
        if differing:
            raise OptionError(f"parts: {first.path} and {part.path} are of different builds ({'; '.join(differing)})")


def _names_and_labels(index: Index) -> list[tuple[str, int | None]]:
    return [(entry.name, entry.label) for entry in index.classes]


def _joined_class(parts: Sequence[Index], position: int) -> ClassRows:
    """Return the rows of a class in the order of the whole index."""
    entry = parts[0].classes[position]
    rows = [part.classes[position].rows for part in parts]
    for number, count in enumerate(rows, 1):
        expected = sum(stop - start for start, stop in row_groups(sum(rows), (number, len(parts))))
        if count != expected:
            raise OptionError(
                f"parts: part {number} has {count} rows of class {entry.name!r}, expected {expected} of {sum(rows)}"
            )
    by_part = [part.ids(entry.name) for part in parts]
    ids: list[str] = []
    for start, stop in row_groups(sum(rows)):
        first = start // (GROUP_ROWS * len(parts)) * GROUP_ROWS
        ids += by_part[start // GROUP_ROWS % len(parts)][first : first + stop - start]
    return ClassRows(entry.name, entry.label, tuple(ids))


def _place(parts: Sequence[Index], start: int) -> tuple[Index, int]:
    """Return the part that has the group from row ``start`` of the whole index, and the group's first row in it."""
    return parts[start // GROUP_ROWS % len(parts)], start // (GROUP_ROWS * len(parts)) * GROUP_ROWS
