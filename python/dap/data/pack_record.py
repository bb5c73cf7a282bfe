"""``pack.json`` and the ledger beside it: what was packed, with which options, and which shards are finished."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dap.data.manifest import check_same_run, verify_files
from dap.data.shard_paths import PACKED
from dap.errors import FormatError, RunMismatchError
from dap.storage.files import write_atomic

__all__ = ["PackRecord"]

LEDGER, SCHEMA = ".dap-pack.jsonl", 1
ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")  # in a message it would be another one each time


class PackRecord:
    """What is in a folder already, and the notes on what is added.

    Opening reads and checks; :meth:`begin` is the first to write.

    Args:
        out: The folder.
        header: The options, as JSON; those of a packing that is there must be the same.

    Attributes:
        complete: All of ``pack.json``, if the packing is finished and every file is there; else None.
        shards: How many shards are finished.
        consumed: How many samples went into them, or were left out before them.

    Raises:
        FormatError: ``pack.json`` or the ledger is damaged.
        RunMismatchError: The folder holds something else, or a file differs from its hash.
    """

    def __init__(self, out: Path, header: Mapping[str, Any]) -> None:
        self._out = out
        self._header: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, **header}))
        self._lines: list[dict[str, Any]] = []
        self._skipped: list[tuple[int, str]] = []  # since the last line
        self.complete: dict[str, Any] | None = None
        self.shards = self.consumed = 0
        before = self._read()
        if before is None:
            return
        check_same_run(out, {key: before.get(key) for key in self._header}, self._header)
        if before["status"] == "complete":
            whole = len(verify_files(out, before["files"])) == len(before["files"])
            self.complete = before if whole else None
            return
        for line in self._read_ledger():
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
        """Clears away what a kill left, and writes what is known before the next shard."""
        self._out.mkdir(parents=True, exist_ok=True)
        for leftover in self._out.rglob(".tmp-*"):
            leftover.unlink()
        self._write({"status": "running"})
        write_atomic(self._out / LEDGER, "".join(map(_line, self._lines)).encode())

    def skip(self, index: int, message: str) -> None:
        """Notes that a sample was left out."""
        self._skipped.append((index, ADDRESS.sub("", message)))

    def note(self, files: Mapping[str, str], images: int, following: int) -> None:
        """Notes a finished shard, and waits until the note is on disk.

        Args:
            files: SHA-256 by path.
            images: How many it holds.
            following: Number of the first sample of the next shard, or of all samples.
        """
        before = [entry for entry in self._skipped if entry[0] < following]
        self._skipped = self._skipped[len(before) :]
        line = {"files": dict(files), "images": images, "next": following, "skipped": before}
        self._lines.append(line)
        self.shards += 1
        with (self._out / LEDGER).open("a", encoding="utf-8") as file:
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> dict[str, Any]:
        """Writes the whole of ``pack.json``, removes the ledger, and returns what was written."""
        files = {path: sha for line in self._lines for path, sha in line["files"].items()}
        skipped = [list(entry) for line in self._lines for entry in line["skipped"]]
        skipped += [list(entry) for entry in self._skipped]
        written = self._write(
            {
                "status": "complete",
                "images": sum(line["images"] for line in self._lines),
                "skipped": skipped,
                "files": dict(sorted(files.items())),
            }
        )
        (self._out / LEDGER).unlink()
        return written

    def _write(self, state: Mapping[str, Any]) -> dict[str, Any]:
        record = {**self._header, **state}
        write_atomic(self._out / PACKED, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
        return record

    def _read(self) -> dict[str, Any] | None:
        path = self._out / PACKED
        if not path.is_file():
            if self._out.exists() and (
                not self._out.is_dir() or any(not entry.name.startswith(".tmp-") for entry in self._out.iterdir())
            ):
                raise RunMismatchError(
                    f"{self._out} is not empty and holds no {PACKED}: choose a new or an empty folder"
                )
            return None
        try:
            record = json.loads(path.read_bytes())
            if record["schema"] != SCHEMA or record["status"] not in ("running", "complete"):
                raise ValueError(f"schema {record['schema']!r}, status {record['status']!r}")
            if record["status"] == "complete":
                dict(record["files"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise FormatError(f"{path}: expected what dap writes beside packed shards ({error})") from error
        return dict(record)

    def _read_ledger(self) -> list[dict[str, Any]]:
        path = self._out / LEDGER
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []  # the last was cut short, or is empty
        return [json.loads(line) for line in lines]


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
