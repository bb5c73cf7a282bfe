"""The manifest ``dap.json``: what was asked for, what was used, and a hash of each file that was made.

While a run goes on, finished units are appended to a ledger, one JSON line each, flushed to disk before the next unit
starts. A run that was killed is continued from manifest and ledger; a last line cut short by the kill is ignored, and
its unit is made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dap.errors import FormatError, RunMismatchError
from dap.storage.files import sha256_file, write_atomic

__all__ = [
    "LEDGER",
    "MANIFEST",
    "SCHEMA",
    "append_ledger",
    "check_same_run",
    "read_ledger",
    "read_manifest",
    "verify_files",
    "write_manifest",
]

ENTRIES = {"status", "options", "source", "prior", "class_map", "ipc", "ipc_stages", "batch_size", "files", "seconds"}
MANIFEST, LEDGER, SCHEMA = "dap.json", ".dap-ledger.jsonl", 1


def write_manifest(out: Path, manifest: Mapping[str, Any]) -> None:
    """Writes ``out/dap.json``, whole or not at all."""
    write_atomic(out / MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())


def read_manifest(out: Path) -> dict[str, Any] | None:
    """The manifest of a folder, or None where there is none.

    Raises:
        FormatError: It is not JSON, or of a schema that this version does not read.
    """
    path = out / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: expected a JSON manifest, got something else ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise FormatError(
            f"{path}: expected a dap manifest of schema {SCHEMA}; it was written by something else or a newer dap"
        )
    missing = sorted(ENTRIES - manifest.keys())
    if missing:
        raise FormatError(f"{path}: expected a dap manifest, it lacks {', '.join(missing)}")
    return manifest


def append_ledger(out: Path, files: Mapping[str, str]) -> None:
    """Records the files of one finished unit, path to SHA-256, and waits until they are on disk."""
    with (out / LEDGER).open("a", encoding="utf-8") as file:
        file.write(json.dumps(files, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_ledger(out: Path) -> dict[str, str]:
    """All files that the ledger records; none where there is no ledger."""
    path = out / LEDGER
    files: dict[str, str] = {}
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    if lines[-1]:  # cut short by a kill: dropped from the file too, so that the next line does not join it
        write_atomic(path, b"".join(line + b"\n" for line in lines[:-1]))
    for line in lines[:-1]:
        files |= json.loads(line)
    return files


def check_same_run(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to continue a run with other options.

    Args:
        out: The folder, for the message.
        before: What the manifest there records.
        now: What this run would record, of the same keys.

    Raises:
        RunMismatchError: It names each value that differs.
    """
    differing = _differences("", before, now)
    if differing:
        raise RunMismatchError(
            f"{out} holds a run with other options ({'; '.join(differing[:4])}): "
            "choose another folder, delete it, or use the same options"
        )


def _differences(prefix: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted({*before, *now}, key=str)
        return [line for key in keys for line in _differences(f"{prefix}{key}.", before.get(key), now.get(key))]
    return [] if before == now else [f"{prefix.rstrip('.')}: there {_short(before)}, now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def verify_files(out: Path, files: Mapping[str, str]) -> dict[str, str]:
    """The files of ``files`` that are there.

    Raises:
        RunMismatchError: A file is there with other bytes.
    """
    present = {path: sha for path, sha in files.items() if (out / path).is_file()}
    for path, sha in present.items():
        if sha256_file(out / path) != sha:
            raise RunMismatchError(
                f"{out / path}: its bytes are not those that the manifest records; delete it to have it made again"
            )
    return present
