"""Answers the same ``dap distill`` a second time without loading torch and the prior.

When a run is complete, the cache gets an empty entry, whose name is a hash of all that decided that: the options, the
source's identity, sizes and times of dap's and the prior's files, and the manifest. If the entry is there again, a full
check would find the run complete. The images are read again, unless an entry has the states that their files had when
they were read. A run with a prior that is not a folder of its own (a hub id, an adapter), or with an
option that names a file, is always checked in full.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import dap
from dap.cli.values import METHODS, PRIORS
from dap.data.manifest import MANIFEST, TRAIN, counts_in, read_manifest, verify_files
from dap.errors import DapError
from dap.storage.cache import RUNS, CacheEntry
from dap.storage.file_states import FileStates
from dap.storage.files import sha256_file

__all__ = ["finished_images", "remember"]


def finished_images(out: Path, options: Mapping[str, object], identities: list[str]) -> int | None:
    """The number of images in ``out`` if this run is complete there; None if that is not known.

    Args:
        out: The output folder.
        options: All options of the command line but the source, the output folder and the index.
        identities: Those of the source and the index.
    """
    with suppress(DapError, OSError):  # the run itself says what is wrong
        entry = _entry(out, options, identities)
        if entry is None or not entry.exists():
            return None
        manifest = read_manifest(out)
        if manifest is not None and _is_whole(out, manifest["files"], entry):
            return sum(counts_in(manifest))
    return None


def _is_whole(out: Path, files: Mapping[str, str], run: CacheEntry) -> bool:
    """Whether all files of a run have their bytes; images that were read once are known by their states."""
    states = FileStates.of(out / TRAIN)
    verified = CacheEntry.of(RUNS, [run.path.name, states.files])
    known = verified.exists()
    to_read = {path: sha256 for path, sha256 in files.items() if not (known and path.startswith(f"{TRAIN}/"))}
    if len(verify_files(out, to_read)) < len(to_read):
        return False
    if states.settled and not known:
        verified.write(b"")
    return True


def remember(out: Path, options: Mapping[str, object], identities: list[str]) -> None:
    """Note that the run of these options is complete in ``out``."""
    with suppress(DapError, OSError):  # the next time takes longer
        if (entry := _entry(out, options, identities)) is not None:
            entry.write(b"")


def _entry(out: Path, options: Mapping[str, object], identities: list[str]) -> CacheEntry | None:
    if not (out / "contact_sheet.png").is_file() or not (out / MANIFEST).is_file():
        return None
    if str(options["method"]).partition(":")[0] not in METHODS:  # another package's, which may have changed
        return None
    given: list[object] = []
    for value in options.values():
        given += value.values() if isinstance(value, dict) else [value]
    prior = options["prior"]
    if any(isinstance(value, str) and value != prior and os.path.exists(value) for value in given):
        return None
    folders = [Path(dap.__file__).parent]
    if prior not in PRIORS:
        folders.append(Path(str(prior)))
        if not (folders[-1] / "model_index.json").is_file():
            return None
    packages = [version(name) for name in ("torch", "diffusers")]
    files = [_files(folder) for folder in folders]
    return CacheEntry.of(RUNS, [sorted(options.items()), identities, packages, files, sha256_file(out / MANIFEST)])


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """Path, size and time of change of every file below a folder, without compiled modules of Python."""
    files = []
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(".pyc"):
                status = os.stat(os.path.join(parent, name))
                files.append((os.path.relpath(os.path.join(parent, name), folder), status.st_size, status.st_mtime_ns))
    return sorted(files)
