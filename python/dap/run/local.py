"""The local executor: makes the units of a plan one after the other, and continues where an earlier run stopped."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dap.data.image_files import encode_png, read_image
from dap.data.manifest import (
    LEDGER,
    append_ledger,
    check_same_run,
    read_ledger,
    read_manifest,
    verify_files,
    write_manifest,
)
from dap.errors import RunMismatchError
from dap.methods import Context, Method, Slot, Unit
from dap.run.plan import plan
from dap.storage.files import is_vacant, sha256_file, sweep, write_atomic

__all__ = ["Run", "slot_path"]

logger = logging.getLogger(__name__)

IDENTITY = ("options", "source", "prior", "class_map", "index")  # what has to be the same for a run to be continued


def slot_path(folder: str, number: int) -> str:
    """Path of a slot's image below the output folder."""
    return f"train/{folder}/{number:05d}.png"


class Run:
    """One output folder and the plan that fills it.

    Opening reads and checks what is there; it writes nothing.

    Args:
        out: The output folder; made when the first file is written.
        header: What the manifest records before anything is made; :data:`IDENTITY` names the parts that must agree
            with a manifest that is there already, except ``ipc``, which may grow where slots are independent.
        ipc: Images per class.
        batch_size: Slots in a unit; None takes that of the run that is continued, or ``default_batch_size``.
        default_batch_size: For a new run.
        couples: What the method couples.

    Raises:
        RunMismatchError: The folder holds other options, other files, or a larger or coupled ipc.
    """

    def __init__(
        self,
        out: Path,
        header: Mapping[str, Any],
        *,
        ipc: int,
        batch_size: int | None,
        default_batch_size: int,
        couples: Any,
    ) -> None:
        before = read_manifest(out)
        if before is None and not is_vacant(out):
            raise RunMismatchError(f"{out} is not empty and holds no dap.json: choose an empty or a new folder")
        self.out = out
        stages = list(before["ipc_stages"]) if before else []
        size = batch_size or (before["batch_size"] if before else default_batch_size)
        if before:
            now = {key: header[key] for key in IDENTITY} | {"batch_size": size}
            check_same_run(out, {key: before.get(key) for key in now}, now)
            if ipc < stages[-1]:
                raise RunMismatchError(
                    f"{out} holds {stages[-1]} images per class, more than ipc={ipc}: choose another folder"
                )
            if ipc > stages[-1] and couples == "class":
                raise RunMismatchError(
                    f"{out}: this method makes the images of a class together; ipc={stages[-1]} cannot grow to {ipc}"
                )
        if not stages or ipc > stages[-1]:
            stages.append(ipc)
        self.units = plan(len(header["class_map"]), stages, size, couples)
        self._folders = [entry["folder"] for entry in header["class_map"]]
        recorded = (before["files"] if before else {}) | (read_ledger(out) if before else {})
        self._files = verify_files(out, recorded)
        self._lost = recorded.keys() - self._files.keys()
        self._manifest = dict(header) | {"ipc": ipc, "ipc_stages": stages, "batch_size": size}
        self._seconds = dict(before["seconds"]) if before else {}
        self._finished = before is not None and before["status"] == "complete" and before["ipc"] == ipc

    @property
    def missing(self) -> tuple[Unit, ...]:
        """The units of which a file is missing."""
        return tuple(unit for unit in self.units if any(self._path(slot) not in self._files for slot in unit.slots))

    @property
    def complete(self) -> bool:
        """Whether the manifest says that this run was finished, and all of its files are there."""
        return self._finished and not self.missing and not self._lost

    def execute(
        self, method: Method, context: Context, artefact: Any, missing: Sequence[Unit], seconds: Mapping[str, float]
    ) -> None:
        """Makes the missing units; :meth:`finish` then completes the run.

        Args:
            method: The method.
            context: What it works with.
            artefact: What it prepared.
            missing: Units to make.
            seconds: Time already spent on earlier stages, for the manifest.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        sweep(self.out)
        self._manifest["record"] = method.record(context, artefact)
        if hasattr(method, "files"):
            for path, data in method.files(context, artefact).items():
                self._files[path] = self._keep(path, data)
        self._add_seconds(seconds)
        self._finished, self._lost = False, set()
        self._write(complete=False)
        start = time.monotonic()
        for unit in missing:
            made = method.make(context, unit, artefact)
            images = context.require_prior().decode(made) if made.is_floating_point() else made
            files = {}
            for slot, image in zip(unit.slots, images.numpy(), strict=True):
                path = self._path(slot)
                files[path] = self._keep(path, encode_png(image))
            append_ledger(self.out, files)
            self._files |= files
        self._add_seconds({"make": time.monotonic() - start})

    def rank(self, method: Method, context: Context, artefact: Any) -> None:
        """Records each slot's place in its class, best first, where the method orders them by the finished images."""
        if not hasattr(method, "order"):
            return
        ranks = {}
        for index, entry in enumerate(context.classes):
            paths = [self.out / self._path(Slot(index, number)) for number in range(context.ipc)]
            pixels = np.stack([np.asarray(read_image(path)) for path in paths])
            images = torch.from_numpy(pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2).copy())
            order = method.order(context, artefact, index, images)
            if order is not None:
                ranks[entry.name] = [order.index(number) for number in range(context.ipc)]
        if ranks:
            self._manifest["rank"] = ranks

    def finish(self) -> None:
        """Marks the run as complete, and removes what only an unfinished one needs."""
        if not self.complete:
            self._write(complete=True)
            self._finished = True
        (self.out / LEDGER).unlink(missing_ok=True)
        sweep(self.out)

    def _path(self, slot: Slot) -> str:
        return slot_path(self._folders[slot.class_index], slot.number)

    def _keep(self, path: str, data: bytes) -> str:
        """Writes a file unless it is there with these bytes already (its unit was cut short); returns its hash."""
        target = self.out / path
        if not (target.is_file() and target.read_bytes() == data):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, data)
        return sha256_file(target)

    def _add_seconds(self, seconds: Mapping[str, float]) -> None:
        for stage, spent in seconds.items():
            self._seconds[stage] = round(self._seconds.get(stage, 0.0) + spent, 2)

    def _write(self, *, complete: bool) -> None:
        files = dict(sorted(self._files.items()))
        status = "complete" if complete else "running"
        write_manifest(self.out, self._manifest | {"status": status, "files": files, "seconds": self._seconds})
