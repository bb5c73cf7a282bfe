"""Writes an index group by group of rows, so that a build that was killed continues where it stopped.

The rows of a group are written into ``<file>.partial`` and synced before the ledger records the group. When all groups
of a class are there, its files are renamed and hashed. ``index.json`` is written last.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import dap._core as _core
from dap.config import check_path
from dap.data.manifest import check_same_run
from dap.data.names import escape
from dap.errors import OptionError, RunMismatchError, StorageError
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
    FloatArray,
    IndexSpec,
    dump,
    index_bytes,
    row_groups,
    tensor_name,
)
from dap.registry import unknown_name_error
from dap.storage.checked_json import SHA256, TEXT, check_shape, fields, items, whole
from dap.storage.files import is_vacant, naming, sweep, write_atomic
from dap.storage.ledger import START, Ledger
from dap.storage.lock import folder_lock
from dap.storage.space import check_space

__all__ = ["IndexWriter"]

GROUP = fields({"class": TEXT, "start": whole()})  # two kinds of lines in the ledger
CLOSED = fields({
    "class": TEXT,
    "files": fields(dict.fromkeys(FILES, fields({"bytes": whole(), "blocks": items(SHA256)}))),
})  # fmt: skip


class IndexWriter:
    """An index that is being built. It continues an earlier build of the same folder.

    Each write holds the folder's lock and first reads what other writers of the same index have finished, so that two
    of them cannot harm each other. Inside :meth:`alone` there is no other writer.

    Attributes:
        out: The folder.
        spec: The options that the content depends on.
        classes: The rows of each class.
    """

    def __init__(
        self,
        out: str | Path,
        spec: IndexSpec,
        classes: Sequence[ClassRows],
        *,
        shared: bool = False,
        begins: bool = True,
    ) -> None:
        """Start an index in ``out``, or continue the one that is there; a finished one has nothing pending.

        Args:
            out: The folder: missing, empty, or left by a build of the same spec and rows.
            spec: The options that the content depends on.
            classes: The rows of each class, in the order of the index; names differ.
            shared: Wait while another process writes to the folder, instead of raising.
            begins: Start an index where there is none; otherwise one that is not there, or no more, is an error.

        Raises:
            OptionError: No classes, two of one name, or not enough free space.
            RunMismatchError: The folder holds other files, or another index; the message names the differences.
            FormatError: An index or ledger that is there is damaged.
            StorageError: Another process is building it, or it is not there.
        """
        self.out, self.spec, self.classes = check_path("out", out), spec, tuple(classes)
        self._by_name = {rows.name: rows for rows in self.classes}
        if not classes or len(self._by_name) != len(classes):
            raise OptionError("classes: expected at least one, and no name twice")
        self._done: dict[str, set[int]] = {name: set() for name in self._by_name}
        self._records: dict[str, dict[str, FileRecord]] = {}
        self._ledger, self._mark = Ledger(self.out / LEDGER, ascii=True), START
        self._plan = _plan(spec, self.classes)
        self._alone, self._shared, self._begins = False, shared, begins
        self.refresh()

    def refresh(self) -> None:
        """Read what other writers have finished."""
        with self.alone():
            pass

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other writers out until the block ends; first read what they have finished.

        Raises:
            StorageError: Another process is building the index, or the disk is full.
        """
        if self._alone:
            yield
            return
        with folder_lock(self.out, wait=self._shared), naming(self.out):
            self._alone = True
            try:
                self._read()
                yield
            finally:
                self._alone = False

    def _read(self) -> None:
        """Begin the index, or continue from what is there."""
        if (self.out / INDEX).exists():
            index = open_index(self.out)
            existing = [ClassRows(entry.name, entry.label, index.ids(entry.name)) for entry in index.classes]
            check_same_run(self.out, _plan(index.spec, existing), self._plan)
            self._done = {rows.name: {start for start, _ in row_groups(len(rows.ids))} for rows in self.classes}
            self._records = {entry.name: dict(entry.files) for entry in index.classes}
        elif self._mark != START and (grown := self._ledger.read_on(self._mark)) is not None:
            entries, self._mark = grown
            self._enter(entries)
        elif self._ledger.exists():
            self._replay()
            self._check_space()
        elif not self._begins:
            raise StorageError(f"{self.out}: the index that was begun there is gone; the same call begins it again")
        else:
            if not is_vacant(self.out):
                raise RunMismatchError(f"{self.out} holds something else than a feature index: choose another folder")
            self._check_space()
            self._ledger.write([self._plan])
        self._begins = False

    def pending(self, class_name: str) -> list[tuple[int, int]]:
        """Return the rows (start, stop) of a class that are still to be written: groups of ``GROUP_ROWS``, in order.

        For a part of an index, rows are counted within the part: its first group begins at 0.
        """
        if class_name not in self._by_name:
            raise unknown_name_error("class", class_name, self._by_name)
        groups = row_groups(len(self._by_name[class_name].ids))
        return [group for group in groups if group[0] not in self._done[class_name]]

    def write(self, class_name: str, start: int, latents: npt.ArrayLike, features: Mapping[int, npt.ArrayLike]) -> None:
        """Write one pending group; when this returns, it is on disk and recorded.

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
        count = stop - start
        named = [
            (tensor_name(t), _stored(tensor_name(t), features[t], (count, *spec.feature_shape), spec.dtype))
            for t in spec.timesteps
        ]
        z = _stored("latents", latents, (count, *spec.latent_shape), spec.latent_dtype)
        with self.alone():
            if start in self._done[class_name]:
                return  # another writer of this index was quicker
            if not self._done[class_name]:
                self._create(self._by_name[class_name])
            _core.write_rows(self._file(class_name, FEATURES), start, named)
            _core.write_rows(self._file(class_name, LATENTS), start, [("latents", z)])
            self._ledger.append({"class": class_name, "start": start})
            self._done[class_name].add(start)
            if not self.pending(class_name):
                self._close(self._by_name[class_name])

    def finish(self) -> Index:
        """Write ``index.json``, remove the files of the unfinished index, and open the index.

        Raises:
            OptionError: Groups are still pending.
        """
        with self.alone():
            for rows in self.classes:
                if pending := self.pending(rows.name):
                    raise OptionError(f"class {rows.name!r} still has {len(pending)} groups to be written")
                if rows.name not in self._records:
                    self._close(rows)
            if not (self.out / INDEX).exists():
                entries = [
                    IndexClass(rows.name, rows.label, escape(rows.name), len(rows.ids), self._records[rows.name])
                    for rows in self.classes
                ]
                write_metadata(self.out, self.spec, entries)
            self._ledger.remove()
            sweep(self.out)
        return open_index(self.out)

    def _file(self, class_name: str, name: str) -> Path:
        return self.out / escape(class_name) / name

    def _create(self, rows: ClassRows) -> None:
        """Create the files of a class that has no record in the ledger."""
        self._file(rows.name, FEATURES).parent.mkdir(exist_ok=True)
        spec, count = self.spec, len(rows.ids)
        features = [(tensor_name(t), DTYPES[spec.dtype], [count, *spec.feature_shape]) for t in spec.timesteps]
        _core.create_tensors(self._file(rows.name, FEATURES), features)
        latents = [("latents", DTYPES[spec.latent_dtype], [count, *spec.latent_shape])]
        _core.create_tensors(self._file(rows.name, LATENTS), latents)

    def _close(self, rows: ClassRows) -> None:
        """Give the files of a class their final names, and record their hashes."""
        if not rows.ids:
            self._create(rows)
        for name in (FEATURES, LATENTS):
            if _partial(self._file(rows.name, name)).exists():  # else the build was killed after the rename
                _core.finish_tensors(self._file(rows.name, name))
        write_atomic(self._file(rows.name, IDS), dump(list(rows.ids)))
        records = {name: _record(self._file(rows.name, name)) for name in FILES}
        entries = {name: {"bytes": record.bytes, "blocks": record.blocks} for name, record in records.items()}
        self._ledger.append({"class": rows.name, "files": entries})
        self._records[rows.name] = records

    def _replay(self) -> None:
        """Continue from what the whole ledger records."""
        entries, self._mark = self._ledger.read_on(START) or ([], START)
        if not entries:
            raise self._ledger.damaged("it is empty")
        check_same_run(self.out, entries.pop(0), self._plan)
        self._done, self._records = {name: set() for name in self._by_name}, {}
        self._enter(entries)
        deleted = set()
        for name in self._by_name:
            files = [self._file(name, tensors) for tensors in (FEATURES, LATENTS)]
            if self._done[name] and not all(file.exists() or _partial(file).exists() for file in files):
                deleted.add(name)  # by somebody: they are made again
                self._done[name].clear()
                self._records.pop(name, None)
        if deleted:  # or a build that is killed now would find the new files, and take them for complete
            self._ledger.write([self._plan, *(entry for entry in entries if entry["class"] not in deleted)])
            self._mark = START

    def _enter(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take in lines of the ledger."""
        for entry in entries:
            check_shape(
                f"{self._ledger.path}: damaged",
                entry,
                GROUP if "start" in entry else CLOSED,
                advice=self._ledger.advice,
            )
            name = entry["class"]
            if name not in self._by_name:
                raise self._ledger.damaged(f"class {name[:60]!r} is not one of this index")
            if "start" in entry:
                self._done[name].add(entry["start"])
            else:
                self._records[name] = {
                    file: FileRecord(record["bytes"], tuple(record["blocks"]))
                    for file, record in entry["files"].items()
                }

    def _check_space(self) -> None:
        files = [self._file(name, tensors) for name in self._by_name for tensors in (FEATURES, LATENTS)]
        present = [file for name in files for file in (name, _partial(name)) if file.exists()]
        written = sum(getattr(file.stat(), "st_blocks", 0) * 512 for file in present)  # Windows has no st_blocks
        need = index_bytes(self.spec, [len(rows.ids) for rows in self.classes]) - written
        check_space(
            self.out, need, "the rest of the index takes" if written else "the index takes",
            "choose fewer timesteps, images or classes, a smaller pooling, or another disk",
        )  # fmt: skip


