"""The output folder of a run: which units are there, which are missing, and what its manifest and ledger say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dap.config import check_whole
from dap.data.image_files import encode_png
from dap.data.manifest import (
    LEDGER,
    append_ledger,
    read_ledger,
    read_manifest,
    slot_path,
    verify_files,
    write_manifest,
)
from dap.errors import RunMismatchError
from dap.methods import Slot, Unit
from dap.run.header import header_of
from dap.run.history import history_of
from dap.run.job import Job
from dap.run.memory import device_memory, footprint
from dap.run.plan import plan
from dap.storage.files import is_vacant, naming, sha256_file, sweep, write_atomic
from dap.storage.space import check_space

__all__ = ["SHEET", "RunFolder"]

MAX_BATCH = 100
MIN_FILE = 512  # bytes that a file takes at least on a disk
SHEET = "contact_sheet.png"  # drawn when the run has been finished


class RunFolder:
    """One output folder and the plan that fills it.

    Opening it reads and checks the files that are there, and writes nothing.

    Args:
        out: The output folder; made when the first file is written.
        job: The run; it must agree with a manifest that is there already, but it may add to it what
            :func:`dap.run.history.history_of` allows.
        batch_size: Slots made at once; None takes that of the run that is continued, or as many as fit the memory.
        remake: Slots that are made again, of :func:`dap.data.remake.slots_to_remake`.

    Attributes:
        out: The output folder.
        units: The plan.
        pass_size: The most slots in one evaluation of the denoiser; None: all slots of a unit. It only differs from the
            batch size where a class of more slots is made together.
        latent_dtype: In which the cache keeps latents of real images; "float32" if a version began the run that kept
            them so.

    Raises:
        OptionError: ``batch_size`` is no whole number of at least 1.
        RunMismatchError: The folder holds other options or other files, or cannot grow as the job asks.
    """

    def __init__(
        self, out: Path, job: Job, *, batch_size: int | None = None, remake: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        if batch_size is not None:
            batch_size = check_whole("batch_size", batch_size)
        before = read_manifest(out)
        if before is None and not is_vacant(out):
            raise RunMismatchError(f"{out} is not empty and holds no dap.json: choose an empty or a new folder")
        self.out = out
        couples, self._counts = job.recipe.couples, job.counts
        limit = batch_size or (None if before else _most_slots(job))  # slots in one evaluation of the denoiser
        size = before["batch_size"] if before and not batch_size else batch_size or min(MAX_BATCH, limit or MAX_BATCH)
        history = history_of(out, before, job, size, remake or {})
        stages = history.stages
        if history.grows:
            images = sum(stages[-1]) - (sum(stages[-2]) if len(stages) > 1 else 0)
            check_space(
                out, images * MIN_FILE, f"ipc: {images} images take at least",
                "choose a smaller ipc, fewer classes, or another disk",
            )  # fmt: skip
        parts = before.get("pass_size") if before else _pass_size(job, size, limit)
        if couples == "sequence" and parts is None:
            couples = "class"  # in which older versions made such runs
        self.units, self.pass_size = plan(stages, size, couples, history.rounds), parts
        self._class_folders = [entry.folder for entry in job.classes]
        recorded = (before["files"] if before else {}) | (read_ledger(out) if before else {})
        self._remakes = history.remakes
        if history.remakes:
            for slot in (Slot(index, number) for index, numbers in history.rounds[-1].items() for number in numbers):
                recorded.pop(self._path(slot), None)
        self._files = verify_files(out, recorded)
        self._lost = recorded.keys() - self._files.keys()
        names = [entry.name for entry in job.classes]
        self._manifest = header_of(job) | history.to_json(names) | {"batch_size": size}
        if parts is not None:
            self._manifest["pass_size"] = parts
        self.latent_dtype = str(before.get("latent_dtype", "float32")) if before else "float16"
        if job.samples and self.latent_dtype != "float32":
            self._manifest["latent_dtype"] = self.latent_dtype
        self._seconds = dict(before["seconds"]) if before else {}
        self._finished = before is not None and before["status"] == "complete" and not history.grows

    @property
    def in_words(self) -> str:
        """How many images the run has."""
        counts = self._counts
        equal = len(set(counts)) == 1
        return f"{counts[0]} x {len(counts)}" if equal else f"{sum(counts)} images of {len(counts)} classes"

    def missing(self) -> Iterator[Unit]:
        """Yield the units of which a file is missing; a unit is looked at when it is its turn."""
        units = self.units
        return (unit for unit in units if any(self._path(slot) not in self._files for slot in units.written(unit)))

    @property
    def complete(self) -> bool:
        """Whether the manifest says that this run was finished, and all of its files are there."""
        return self._finished and not any(self.missing()) and not self._lost

    def begin(self, record: Mapping[str, object], files: Mapping[str, bytes]) -> None:
        """Write the method's files and the manifest of a running run, before the first unit.

        Args:
            record: What the method says about its artefact.
            files: Files next to the images, by their path below the folder.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        sweep(self.out)
        (self.out / SHEET).unlink(missing_ok=True)  # it would show what was there before
        self._manifest["record"] = record
        for path, data in files.items():
            self._files[path] = self._write_file(path, data)
        self._finished, self._lost = False, set()
        if self._remakes:
            (self.out / LEDGER).unlink(missing_ok=True)  # it may have the images that are made again
        self._write_manifest("running")

    def add(self, unit: Unit, images: Iterable[Tensor]) -> None:
        """Write the images of a unit, each uint8 (channels, H, W), and enter them in the ledger."""
        files, written = {}, set(self.units.written(unit))
        for slot, image in zip(unit.slots, images, strict=True):
            if slot in written:
                path = self._path(slot)
                files[path] = self._write_file(path, encode_png(image.numpy()))
        append_ledger(self.out, files)
        self._files |= files

    def paths_of(self, class_index: int) -> list[Path]:
        """Return the image files of a class in slot order."""
        slots = (Slot(class_index, number) for number in range(self._counts[class_index]))
        return [self.out / self._path(slot) for slot in slots]

    def set_ranks(self, ranks: Mapping[str, list[int]]) -> None:
        """Record each slot's place in its class, best first, by the class's name."""
        self._manifest["rank"] = ranks

    def add_seconds(self, stage: str, seconds: float) -> None:
        """Add to the time that a stage has taken."""
        self._seconds[stage] = round(self._seconds.get(stage, 0.0) + seconds, 2)

    def finish(self) -> None:
        """Mark the run as complete, and remove what only an unfinished one needs."""
        if not self.complete:
            self._write_manifest("complete")
            self._finished = True
        (self.out / LEDGER).unlink(missing_ok=True)
        sweep(self.out)

    def _path(self, slot: Slot) -> str:
        return slot_path(self._class_folders[slot.class_index], slot.number)

    def _write_file(self, path: str, data: bytes) -> str:
        """Write a file unless it is there with these bytes already (its unit was cut short); return its hash."""
        target = self.out / path
        if not (target.is_file() and target.read_bytes() == data):
            with naming(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, data)
        return sha256_file(target)

    def _write_manifest(self, status: str) -> None:
        files = dict(sorted(self._files.items()))
        write_manifest(self.out, self._manifest | {"status": status, "files": files, "seconds": self._seconds})


def _most_slots(job: Job) -> int | None:
    """Return how many slots at once fit into half of the device's memory; None: any number."""
    return footprint(job).fit(device_memory(job.prior.device) // 2)


def _pass_size(job: Job, batch_size: int, limit: int | None) -> int | None:
    """Return the most slots in one evaluation of the denoiser, where units are larger or a sequence needs it.

    None where the units are those of versions without it, which is what their manifests say.
    """
    ipc, classes = max(job.counts), len(job.classes)
    if job.recipe.couples == "class":
        return limit if limit is not None and job.recipe.slots_at_once(ipc) > limit else None
    if job.recipe.couples == "sequence":
        if min(job.counts) < ipc:
            return batch_size  # older versions had no such runs
        before = max(1, batch_size // ipc)  # classes in a unit of the older plan
        return None if min(before, classes) == min(batch_size, classes) else batch_size
    return None
