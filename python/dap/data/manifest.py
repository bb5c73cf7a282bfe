"""The manifest ``dap.json``: the options that were given, the values that were used, and a hash of each file.

While a run goes on, the files of each finished unit are appended to a ledger. A run that was killed is continued from
manifest and ledger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dap.errors import FormatError, RunMismatchError
from dap.storage.files import sha256_file, write_json
from dap.storage.ledger import Ledger

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


def write_manifest(out: Path, manifest: Mapping[str, object]) -> None:
    """Write ``out/dap.json``, whole or not at all."""
    write_json(out / MANIFEST, manifest)


def read_manifest(out: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder, or None if there is none.

    Raises:
        FormatError: It is not JSON, has another schema than this version reads, or lacks an entry.
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
    """Record the files of one finished unit, path to SHA-256, and wait until the record is on disk."""
    Ledger(out / LEDGER).append(files)


def read_ledger(out: Path) -> dict[str, str]:
    """Return the SHA-256 of all files that the ledger records, by path; none where there is no ledger."""
    return {path: sha256 for unit in Ledger(out / LEDGER).read() for path, sha256 in unit.items()}


def check_same_run(out: Path, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Raise unless the folder holds a run of the same options.

    Args:
        out: The folder, for the message.
        before: The values that are recorded there.
        now: The values of this run, with the same keys.

    Raises:
        RunMismatchError: It names the first values that differ.
    """
    differing = _differences("", before, now)
    if differing:
        raise RunMismatchError(
            f"{out} holds a run with other options ({'; '.join(differing[:4])}): "
            "choose another folder, delete it, or use the same options"
        )


def _differences(prefix: str, before: object, now: object) -> list[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted({*before, *now}, key=str)
        return [line for key in keys for line in _differences(f"{prefix}{key}.", before.get(key), now.get(key))]
    return [] if before == now else [f"{prefix.rstrip('.')}: there {_short(before)}, now {_short(now)}"]


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def verify_files(out: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Return those of ``files``, SHA-256 by path below ``out``, that are there.

    Raises:
        RunMismatchError: A file that is there has another hash.
    """
    present = {path: sha256 for path, sha256 in files.items() if (out / path).is_file()}
    for path, sha256 in present.items():
        if sha256_file(out / path) != sha256:
            raise RunMismatchError(
                f"{out / path}: its bytes are not those that the manifest records; delete it to have it made again"
            )
    return present