def _plan(spec: IndexSpec, classes: Sequence[ClassRows]) -> dict[str, object]:
    """Return what may not change while an index is being built."""
    by_name = {
        rows.name: {
            "position": position, "label": rows.label, "rows": len(rows.ids),
            "ids": hashlib.sha256(dump(list(rows.ids))).hexdigest(),
        }
        for position, rows in enumerate(classes)
    }  # fmt: skip
    return {**spec.to_json(), "classes": by_name}


def _record(file: Path) -> FileRecord:
    return FileRecord(file.stat().st_size, tuple(_core.hash_blocks(file, BLOCK_BYTES)))


def _partial(file: Path) -> Path:
    """Return the name of a tensor file until it is complete; ``_core.create_tensors`` gives it."""
    return file.with_name(f"{file.name}.partial")


def _stored(name: str, values: npt.ArrayLike, shape: tuple[int, ...], dtype: str) -> FloatArray:
    """Return rows as they are stored: 2-D and C-contiguous."""
    array = np.asarray(values)
    if array.shape != shape:
        raise OptionError(f"{name}: expected shape {shape}, got {array.shape}")
    with np.errstate(over="ignore"):
        stored: FloatArray = np.ascontiguousarray(array, dtype).reshape(shape[0], math.prod(shape[1:]))
    if not np.isfinite(stored).all():
        raise OptionError(f"{name}: expected values that are finite in {dtype}; float32 holds larger ones")
    return stored
