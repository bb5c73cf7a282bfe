"""The append-only ledger of finished work: a file of JSON lines, each on disk before the next piece of work starts.

A process that is killed while it writes leaves a last line without an end. Reading drops that line, so its work is done
again; the next append cuts it off the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from dap.errors import FormatError
from dap.storage.checked_json import ANYTHING, Shape, check_shape, mapping, parse_json, read_regular
from dap.storage.files import naming, write_atomic

__all__ = ["START", "Ledger", "Mark"]

OBJECT = mapping(ANYTHING)


class Mark(NamedTuple):
    """How far a ledger was read: the number of lines, where the last one ends, and that line."""

    lines: int
    end: int
    last: bytes


START = Mark(0, 0, b"")
"""Before the first line."""


@dataclass(frozen=True)
class Ledger:
    """A ledger on disk, whether it is there already or not. One process at a time may write it.

    Attributes:
        path: The file; its folder exists when a line is written.
        ascii: Whether characters beyond ASCII are escaped: then any text can be written, lone surrogates too.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ledger = Ledger(Path(folder, "ledger.jsonl"))
        ...     ledger.append({"files": 1})
        ...     _ = ledger.path.write_bytes(ledger.path.read_bytes() + b'{"fil')  # killed here
        ...     ledger.append({"files": 2})
        ...     ledger.read()
        [{'files': 1}, {'files': 2}]
    """

    path: Path
    ascii: bool = False

    def exists(self) -> bool:
        """Return whether the file is there."""
        return self.path.is_file()

    def write(self, entries: Iterable[Mapping[str, object]]) -> None:
        """Write the whole ledger, in place of the one that is there."""
        write_atomic(self.path, b"".join(map(self._line, entries)))

    def append(self, entry: Mapping[str, object]) -> None:
        """Add a line, in a new file if there is none, and wait until it is on disk."""
        with naming(self.path), self.path.open("a+b") as file:
            _cut_torn_line(file)
            file.write(self._line(entry))
            file.flush()
            os.fsync(file.fileno())

    def read(self, shape: Shape = OBJECT) -> list[dict[str, Any]]:
        """Return the entries of all lines that were finished; none where there is no file.

        Args:
            shape: What each line has to be, beside a JSON object.

        Raises:
            FormatError: It is no regular file, or a finished line is something else; names the line and the field.
        """
        read = self.read_on(START, shape)
        return [] if read is None else read[0]

    def read_on(self, mark: Mark, shape: Shape = OBJECT) -> tuple[list[dict[str, Any]], Mark] | None:
        """Return the entries of the lines that were finished after a mark, and the mark after them.

        Args:
            mark: ``START``, or what an earlier call has returned.
            shape: What each line has to be, beside a JSON object.

        Returns:
            None where there is no file, or one that was written anew since.

        Raises:
            FormatError: As for :meth:`read`.
        """
        try:
            data = read_regular(self.path, start=mark.end - len(mark.last))
        except FileNotFoundError:
            return None
        if not data.startswith(mark.last):
            return None
        *lines, _ = data[len(mark.last) :].split(b"\n")
        entries = []
        for number, line in enumerate(lines, mark.lines + 1):
            place, advice = f"{self.path}: damaged, line {number}", self.advice
            entries.append(parse_json(place, line, advice=advice))
            for needed in (OBJECT, shape):
                check_shape(place, entries[-1], needed, advice=advice)
        if not lines:
            return entries, mark
        end = mark.end + sum(len(line) + 1 for line in lines)
        return entries, Mark(mark.lines + len(lines), end, lines[-1] + b"\n")

    def remove(self) -> None:
        """Delete the file if it is there."""
        self.path.unlink(missing_ok=True)

    def damaged(self, reason: str) -> FormatError:
        """Return the error for a ledger whose lines are not what they should be."""
        return FormatError(f"{self.path}: damaged ({reason}); {self.advice}")

    @property
    def advice(self) -> str:
        """The advice in the error for a damaged ledger."""
        return f"delete {self.path.parent} and start again"

    def _line(self, entry: Mapping[str, object]) -> bytes:
        return json.dumps(entry, ensure_ascii=self.ascii).encode() + b"\n"


def _cut_torn_line(file: BinaryIO) -> None:
    """Cut the file behind its last line break, if it does not end with one."""
    if file.seek(0, os.SEEK_END) == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read() != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
