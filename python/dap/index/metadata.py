"""Reads and writes ``index.json``, which is written last; every field that is read is checked."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from dap.data.names import escape, some
from dap.errors import FormatError, OptionError
from dap.index.spec import BLOCK_BYTES, FEATURES, IDS, INDEX, LATENTS, LEDGER, SCHEMA, IndexSpec, dump
from dap.storage.files import write_atomic

__all__ = ["FileRecord", "IndexClass", "read_ids", "read_metadata", "write_metadata"]

MAX_JSON = 2**28  # bytes; ImageNet-21k takes a tenth of it
MAX_HEADER = 100_000_008
MAX_ROWS = 2**40
FILES = (FEATURES, LATENTS, IDS)
HASH = re.compile("[0-9a-f]{64}")
TUPLES = ("timesteps", "feature_shape", "latent_shape", "shard")
SPEC_KEYS = set(IndexSpec.__dataclass_fields__)
KEYS = SPEC_KEYS | {"schema", "block_bytes", "classes"}


@dataclass(frozen=True)
class FileRecord:
    """Size of a file in bytes, and the SHA-256 of each block of ``BLOCK_BYTES``."""

    bytes: int
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class IndexClass:
    """One class of an index.

    Attributes:
        name: Its name.
        label: The prior's label, or None.
        folder: Name of its folder: the escaped name.
        rows: Number of images.
        files: Sizes and hashes of its three files, by file name.
    """

    name: str
    label: int | None
    folder: str
    rows: int
    files: Mapping[str, FileRecord] = field(repr=False)


def write_metadata(out: Path, spec: IndexSpec, classes: list[IndexClass]) -> None:
    """Write ``index.json``, whole or not at all."""
    entries = [
        {
            "name": entry.name, "label": entry.label, "folder": entry.folder, "rows": entry.rows,
            "files": {name: {"bytes": file.bytes, "blocks": list(file.blocks)} for name, file in entry.files.items()},
        }
        for entry in classes
    ]  # fmt: skip
    write_atomic(
        out / INDEX, dump({"schema": SCHEMA, **spec.to_json(), "block_bytes": BLOCK_BYTES, "classes": entries})
    )


def read_metadata(path: Path) -> tuple[IndexSpec, tuple[IndexClass, ...], str]:
    """Return the spec and the classes that ``index.json`` describes, and the file's SHA-256.

    Raises:
        FormatError: A field is missing or out of range, or a file is missing or of another size; names the file.
    """
    file = path / INDEX
    content = _read(file)
    values = _parse(file, content)
    if not isinstance(values, dict) or values.get("schema") != SCHEMA or type(values["schema"]) is not int:
        _refuse(file, f"expected a feature index of schema {SCHEMA}; it was written by something else or a newer dap")
    if values.keys() != KEYS:
        _refuse(file, f"it lacks or does not know {some(sorted(map(str, values.keys() ^ KEYS)))}")
    if values["block_bytes"] != BLOCK_BYTES:
        _refuse(file, f"block_bytes: expected {BLOCK_BYTES}, got {_short(values['block_bytes'])}")
    try:
        options = {key: values[key] for key in SPEC_KEYS}
        spec = IndexSpec(**options | {key: tuple(options[key]) for key in TUPLES if isinstance(options[key], list)})
    except OptionError as error:
        raise FormatError(f"{file}: {error}") from error
    entries = values["classes"]
    if not isinstance(entries, list) or not entries:
        _refuse(file, "expected a list of at least one class")
    classes = tuple(_class(file, spec, entry) for entry in entries)
    if len({entry.name for entry in classes}) != len(classes):
        _refuse(file, "two classes have one name")
    for entry in classes:
        _check_sizes(path, entry)
    return spec, classes, hashlib.sha256(content).hexdigest()


def read_ids(path: Path, rows: int) -> tuple[str, ...]:
    """Return the ids of a class's images from its ``ids.json``."""
    ids = _parse(path, _read(path))
    if not isinstance(ids, list) or len(ids) != rows or not all(isinstance(image_id, str) for image_id in ids):
        _refuse(path, f"expected a list of {rows} texts")
    return tuple(ids)


