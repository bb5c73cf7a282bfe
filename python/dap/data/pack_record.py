"""``pack.json`` and its ledger: what is packed, with which options, and which shards are finished."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dap.data.manifest import check_same_run, verify_files
from dap.data.shard_paths import PACKED
from dap.errors import DapError, RunMismatchError
from dap.storage.checked_json import (
    BELOW,
    SHA256,
    TEXT,
    Mismatch,
    check_shape,
    choice,
    fields,
    items,
    mapping,
    read_json,
    whole,
)
from dap.storage.files import is_vacant, remove_below, sweep, write_json
from dap.storage.ledger import Ledger

__all__ = ["PackRecord", "read_pack_record"]

LEDGER, SCHEMA = ".dap-pack.jsonl", 1
ADVICE = "it is damaged, or not what dap writes beside packed shards: restore it, or choose another folder"


def _check_skipped(name: str, value: object) -> None:
    """The shape of the number and message of a sample that was left out."""
    if not isinstance(value, list) or len(value) != 2:
        raise Mismatch(name, "a number and a message", value)
    whole()(name, value[0])
    TEXT(name, value[1])


CONTENT = {"files": mapping(SHA256, keys=BELOW), "images": whole(), "skipped": items(_check_skipped)}
LINE = fields({**CONTENT, "next": whole()})
RECORD = fields({"schema": choice(SCHEMA), "status": choice("running", "complete")}, more=True)
WHOLE_RECORD = fields(CONTENT, more=True)
ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")  # in an error's message; it differs from run to run


class PackRecord:
    """The record of a packed set: what an earlier packing finished, and what this one adds.

    Opening reads and checks; :meth:`begin` is the first to write.

    Args:
        out: The folder of the packed set.
        header: The options, as JSON; those of an earlier packing in the folder must be the same.

    Attributes:
        complete: All of ``pack.json``, if the packing is finished and every file is there; else None.
        shards: Number of finished shards.
        consumed: Number of samples that went into them, or were left out before them.

    Raises:
        FormatError: ``pack.json`` or the ledger is damaged.
        RunMismatchError: The folder holds something else, or a file differs from its hash.
    """

    def __init__(self, out: Path, header: Mapping[str, object]) -> None:
        self._out = out
        self._ledger = Ledger(out / LEDGER)
        self._header: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, **header}))
        self._lines: list[dict[str, Any]] = []  # one for each finished shard
        self._skipped: list[tuple[int, str]] = []  # since the last line
        self.complete: dict[str, Any] | None = None
        self.shards = self.consumed = 0
        record = self._read()
        if record is None:
            return
        check_same_run(out, {key: record.get(key) for key in self._header}, self._header)
        if record["status"] == "complete":
            if len(verify_files(out, record["files"])) == len(record["files"]):
                self.complete = record
            return
        for line in self._ledger.read(LINE):
            if len(verify_files(out, line["files"])) < len(line["files"]):
                break
            self._lines.append(line)
        self.shards = len(self._lines)
        self.consumed = self._lines[-1]["next"] if self._lines else 0

    @property
    def left_out(self) -> set[int]:
        """Numbers of the samples that were skipped so far."""
        return {index for line in self._lines for index, _ in line["skipped"]} | {index for index, _ in self._skipped}

    def begin(self) -> None:
        """Remove what a killed packing left unfinished, and write ``pack.json`` and the ledger of what is finished."""
        self._out.mkdir(parents=True, exist_ok=True)
        sweep(self._out)
        self._write({"status": "running"})
        self._ledger.write(self._lines)

    def clean(self) -> None:
        """Remove what is left of a packing that was killed when all but its clean-up was done."""
        self._ledger.remove()
        sweep(self._out)

    def withdraw(self, error: DapError) -> None:
        """Remove all that was packed: a packing of other images or with other options could not continue it.

        Finished shards stay after a failure of the disk, which may have been for a moment: the same call continues.
        """
        if self.shards and isinstance(error.__cause__, OSError):
            return
        remove_below(self._out, [path for line in self._lines for path in line["files"]])
        (self._out / PACKED).unlink(missing_ok=True)
        self.clean()

    def skip(self, index: int, message: str) -> None:
        """Note that a sample was left out."""
        self._skipped.append((index, ADDRESS.sub("", message)))

    def note(self, files: Mapping[str, str], images: int, following: int) -> None:
        """Record a finished shard, and wait until the record is on disk.

        Args:
            files: SHA-256 by path.
            images: Number of images in the shard.
            following: Number of the first sample of the next shard, or of all samples.
        """
        skipped = [entry for entry in self._skipped if entry[0] < following]
        self._skipped = self._skipped[len(skipped) :]
        line = {"files": dict(files), "images": images, "next": following, "skipped": skipped}
        self._lines.append(line)
        self.shards += 1
        self._ledger.append(line)

    def finish(self) -> dict[str, Any]:
        """Write the whole of ``pack.json``, remove the ledger, and return what was written."""
        files = {path: sha256 for line in self._lines for path, sha256 in line["files"].items()}
        skipped = [list(entry) for line in self._lines for entry in line["skipped"]]
        skipped += [list(entry) for entry in self._skipped]
        record = self._write(
            {
                "status": "complete",
                "images": sum(line["images"] for line in self._lines),
                "skipped": skipped,
                "files": dict(sorted(files.items())),
            }
        )
        self._ledger.remove()
        return record

    def _write(self, state: Mapping[str, object]) -> dict[str, Any]:
        record = {**self._header, **state}
        write_json(self._out / PACKED, record)
        return record

    def _read(self) -> dict[str, Any] | None:
        path = self._out / PACKED
        if not path.is_file():
            if not is_vacant(self._out):
                raise RunMismatchError(
                    f"{self._out} is not empty and holds no {PACKED}: choose a new or an empty folder"
                )
            return None
        return read_pack_record(path)


def read_pack_record(path: Path) -> dict[str, Any]:
    """Return all of a ``pack.json``.

    Raises:
        FormatError: It is damaged.
    """
    record: dict[str, Any] = read_json(path, RECORD, advice=ADVICE)
    if record["status"] == "complete":
        check_shape(path, record, WHOLE_RECORD, advice=ADVICE)
    return record
