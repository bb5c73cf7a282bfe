"""What a run will take, said before it starts: images, passes of the denoiser, operations, memory, disk and time."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dap.data.manifest import MANIFEST
from dap.run.batch import at_once, batch_of
from dap.run.cheaper import cheaper
from dap.run.job import Job
from dap.run.memory import check_memory, device_memory, footprint
from dap.run.operations import operations_of
from dap.run.plan import plan
from dap.run.resident import process_peak, resident_bytes
from dap.run.stopwatch import NO_TIME, Spent
from dap.run.trial import trial_of
from dap.storage.cache_folder import bytes_of, cache_folder
from dap.storage.space import check_space, size_text

__all__ = ["Forecast", "forecast"]

RECORDED = 150  # bytes of the manifest for an image
SHOWN = 20  # classes of the contact sheet, and images of each


@dataclass(frozen=True)
class Forecast:
    """What a run will take. Times are in seconds of one process on this machine, sizes in bytes.

    Attributes:
        method: Name of the method.
        device: Where the prior runs.
        images: Images of the run.
        units: Units in which they are made.
        unit_size: Slots of the largest unit.
        batch_size: Slots that are made at once.
        pass_size: The most slots in one evaluation of the denoiser; None: all slots of a unit.
        steps: Denoiser steps, of all slots.
        passes: Passes of one slot through the denoiser: two for each step with classifier-free guidance.
        operations: Floating-point operations of sampling and decoding, two for a multiplication and an addition;
            None: they cannot be counted without running the prior.
        memory: The most memory of the process, on a GPU of the device.
        memory_there: All memory of the device.
        cache: What the preparation writes to the cache, if nothing of it is there.
        disk: What the run writes into its folder, by the size of real images as PNG.
        starting: Time until the options are resolved and the prior is loaded.
        prepare: Time of the preparation, if nothing of it is in the cache.
        make: Time of the images.
        finish: Time of what comes after the last image.
        cpu: Processor seconds of all four together.
        trial: Time that the trial took, which the run does not need.
        cheaper: What would make the run cheaper.
    """

    method: str
    device: str
    images: int
    units: int
    unit_size: int
    batch_size: int
    pass_size: int | None
    steps: int
    passes: int
    operations: int | None
    memory: int
    memory_there: int
    cache: int
    disk: int
    starting: float
    prepare: float
    make: float
    finish: float
    cpu: float
    trial: float
    cheaper: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """The time of the whole run."""
        return self.starting + self.prepare + self.make + self.finish

    def begun(self, seconds: float, cpu: float) -> Forecast:
        """Return the forecast with what a process had taken before the call, such as for importing libraries."""
        return replace(self, starting=self.starting + seconds, cpu=self.cpu + cpu)

    def to_json(self) -> dict[str, object]:
        """Return all values in JSON's types, and the sum of the times."""
        return {**asdict(self), "cheaper": list(self.cheaper), "seconds": self.seconds}

    def __str__(self) -> str:
        parts = "" if self.pass_size is None else f", evaluated in parts of {self.pass_size}"
        units = f"{self.units} unit{'' if self.units == 1 else 's'} of at most {self.unit_size}"
        lines = [
            f"{self.images} images by {self.method} in {units} slots{parts}",
            f"memory: {size_text(self.memory)} of {size_text(self.memory_there)} ({self.device})",
            f"disk: {size_text(self.disk)} for the run, {size_text(self.cache)} for the cache {cache_folder()}",
            f"time: {time_text(self.seconds)} in one process: start {time_text(self.starting)}, preparation "
            f"{time_text(self.prepare)}, images {time_text(self.make)}, end {time_text(self.finish)}; "
            f"{time_text(self.cpu)} of processor time; the trial took {time_text(self.trial)}",
        ]
        if self.steps:
            lines.insert(1, _work(self.steps, self.passes, self.operations))
        return "\n".join([*lines, *(f"cheaper: {advice}" for advice in self.cheaper)])


def forecast(job: Job, out: Path | None = None, batch_size: int | None = None, started: Spent = NO_TIME) -> Forecast:
    """Return what a new run of a job will take, after a trial.

    Args:
        job: The run.
        out: Its folder, whose disk is looked at; None: the disk of the current folder. If it holds a run already, some
            of the images may be there, so that its disk is not looked at.
        batch_size: Slots made at once; None: as many as fit, as in a run.
        started: What it took to resolve the job.

    Raises:
        OptionError: The memory of the device, or a disk, cannot hold it. For the preparation that is said only if what
            the cache holds cannot be a part of it.
    """
    held, prior = resident_bytes(job.prior.device), job.prior
    size, parts = batch_of(job, None, batch_size)
    units, images, need = plan([job.counts], size, job.recipe.couples), sum(job.counts), footprint(job)
    slots = at_once(images, size, parts)
    check_memory(job, slots)
    missing = need.disk - bytes_of(cache_folder())  # at least; the rest may be there
    check_space(cache_folder(), missing, "the preparation takes", "set DAP_CACHE to a folder on another disk")
    trial = trial_of(job, len(units), size, parts)
    shown = min(SHOWN, len(job.counts)) * min(SHOWN, max(job.counts))
    disk = images * (trial.image_bytes + RECORDED) + shown * trial.image_bytes
    if out is None or not (out / MANIFEST).exists():
        check_space(out or Path(), disk, f"{images} images take about", "choose fewer, or another disk")
    on_gpu, beside = prior.device.type == "cuda", need.peak(slots) - need.weights
    memory = held + beside if on_gpu else max(process_peak(), held + beside)
    counted = operations_of(prior, job.recipe.demands(job.context()), job.settings.guidance_scale)
    steps = trial.plain + trial.guided
    whole = started + trial.prepare + trial.make + trial.finish
    return Forecast(
        method=job.recipe.name, device=str(prior.device), images=images, units=len(units),
        unit_size=max(len(unit.slots) for unit in units), batch_size=size,
        pass_size=parts, steps=steps, passes=steps * (2 if job.settings.guidance_scale != 1 else 1),
        operations=None if counted is None else counted.of(trial.plain, trial.guided, images), memory=memory,
        memory_there=device_memory(prior.device), cache=need.disk or trial.cached, disk=disk, starting=started[0],
        prepare=trial.prepare[0], make=trial.make[0], finish=trial.finish[0], cpu=whole[1], trial=trial.own[0],
        cheaper=cheaper(job, trial, counted, size),
    )  # fmt: skip


def _work(steps: int, passes: int, operations: int | None) -> str:
    counted = "" if operations is None else f", {operations:.2g} floating-point operations of the prior"
    return f"{steps:,} denoiser steps of single slots in {passes:,} passes{counted}"


def time_text(seconds: float) -> str:
    """Return a time in the unit that suits it.

    Example:
        >>> time_text(0.5), time_text(90), time_text(5000), time_text(200_000)
        ('0.5 s', '90 s', '83 min', '2.3 days')
    """
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{seconds / length:.1f} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.1f} days"
