"""``dap status`` and ``dap verify``: how far a run is, who works on it, and whether its files are what they were."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from dap.cli.command import Command, json_option, print_result, quiet_option
from dap.errors import SourceError
from dap.storage.files import SHARED
from dap.storage.workers import working_in

__all__ = ["status", "verify"]


def _recorded(run: Path) -> tuple[dict[str, Any], dict[str, str], list[dict[str, Any]]]:
    """Return the manifest of a run, its files with their hashes, and the lines that its workers have written since."""
    from dap.data.manifest import read_ledger, read_manifest  # here, since they import Pillow
    from dap.data.records import Records

    recorded, lines = read_ledger(run), Records(run / SHARED, "").new()
    manifest = read_manifest(run)  # last: when a run is finished, it has what was in the ledgers
    if manifest is None:
        raise SourceError(f"{run}: there is no dap.json of a run")
    files = manifest["files"] | recorded
    for line in lines:
        files |= line.get("files", {})
    return manifest, files, lines


def _state(run: Path, manifest: dict[str, Any]) -> str:
    """Return "complete", "running", or "stopped": a run that was begun, and on which no process works."""
    recorded: str = manifest["status"]
    return "stopped" if recorded == "running" and not working_in(run / SHARED) else recorded


@click.command(cls=Command, examples=["dap status distilled", "dap status distilled --json -"])
@click.argument("run", type=click.Path(path_type=Path))
@json_option
@quiet_option
def status(run: Path) -> None:
    """Tells how many images of RUN are made, and which processes work on it. Nothing is changed.

    A run is "complete", "running", or "stopped" if no process works on it; the same dap distill then continues it.
    """
    from dap.data.manifest import counts_in, images_of

    manifest, files, lines = _recorded(run)
    images = set(images_of(manifest))
    units = {line["unit"] for line in lines if "files" in line}
    errors = {line["unit"]: line["error"] for line in lines if "error" in line and line["unit"] not in units}
    seconds = sum(line.get("seconds", {}).get("make", 0.0) for line in lines)
    made = sum(len(line.get("files", {})) for line in lines)
    workers = {
        name: {"note": worker.note, "silent": round(max(0.0, time.time() - worker.beat), 1)}
        for name, worker in working_in(run / SHARED).items()
    }
    result = {
        "status": _state(run, manifest), "images": len(images & files.keys()), "of": sum(counts_in(manifest)),
        "seconds_per_image": round(seconds / made, 3) if made and seconds else None, "workers": workers,
        "failed": [{"unit": unit, "error": error} for unit, error in sorted(errors.items())],
    }  # fmt: skip
    text = [f"{run}: {result['status']}, {result['images']} of {result['of']} images"]
    if result["seconds_per_image"]:
        text.append(f"{result['seconds_per_image']} s of one process for an image")
    for name, worker in workers.items():
        text.append(f"worker {name}: {worker['note'] or 'starting'}, last beat {worker['silent']:.0f} s ago")
    text += [f"unit {unit} failed: {error}" for unit, error in sorted(errors.items())]
    print_result(lambda: "\n".join(text), result)


@click.command(cls=Command, examples=["dap verify distilled"])
@click.argument("run", type=click.Path(path_type=Path))
@json_option
@quiet_option
def verify(run: Path) -> None:
    """Reads all files of RUN and compares them with their hashes. Raises for one that was changed or is gone."""
    from dap.data.manifest import verify_files

    manifest, files, _ = _recorded(run)
    state = _state(run, manifest)
    present = verify_files(run, files)
    if missing := sorted(files.keys() - present.keys()):
        raise SourceError(
            f"{run}: {len(missing)} of its {len(files)} files are gone, such as {missing[0]}; the command of the "
            "run makes them again"
        )
    print_result(
        lambda: f"{len(files)} files of {run} have the bytes that were written; the run is {state}",
        {"run": str(run), "files": len(files), "status": state},
    )
