"""The output folder of a run: which units are there, which are missing, and what its manifest will say."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from dap.config import check_whole
from dap.data.image_files import encode_png
from dap.data.manifest import TRAIN, slot_path
from dap.errors import RunMismatchError
from dap.methods import Slot, Unit
from dap.run.batch import TOO_LARGE, at_once, batch_of, with_half
from dap.run.energies import EnergyMeans
from dap.run.header import header_of
from dap.run.history import check_hashes, history_of
from dap.run.job import Job
from dap.run.memory import check_memory
from dap.run.plan import plan
from dap.run.state import RunState
from dap.storage.files import is_vacant, naming, sweep, write_atomic
from dap.storage.space import check_space

__all__ = ["SHEET", "RunFolder"]

MIN_FILE = 512  # bytes that a file takes at least on a disk
SHEET = "contact_sheet.png"  # drawn when the run has been finished


class RunFolder:
    """One output folder and the plan that fills it.

    Opening it reads and checks the files that are there, and writes nothing. Other workers may fill it meanwhile:
    :meth:`refresh` takes in what they have finished.

    Args:
        out: The output folder; made when the first file is written.
        job: The run; it must agree with a manifest that is there already, but it may add to it what
            :func:`dap.run.history.history_of` allows.
        batch_size: Slots made at once; None takes that of the run that is continued, or as many as fit the memory.
        remake: Slots that are made again, of :func:`dap.data.remake.slots_to_remake`.
        worker: The name of this worker among those of the run.
        checked: Whether another worker has just compared the files with their hashes.
        too_many: The slots at once for which the memory was too short, in a run of which no image is there: it begins
            again with half as many.

    Attributes:
        out: The output folder.
        units: The plan.
        begun: Whether the manifest is that of this run, unfinished, so that units can be made.
        at_once: The most slots in one evaluation of the denoiser.
        pass_size: The same if it was decided for the run; None: all slots of a unit. It only differs from the
            batch size where a class of more slots is made together.
        batch_size: Slots that are made at once.
        latent_dtype: In which the cache keeps latents of real images; "float32" if a version began the run that kept
            them so.

    Raises:
        OptionError: ``batch_size`` is no whole number of at least 1.
        RunMismatchError: The folder holds other options or other files, or cannot grow as the job asks.
    """

    def __init__(
        self, out: Path, job: Job, *, batch_size: int | None = None, remake: Mapping[str, Sequence[int]] | None = None,
        worker: str = "", checked: bool = False, too_many: int | None = None,
    ) -> None:  # fmt: skip
        if batch_size is not None:
            batch_size = check_whole("batch_size", batch_size)
        self.state = RunState(out, worker)
        before = self.state.before
        if before is None and not is_vacant(out):
            raise RunMismatchError(f"{out} is not empty and holds no dap.json: choose an empty or a new folder")
        if too_many is not None and before is not None:
            before = with_half(job, before, too_many)
        self.out = out
        couples, self._counts = job.recipe.couples, job.counts
        size, parts = batch_of(job, before, batch_size)
        history = history_of(out, before, job, size, remake or {})
        stages = history.stages
        if history.grows:
            images = sum(stages[-1]) - (sum(stages[-2]) if len(stages) > 1 else 0)
            check_space(
                out, images * MIN_FILE, f"ipc: {images} images take at least",
                "choose a smaller ipc, fewer classes, or another disk",
            )  # fmt: skip
        if couples == "sequence" and parts is None:
            couples = "class"  # in which older versions made such runs
        self.units, self.pass_size, self.batch_size = plan(stages, size, couples, history.rounds), parts, size
        self.at_once = at_once(max(map(sum, stages)), size, parts)
        if before is None:
            check_memory(job, self.at_once)
        self._class_folders = [entry.folder for entry in job.classes]
        recorded = dict(self.state.recorded)
        self._remakes = history.remakes
        if history.remakes:
            for slot in (Slot(index, number) for index, numbers in history.rounds[-1].items() for number in numbers):
                recorded.pop(self._path(slot), None)
        self.state.look(recorded, checked=checked)
        self._lost = recorded.keys() - self.state.files.keys()
        names = [entry.name for entry in job.classes]
        self._manifest = header_of(job) | history.to_json(names) | {"batch_size": size}
        if parts is not None:
            self._manifest["pass_size"] = parts
        if before is not None and TOO_LARGE in before:
            self._manifest[TOO_LARGE] = before[TOO_LARGE]
        self.latent_dtype = str(before.get("latent_dtype", "float32")) if before and job.samples else "float16"
        if job.samples and self.latent_dtype != "float32":
            self._manifest["latent_dtype"] = self.latent_dtype
        self.state.finished = self.state.finished and not history.grows
        running = before is not None and before["status"] == "running" and not history.grows and not history.remakes
        self.begun = running and too_many is None and all(path.startswith(f"{TRAIN}/") for path in self._lost)

    @property
    def in_words(self) -> str:
        """How many images the run has."""
        counts = self._counts
        equal = len(set(counts)) == 1
        return f"{counts[0]} x {len(counts)}" if equal else f"{sum(counts)} images of {len(counts)} classes"

    def missing(self) -> Iterator[Unit]:
        """Yield the units of which a file is missing; a unit is looked at when it is its turn."""
        return (unit for unit in self.units if self.lacks(unit))

    def lacks(self, unit: Unit) -> bool:
        """Return whether a file of a unit is missing."""
        return any(self._path(slot) not in self.state.files for slot in self.units.written(unit))

    def awaits(self, number: int) -> bool:
        """Return whether a unit that was missing when the folder was opened has not been entered since."""
        if number in self.state.made:
            return False
        return not self.state.replaced or self.lacks(self.units[number])

    @property
    def complete(self) -> bool:
        """Whether the manifest says that this run was finished, and all of its files are there."""
        return self.state.finished and not any(self.missing()) and not self._lost - self.state.files.keys()

    def refresh(self) -> None:
        """Take in what other workers have finished since the last look; see :meth:`RunState.refresh`."""
        self.state.refresh(self._manifest)

    def begin(
        self, record: Mapping[str, object], weights: Mapping[str, Sequence[float]], files: Mapping[str, bytes]
    ) -> None:
        """Write the method's files and the manifest of a running run, before the first unit.

        Args:
            record: What the method says about its artefact.
            weights: How many real images each slot stands for, by class; see :meth:`dap.methods.base.Method.weights`.
            files: Files next to the images, by their path below the folder.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        sweep(self.out)
        (self.out / SHEET).unlink(missing_ok=True)  # it would show what was there before
        self.set_record(record, weights)
        for path, data in files.items():
            if not self._has_bytes(path, data):
                (self.out / path).unlink(missing_ok=True)  # so that a file is never another one than is recorded
            self.state.files[path] = hashlib.sha256(data).hexdigest()
        self._lost = set()
        if self._remakes:
            self.state.remove_ledgers()  # they may have the images that are made again
        self.state.write(self._manifest, "running")
        for path, data in files.items():
            self._write_file(path, data)
        self.state.remove_ledgers()  # the manifest has what they had
        self.state.keep_states()
        self.begun = True

    def set_record(self, record: Mapping[str, object], weights: Mapping[str, Sequence[float]]) -> None:
        """Record what the method says about its artefact, and the weights of the slots if they are not alike.

        Raises:
            RunMismatchError: A file that the method reads, such as a teacher, is another one than it was.
        """
        check_hashes(self.out, (self.state.before or {}).get("record"), record)
        self._manifest["record"] = record
        if weights:
            self._manifest["weights"] = {name: list(own) for name, own in weights.items()}

    @property
    def has_images(self) -> bool:
        """Whether any image of the run is there."""
        return any(path.startswith(f"{TRAIN}/") for path in self.state.files)

    def add_failure(self, unit: Unit, error: Exception) -> None:
        """Enter in this worker's ledger that a unit could not be made."""
        self.state.add_failure(unit.index, error)

    def add(self, unit: Unit, images: Iterable[Tensor], threads: int, energies: EnergyMeans) -> None:
        """Write the images of a unit, each uint8 (channels, H, W), and enter them in this worker's ledger."""
        files, written = {}, set(self.units.written(unit))
        for slot, image in zip(unit.slots, images, strict=True):
            if slot in written:
                path = self._path(slot)
                files[path] = self._write_file(path, encode_png(image.numpy()))
        self.state.add(unit.index, files, threads, energies)

    def paths_of(self, class_index: int) -> list[Path]:
        """Return the image files of a class in slot order."""
        slots = (Slot(class_index, number) for number in range(self._counts[class_index]))
        return [self.out / self._path(slot) for slot in slots]

    def set_ranks(self, ranks: Mapping[str, list[int]]) -> None:
        """Record each slot's place in its class, best first, by the class's name."""
        self._manifest["rank"] = ranks

    def finish(self) -> None:
        """Mark the run as complete, and remove what only an unfinished one needs."""
        if not self.complete:
            self.state.write(self._manifest, "complete")
        self.state.remove_ledgers()
        sweep(self.out)

    def _path(self, slot: Slot) -> str:
        return slot_path(self._class_folders[slot.class_index], slot.number)

    def _write_file(self, path: str, data: bytes) -> str:
        """Write a file unless it is there with these bytes already (its unit was cut short); return its hash."""
        target = self.out / path
        if not self._has_bytes(path, data):
            with naming(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, data)
        return hashlib.sha256(data).hexdigest()

    def _has_bytes(self, path: str, data: bytes) -> bool:
        target = self.out / path
        return target.is_file() and target.read_bytes() == data
