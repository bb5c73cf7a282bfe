"""What there is of a run on disk: the manifest, and what its workers have entered in their ledgers since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dap.data.manifest import LEDGER, MANIFEST, read_ledger, read_manifest, verify_files, write_manifest
from dap.data.records import Records
from dap.errors import FormatError, RunMismatchError
from dap.run.energies import EnergyMeans
from dap.storage.file_states import file_state
from dap.storage.files import SHARED

__all__ = ["RunState"]


class RunState:
    """The manifest and the ledgers of a run, as they are on disk. Other workers may write theirs meanwhile.

    Args:
        out: The output folder.
        worker: The name of this worker among those of the run.

    Attributes:
        before: The manifest when the folder was opened; None: there was none.
        recorded: The files that were recorded then, path to SHA-256, whether they are there or not.
        files: The files that are there; set by :meth:`look`, and added to by :meth:`refresh`.
        finished: Whether the manifest says that the run is complete.
        made: The numbers of the units that have been entered since the folder was opened.
        replaced: Whether another process has replaced the manifest since then; it may have more units.
        failures: How often each unit has failed since the folder was opened, by its number.
        errors: The last error of each of these units.
    """

    def __init__(self, out: Path, worker: str) -> None:
        self._out, self._records = out, Records(out / SHARED, worker)
        self._manifest_state: tuple[int, ...] | None = None
        self.before, self.recorded, lines = self._read()
        before = self.before or {}
        self.files: dict[str, str] = {}
        self.finished = before.get("status") == "complete"
        self._seconds: dict[str, float] = dict(before.get("seconds", {}))
        self._unwritten: dict[str, float] = {}  # seconds of this worker that its ledger does not have yet
        self._threads = set(before.get("threads", ()))
        self._energies: dict[str, dict[str, Any]] = {**before.get("energy", {})}  # by term and unit
        self.made: set[int] = set()
        self.replaced = False
        self.failures: Counter[int] = Counter()
        self.errors: dict[int, str] = {}
        self._states: set[tuple[str | int, ...]] = set()  # path and state
        for line in lines:
            self._enter(line)
            self._states |= {(path, *state) for path, state in line.get("states", {}).items()}
        self._verified: dict[str, list[int]] = {}
        self.made.clear()
        self.failures.clear()

    def look(self, recorded: Mapping[str, str], *, checked: bool) -> None:
        """Set :attr:`files` to those that are there of some recorded files, path to SHA-256.

        A file whose size and times are those of the moment when it was written, or last read here, is not read.

        Args:
            recorded: The files.
            checked: Whether another worker has just looked at them.

        Raises:
            RunMismatchError: A file has other bytes than those that are recorded.
        """
        states = self._states_of(recorded)
        self.files = {path: recorded[path] for path in states}
        if not checked:
            self._verified = {path: state for path, state in states.items() if (path, *state) not in self._states}
            verify_files(self._out, {path: recorded[path] for path in self._verified})

    def keep_states(self) -> None:
        """Enter the states of the files that have been read, so that the next process need not read them."""
        if self._verified:
            self._append({"states": self._verified})
            self._verified = {}

    def refresh(self, manifest: Mapping[str, object]) -> None:
        """Take in what all workers have finished since the last look.

        Args:
            manifest: What this worker will write; the one on disk has to be of the same run.

        Raises:
            RunMismatchError: Another process has made the run a different one, or deleted it.
        """
        for line in self._records.new():
            self._enter(line)
        state = _file_state(self._out / MANIFEST)
        if state != self._manifest_state:
            there = read_manifest(self._out)
            if there is None or _history(there) != _history(manifest):
                raise RunMismatchError(f"{self._out}: another process has changed its {MANIFEST} meanwhile")
            self._manifest_state, self.finished = state, there["status"] == "complete"
            self.files |= there["files"]
            self.replaced = True

    def add(self, unit: int, files: Mapping[str, str], threads: int, energies: EnergyMeans) -> None:
        """Enter the files of a unit, path to SHA-256, in this worker's ledger."""
        states = self._states_of(files)
        line = {"unit": unit, "files": files, "states": states, "seconds": self._unwritten, "threads": threads}
        self._append({**line, "energy": energies} if energies else line)
        self._unwritten = {}

    def add_failure(self, unit: int, error: Exception) -> None:
        """Enter in this worker's ledger that a unit could not be made."""
        self._append({"unit": unit, "error": f"{type(error).__name__}: {error}"})

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage has taken, in all workers together."""
        self._unwritten = _sums(self._unwritten, {stage: round(seconds, 3)})

    def write(self, manifest: Mapping[str, object], status: str) -> None:
        """Write the manifest with the files, times and threads of all workers."""
        self._seconds, self._unwritten = _sums(self._seconds, self._unwritten), {}
        entries: dict[str, object] = {
            "status": status, "files": dict(sorted(self.files.items())),
            "seconds": {stage: round(seconds, 2) for stage, seconds in self._seconds.items()},
        }  # fmt: skip
        if self._threads:
            entries["threads"] = sorted(self._threads)
        if self._energies:
            entries["energy"] = {
                term: dict(sorted(units.items(), key=lambda item: int(item[0])))
                for term, units in sorted(self._energies.items())
            }
        write_manifest(self._out, {**manifest, **entries})
        self._manifest_state, self.finished = _file_state(self._out / MANIFEST), status == "complete"

    def remove_ledgers(self) -> None:
        """Delete the ledgers of all workers, and that of an older version."""
        (self._out / LEDGER).unlink(missing_ok=True)
        self._records.remove()

    def _read(self) -> tuple[dict[str, Any] | None, dict[str, str], list[dict[str, Any]]]:
        """Return the manifest, the files that are recorded, and the lines of the workers, all of one moment."""
        while True:
            self._manifest_state = _file_state(self._out / MANIFEST)
            manifest = read_manifest(self._out)
            try:
                files, lines = read_ledger(self._out), self._records.new()
            except FormatError:
                if self._manifest_state == _file_state(self._out / MANIFEST):
                    raise
                continue
            if self._manifest_state == _file_state(self._out / MANIFEST):
                break
        for line in lines:
            files |= line.get("files", {})
        return manifest, (manifest["files"] | files if manifest else {}), lines

    def _states_of(self, paths: Iterable[str]) -> dict[str, list[int]]:
        """Return the states of those files that are there, by path."""
        return {path: state for path in paths if (state := file_state(self._out / path)) is not None}

    def _append(self, line: dict[str, Any]) -> None:
        with suppress(FileNotFoundError):  # others have finished the run
            self._records.append(line)
        self._enter(line)

    def _enter(self, line: Mapping[str, Any]) -> None:
        if "files" in line:
            self.files |= line["files"]
            self.made.add(line["unit"])
        self._seconds = _sums(self._seconds, line.get("seconds", {}))
        self._threads |= {line["threads"]} if "threads" in line else set()
        for term, means in line.get("energy", {}).items():
            self._energies.setdefault(term, {})[str(line["unit"])] = means
        if "error" in line:
            self.failures[line["unit"]] += 1
            self.errors[line["unit"]] = line["error"]


def _sums(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Return the sums of the numbers with the same name."""
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in {**first, **second}}


def _history(manifest: Mapping[str, Any]) -> list[object]:
    """Return what tells a run from one that grew out of it, or that has other units."""
    units = manifest["ipc_stages"], manifest.get("remade"), manifest["batch_size"], manifest.get("pass_size")
    return [*units, [entry["name"] for entry in manifest["class_map"]]]


def _file_state(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is replaced; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
