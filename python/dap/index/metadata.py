"""Reads and writes ``index.json``, which is written last; every field that is read is checked."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from dap.data.names import escape
from dap.errors import FormatError, OptionError
from dap.index.spec import BLOCK_BYTES, FEATURES, IDS, INDEX, LATENTS, LEDGER, SCHEMA, IndexSpec, dump
from dap.storage.checked_json import (
    ANYTHING,
    NOTHING,
    SHA256,
    TEXT,
    check_shape,
    choice,
    either,
    fields,
    items,
    parse_json,
    read_regular,
    whole,
)
from dap.storage.files import write_atomic

__all__ = ["FileRecord", "IndexClass", "read_ids", "read_metadata", "write_metadata"]

MAX_HEADER = 100_000_008
MAX_ROWS = 2**40
FILES = (FEATURES, LATENTS, IDS)
TUPLES = ("timesteps", "feature_shape", "latent_shape", "shard")
OPTIONAL = {"computed_in"}
SPEC_KEYS = set(IndexSpec.__dataclass_fields__)
FILE = fields({"bytes": whole(), "blocks": items(SHA256)})
CLASS = fields(
    {
        "name": TEXT, "label": either(NOTHING, whole(0, 2**31 - 1)), "folder": TEXT, "rows": whole(0, MAX_ROWS - 1),
        "files": fields(dict.fromkeys(FILES, FILE)),
    }
)  # fmt: skip
METADATA = fields(
    dict.fromkeys(SPEC_KEYS - OPTIONAL, ANYTHING)  # checked by IndexSpec
    | {"schema": choice(SCHEMA), "block_bytes": choice(BLOCK_BYTES), "classes": items(CLASS, least=1)},
    dict.fromkeys(OPTIONAL, ANYTHING),
)
OF_OURS = fields({"schema": choice(SCHEMA)}, more=True)
ADVICE = "copy or build the index again"


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
    values = parse_json(file, content, advice=ADVICE)
    check_shape(
        file, values, OF_OURS, advice="something else or another version of dap wrote it; build the index again"
    )
    check_shape(file, values, METADATA, advice=ADVICE)
    try:
        options = {key: values[key] for key in SPEC_KEYS & values.keys()}
        spec = IndexSpec(**options | {key: tuple(options[key]) for key in TUPLES if isinstance(options[key], list)})
    except OptionError as error:
        raise FormatError(f"{file}: {error}") from error
    classes = tuple(_class(file, spec, entry) for entry in values["classes"])
    if len({entry.name for entry in classes}) != len(classes):
        _refuse(file, "two classes have one name")
    for entry in classes:
        _check_sizes(path, entry)
    return spec, classes, hashlib.sha256(content).hexdigest()


def read_ids(path: Path, rows: int) -> tuple[str, ...]:
    """Return the ids of a class's images from its ``ids.json``."""
    ids = parse_json(path, _read(path), advice=ADVICE)
    check_shape(path, ids, items(TEXT), advice=ADVICE)
    if len(ids) != rows:
        _refuse(path, f"expected a list of {rows} texts, got {len(ids)}")
    return tuple(ids)


def _class(file: Path, spec: IndexSpec, entry: dict[str, Any]) -> IndexClass:
    name, folder, rows = entry["name"], entry["folder"], entry["rows"]
    if folder != escape(name):
        _refuse(file, f"class {name!r}: expected its escaped name as folder, got {folder!r}")
    records = {key: FileRecord(values["bytes"], tuple(values["blocks"])) for key, values in entry["files"].items()}
    for key, record in records.items():
        if len(record.blocks) != -(-record.bytes // BLOCK_BYTES):
            _refuse(file, f"{folder}/{key}: expected one hash for each {BLOCK_BYTES} of its {record.bytes} bytes")
    for key, row_bytes in zip((FEATURES, LATENTS), spec.row_bytes(), strict=True):
        if not rows * row_bytes + 8 <= records[key].bytes <= rows * row_bytes + MAX_HEADER:
            _refuse(file, f"{folder}/{key}: {rows} rows do not make {records[key].bytes} bytes")
    return IndexClass(name, entry["label"], folder, rows, records)


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
        return read_regular(file)
    except FileNotFoundError as error:
        if file.name == INDEX and file.with_name(LEDGER).exists():
            raise FormatError(f"{file}: its build was stopped: build it again to continue") from error
        raise FormatError(f"{file}: no feature index ({error.strerror})") from error


def _refuse(file: str | Path, message: str) -> NoReturn:
    raise FormatError(f"{file}: {message}; {ADVICE}")
