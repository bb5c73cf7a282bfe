"""Writes an index group by group of rows, so that a killed build goes on where it was.

Each group's rows are written at their place into ``<file>.partial`` and synced before the ledger says so. When all
groups of a class are there, its files are hashed and renamed; ``index.json`` comes last.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import dap._core as _core
from dap.data.manifest import check_same_run
from dap.data.names import escape
from dap.errors import FormatError, OptionError, RunMismatchError
from dap.index.metadata import FILES, FileRecord, IndexClass, write_metadata
from dap.index.reader import Index, open_index
from dap.index.spec import (
    BLOCK_BYTES,
    DTYPES,
    FEATURES,
    IDS,
    INDEX,
    LATENTS,
    LEDGER,
    ClassRows,
    IndexSpec,
    dump,
    index_bytes,
    row_groups,
    tensor_name,
)
from dap.registry import unknown_name_error
from dap.storage.files import write_atomic

__all__ = ["IndexWriter"]


class IndexWriter:
    """An index that is being built, or continued after whatever stopped it. One process at a time may build it.

    Attributes:
        out: The folder.
        spec: What the index holds.
        classes: The rows of each class.
    """

    def __init__(self, out: str | Path, spec: IndexSpec, classes: Sequence[ClassRows]) -> None:
        """Starts an index in ``out``, or continues the one that is there; a finished one has nothing pending.

        Args:
            out: The folder: missing, empty, or left by a build of the same spec and rows.
            spec: What the index holds.
            classes: The rows of each class, in the order of the index; names differ.

        Raises:
            OptionError: No classes, two of one name, or not enough free space.
            RunMismatchError: The folder holds another index, whose differences are named, or something else.
            FormatError: What is there is damaged.
        """
        self.out, self.spec, self.classes = Path(out), spec, tuple(classes)
        self._by_name = {each.name: each for each in self.classes}
        if not classes or len(self._by_name) != len(classes):
            raise OptionError("classes: expected at least one, and no name twice")
        self._done: dict[str, set[int]] = {each.name: set() for each in self.classes}
        self._records: dict[str, dict[str, FileRecord]] = {}
        plan = _plan(spec, self.classes)
        if (self.out / INDEX).exists():
            index = open_index(self.out)
            found = [ClassRows(each.name, each.label, index.ids(each.name)) for each in index.classes]
            check_same_run(self.out, _plan(index.spec, found), plan)
            self._done = {each.name: {start for start, _ in row_groups(len(each.ids))} for each in self.classes}
            self._records = {each.name: dict(each.files) for each in index.classes}
        elif (self.out / LEDGER).exists():
            self._replay(plan)
            self._check_space()
        else:
            if self.out.exists() and any(not each.name.startswith(".tmp-") for each in self.out.iterdir()):
                raise RunMismatchError(f"{self.out} holds something else than a feature index: choose another folder")
            self.out.mkdir(parents=True, exist_ok=True)
            self._check_space()
            write_atomic(self.out / LEDGER, json.dumps(plan).encode("ascii") + b"\n")

    def pending(self, class_name: str) -> list[tuple[int, int]]:
        """The rows (start, stop) of this class that are still to be written: groups of ``GROUP_ROWS``, in order.

        Of a part, these are rows of the part: its first group begins at 0, wherever it stands in the whole class.
        """
        each = self._of_class(class_name)
        return [group for group in row_groups(len(each.ids)) if group[0] not in self._done[class_name]]

    def write(self, class_name: str, start: int, latents: npt.ArrayLike, features: Mapping[int, npt.ArrayLike]) -> None:
        """Writes one pending group; when this returns, it is on disk and recorded.

        Args:
            class_name: The class.
            start: First row of the group, as ``pending`` gave it.
            latents: With shape (n, C, h, w), n the rows of the group; converted to the spec's ``latent_dtype``.
            features: By timestep, each with shape (n, D); converted to the spec's ``dtype``.

        Raises:
            OptionError: Another shape, a timestep that is missing or unknown, a value that is not finite in the
                stored dtype, or a group that is not pending.
        """
        stop = dict(self.pending(class_name)).get(start)
        if stop is None:
            raise OptionError(f"start: class {class_name!r} has no pending group from row {start}")
        spec = self.spec
        if set(features) != set(spec.timesteps):
            raise OptionError(f"features: expected the timesteps {spec.timesteps}, got {tuple(features)}")
        rows = stop - start
        named = [
            (tensor_name(t), _stored(tensor_name(t), features[t], (rows, *spec.feature_shape), spec.dtype))
            for t in spec.timesteps
        ]
        z = _stored("latents", latents, (rows, *spec.latent_shape), spec.latent_dtype)
        if not self._done[class_name]:
            self._create(self._by_name[class_name])
        _core.write_rows(self._file(class_name, FEATURES), start, named)
        _core.write_rows(self._file(class_name, LATENTS), start, [("latents", z)])
        self._append({"class": class_name, "start": start})
        self._done[class_name].add(start)
        if not self.pending(class_name):
            self._close(self._by_name[class_name])

    def finish(self) -> Index:
        """Writes ``index.json`` and opens the index.

        Raises:
            OptionError: Groups are still pending.
        """
        for each in self.classes:
            if self.pending(each.name):
                raise OptionError(f"class {each.name!r} still has {len(self.pending(each.name))} groups to be written")
            if each.name not in self._records:
                self._close(each)
        if not (self.out / INDEX).exists():
            entries = [
                IndexClass(each.name, each.label, escape(each.name), len(each.ids), self._records[each.name])
                for each in self.classes
            ]
            write_metadata(self.out, self.spec, entries)
        (self.out / LEDGER).unlink(missing_ok=True)
        return open_index(self.out)

    def _of_class(self, class_name: str) -> ClassRows:
        if class_name not in self._by_name:
            raise unknown_name_error("class", class_name, self._by_name)
        return self._by_name[class_name]

    def _file(self, class_name: str, name: str) -> Path:
        return self.out / escape(class_name) / name

    def _create(self, each: ClassRows) -> None:
        """Makes the files of a class of which nothing is recorded."""
        self._file(each.name, FEATURES).parent.mkdir(exist_ok=True)
        rows, dtype = len(each.ids), DTYPES[self.spec.dtype]
        tensors = [(tensor_name(t), dtype, [rows, *self.spec.feature_shape]) for t in self.spec.timesteps]
        _core.create_tensors(self._file(each.name, FEATURES), tensors)
        latents = ("latents", DTYPES[self.spec.latent_dtype], [rows, *self.spec.latent_shape])
        _core.create_tensors(self._file(each.name, LATENTS), [latents])

    def _close(self, each: ClassRows) -> None:
        """Gives the files of a class their names, and records their hashes."""
        if not each.ids:
            self._create(each)
        for name in (FEATURES, LATENTS):
            if _partial(self._file(each.name, name)).exists():  # else a kill came after the rename
                _core.finish_tensors(self._file(each.name, name))
        write_atomic(self._file(each.name, IDS), dump(list(each.ids)))
        records = {}
        for name in FILES:
            file = self._file(each.name, name)
            records[name] = FileRecord(file.stat().st_size, tuple(_core.hash_blocks(file, BLOCK_BYTES)))
        entries = {name: {"bytes": record.bytes, "blocks": record.blocks} for name, record in records.items()}
        self._append({"class": each.name, "files": entries})
        self._records[each.name] = records

    def _append(self, line: dict[str, Any]) -> None:
        with (self.out / LEDGER).open("ab") as file:
            file.write(json.dumps(line).encode("ascii") + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _replay(self, plan: Mapping[str, Any]) -> None:
        """Takes up what the ledger records."""
        ledger = self.out / LEDGER
        *lines, rest = ledger.read_bytes().split(b"\n")
        if rest:  # cut short by a kill: dropped from the file too, so that the next line does not join it
            write_atomic(ledger, b"".join(line + b"\n" for line in lines))
        damaged = f"{ledger}: damaged; delete {self.out} and build again"
        try:
            before, *entries = map(json.loads, lines)
        except ValueError as error:
            raise FormatError(damaged) from error
        check_same_run(self.out, before, plan)
        try:
            for entry in entries:
                if "start" in entry:
                    self._done[entry["class"]].add(entry["start"])
                else:
                    files = entry["files"].items()
                    self._records[entry["class"]] = {
                        name: FileRecord(record["bytes"], tuple(record["blocks"])) for name, record in files
                    }
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(damaged) from error
        for each in self.classes:
            files = [self._file(each.name, name) for name in (FEATURES, LATENTS)]
            if not all(file.exists() or _partial(file).exists() for file in files):
                self._done[each.name].clear()  # somebody deleted them: made again
                self._records.pop(each.name, None)

    def _check_space(self) -> None:
        names = [self._file(each.name, name) for each in self.classes for name in (FEATURES, LATENTS)]
        present = [file for name in names for file in (name, _partial(name)) if file.exists()]
        written = sum(getattr(file.stat(), "st_blocks", 0) * 512 for file in present)
        need = index_bytes(self.spec, [len(each.ids) for each in self.classes]) - written
        free = shutil.disk_usage(self.out).free
        if need > free:
            raise OptionError(
                f"{self.out}: the index takes {need / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free; "
                "choose fewer timesteps, images or classes, a smaller pooling, or another disk"
            )


def _plan(spec: IndexSpec, classes: Sequence[ClassRows]) -> dict[str, Any]:
    """What may not change while an index is being built."""
    rows = {
        each.name: {
            "position": position, "label": each.label, "rows": len(each.ids),
            "ids": hashlib.sha256(dump(list(each.ids))).hexdigest(),
        }
        for position, each in enumerate(classes)
    }  # fmt: skip
    return {**spec.to_json(), "classes": rows}


def _partial(file: Path) -> Path:
    return file.with_name(f"{file.name}.partial")


def _stored(name: str, values: npt.ArrayLike, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
    """Rows as they are stored: 2-D and C-contiguous."""
    array = np.asarray(values)
    if array.shape != shape:
        raise OptionError(f"{name}: expected shape {shape}, got {array.shape}")
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(array, dtype).reshape(shape[0], math.prod(shape[1:]))
    if not np.isfinite(stored).all():
        raise OptionError(f"{name}: expected values that are finite in {dtype}; float32 holds larger ones")
    return stored
