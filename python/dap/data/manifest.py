"""The manifest ``dap.json``: the options that were given, the values that were used, and a hash of each file.

While a run goes on, the files of each finished unit are appended to ledgers (:mod:`dap.data.records`). A run that was
killed is continued from manifest and ledgers.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dap.data.classmap import CLASS_MAP
from dap.data.ipc import numbers_of_classes
from dap.errors import FormatError, RunMismatchError, SourceError
from dap.storage.checked_json import (
    ANYTHING,
    BELOW,
    NOTHING,
    NUMBER,
    SHA256,
    TEXT,
    check_shape,
    choice,
    either,
    fields,
    items,
    mapping,
    read_json,
    whole,
)
from dap.storage.files import sha256_file, write_json
from dap.storage.ledger import Ledger

__all__ = [
    "LEDGER",
    "MANIFEST",
    "SCHEMA",
    "TRAIN",
    "check_finished",
    "check_manifest",
    "check_same_run",
    "counts_in",
    "images_of",
    "read_ledger",
    "read_manifest",
    "slot_path",
    "verify_files",
    "write_manifest",
]

MANIFEST, LEDGER, SCHEMA = "dap.json", ".dap-ledger.jsonl", 1
TRAIN = "train"  # the folder of the images
FILES = mapping(SHA256, keys=BELOW)
IPC = either(mapping(whole(1)), whole(1))
SHAPE = fields(
    {
        "schema": choice(SCHEMA), "status": choice("running", "complete"), "options": mapping(ANYTHING),
        "source": fields({"name": TEXT, "identity": TEXT}, more=True), "prior": either(NOTHING, mapping(ANYTHING)),
        "class_map": CLASS_MAP, "ipc": IPC, "ipc_stages": items(IPC, least=1), "batch_size": whole(1),
        "files": FILES, "seconds": mapping(NUMBER),
    },
    optional={
        "index": either(NOTHING, mapping(ANYTHING)), "pass_size": whole(1), "rank": mapping(items(whole())),
        "weights": mapping(items(NUMBER)),
        "versions": mapping(ANYTHING), "licenses": mapping(TEXT), "remade": items(mapping(items(whole(), least=1))),
        "latent_dtype": choice("float16", "float32"), "threads": items(whole(1)),
        "energy": mapping(mapping(fields({"slots": whole(1), "mean": items(either(NOTHING, NUMBER))}))),
    },
    more=True,
)  # fmt: skip
ADVICE = "it is damaged, or written by something else or a newer dap: restore it, or choose another folder"


def slot_path(folder: str, number: int) -> str:
    """Return the path of a slot's image below the output folder."""
    return f"{TRAIN}/{folder}/{number:05d}.png"


def write_manifest(out: Path, manifest: Mapping[str, object]) -> None:
    """Write ``out/dap.json``, whole or not at all."""
    write_json(out / MANIFEST, manifest)


def read_manifest(out: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder, or None if there is none.

    Raises:
        FormatError: It is not JSON, or a field is missing or not what this version writes; names the field.
    """
    path = out / MANIFEST
    try:
        manifest: dict[str, Any] = read_json(path, SHAPE, advice=ADVICE)
    except FileNotFoundError:
        return None
    _check_counts(path, manifest)
    return manifest


def check_manifest(path: Path, manifest: Mapping[str, Any], field: str) -> None:
    """Raise FormatError unless a manifest that is stored in a field of another file is one that this version writes."""
    check_shape(path, {field: manifest}, fields({field: SHAPE}), advice=ADVICE)
    _check_counts(path, manifest)


def _check_counts(path: Path, manifest: Mapping[str, Any]) -> None:
    names = [entry["name"] for entry in manifest["class_map"]]
    stages, counts = [numbers_of_classes(stage, names) for stage in manifest["ipc_stages"]], counts_in(manifest)
    mappings = [ipc for ipc in (manifest["ipc"], *manifest["ipc_stages"]) if isinstance(ipc, dict)]
    made = dict(zip(names, counts, strict=True))
    remade = [(name, number) for slots in manifest.get("remade", ()) for name in slots for number in slots[name]]
    for field, fits in (
        ("class_map: expected no name twice", len(made) == len(names)),
        ("ipc: expected classes of class_map", all(ipc.keys() <= made.keys() for ipc in mappings)),
        ("ipc: expected a number of every class", all(counts)),
        ("ipc_stages: expected rising numbers", all(map(_rises, stages, stages[1:]))),
        ("ipc: expected the last of ipc_stages", counts == stages[-1]),
        ("ipc: expected as many images in files", manifest["status"] == "running" or _has_all_images(manifest)),
        ("remade: expected slots of the run", all(number < made.get(name, 0) for name, number in remade)),
    ):
        if not fits:
            raise FormatError(f"{path}: {field}; {ADVICE}")


def _rises(before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    return before != now and all(map(operator.le, before, now))


def counts_in(manifest: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the number of images of each class of a run, in the order of its class map."""
    return numbers_of_classes(manifest["ipc"], [entry["name"] for entry in manifest["class_map"]])


def images_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return the paths of a run's images, in order of class and slot."""
    folders = [entry["folder"] for entry in manifest["class_map"]]
    counts = counts_in(manifest)
    return [slot_path(folder, n) for folder, count in zip(folders, counts, strict=True) for n in range(count)]


def check_finished(out: Path, manifest: Mapping[str, Any]) -> None:
    """Raise unless the run in a folder was finished and all of its images are there.

    Raises:
        SourceError: It says how many images are missing, and how to continue.
    """
    advice = "run the same command again to continue it"
    if manifest["status"] != "complete":
        raise SourceError(f"{out}: the run there was not finished; {advice}")
    images = images_of(manifest)
    missing = [path for path in images if not (out / path).is_file()]
    if missing:
        raise SourceError(f"{out}: {len(missing)} of its {len(images)} images are gone, such as {missing[0]}; {advice}")


def _has_all_images(manifest: Mapping[str, Any]) -> bool:
    files = manifest["files"]
    few_enough = sum(counts_in(manifest)) <= len(files)  # so that a huge number makes no huge list
    return few_enough and all(path in files for path in images_of(manifest))


def read_ledger(out: Path) -> dict[str, str]:
    """Return the SHA-256 of all files in the ledger of an older version, by path; none where there is none."""
    return {path: sha256 for unit in Ledger(out / LEDGER).read(FILES) for path, sha256 in unit.items()}


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