def _class(file: Path, spec: IndexSpec, entry: object) -> IndexClass:
    if not isinstance(entry, dict) or entry.keys() != {"name", "label", "folder", "rows", "files"}:
        _refuse(file, f"expected a class with name, label, folder, rows and files, got {_short(entry)}")
    name, label, folder, rows, files = (entry[key] for key in ("name", "label", "folder", "rows", "files"))
    if not isinstance(name, str) or folder != escape(name):
        _refuse(file, f"a class's folder is its escaped name, got {_short(folder)} for {_short(name)}")
    if label is not None and (type(label) is not int or not 0 <= label < 2**31):
        _refuse(file, f"class {name!r}: expected a label of at least 0 or null, got {_short(label)}")
    if type(rows) is not int or not 0 <= rows < MAX_ROWS:
        _refuse(file, f"class {name!r}: expected a number of rows in [0, {MAX_ROWS}), got {_short(rows)}")
    if not isinstance(files, dict) or files.keys() != set(FILES):
        _refuse(file, f"class {name!r}: expected the files {some(FILES)}, got {_short(files)}")
    records = {file_name: _record(file, f"{folder}/{file_name}", files[file_name]) for file_name in FILES}
    for file_name, row_bytes in zip((FEATURES, LATENTS), spec.row_bytes(), strict=True):
        if not rows * row_bytes + 8 <= records[file_name].bytes <= rows * row_bytes + MAX_HEADER:
            _refuse(file, f"{folder}/{file_name}: {rows} rows do not make {records[file_name].bytes} bytes")
    return IndexClass(name, label, folder, rows, records)


def _record(file: Path, name: str, entry: object) -> FileRecord:
    if not isinstance(entry, dict) or entry.keys() != {"bytes", "blocks"}:
        _refuse(file, f"{name}: expected bytes and blocks, got {_short(entry)}")
    size, blocks = entry["bytes"], entry["blocks"]
    if type(size) is not int or not 0 <= size < 2**63:
        _refuse(file, f"{name}: expected a number of bytes in [0, 2**63), got {_short(size)}")
    if not isinstance(blocks, list) or len(blocks) != -(-size // BLOCK_BYTES):
        _refuse(file, f"{name}: expected one hash for each {BLOCK_BYTES} of its {size} bytes")
    if not all(isinstance(block, str) and HASH.fullmatch(block) for block in blocks):
        _refuse(file, f"{name}: expected hashes of 64 hexadecimal digits")
    return FileRecord(size, tuple(blocks))


def _check_sizes(path: Path, entry: IndexClass) -> None:
    """Raise if a file is missing, has another size, or is a link, which could lead anywhere."""
    folder = os.path.join(path, entry.folder)
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            _refuse(folder, "expected a folder, not a link or a file")
        for name, record in entry.files.items():
            file = os.path.join(folder, name)
            status = os.lstat(file)
            if not stat.S_ISREG(status.st_mode):
                _refuse(file, "expected a file, not a link or a folder")
            if status.st_size != record.bytes:
                _refuse(file, f"{INDEX} says {record.bytes} bytes, the file has {status.st_size}")
    except OSError as error:
        raise FormatError(
            f"{error.filename}: cannot be read ({error.strerror}); copy or build the index again"
        ) from error


def _read(file: Path) -> bytes:
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_JSON:
            _refuse(file, f"expected a file of at most {MAX_JSON} bytes")
        return file.read_bytes()
    except OSError as error:
        if file.name == INDEX and file.with_name(LEDGER).exists():
            raise FormatError(f"{file}: its build was stopped: build it again to continue") from error
        raise FormatError(f"{file}: no feature index ({error.strerror})") from error


def _parse(file: Path, content: bytes) -> object:
    try:
        value: object = json.loads(content)
        return value
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file}: expected JSON, got something else ({error}); copy or build it again") from error


def _short(value: object) -> str:
    return repr(value)[:80]


def _refuse(file: str | Path, message: str) -> NoReturn:
    raise FormatError(f"{file}: {message}; copy or build the index again")
