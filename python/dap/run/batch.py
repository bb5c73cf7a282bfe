"""How many slots are made at once: decided when a run begins, and then the same for all workers.

If the memory is too short for the first units, the run begins again with half as many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dap.run.job import Job
from dap.run.memory import device_memory, footprint

__all__ = ["TOO_LARGE", "ShortMemoryError", "at_once", "batch_of", "with_half"]

MAX_BATCH = 100
TOO_LARGE = "batch_size_too_large"  # in the manifest: that with which the memory was too short


class ShortMemoryError(Exception):
    """The memory was too short for the first units of a run, which can begin again with smaller ones.

    Attributes:
        at_once: The slots that were too many.
    """

    def __init__(self, at_once: int) -> None:
        super().__init__(f"too little memory for {at_once} slots at once")
        self.at_once = at_once


def with_half(job: Job, before: Mapping[str, Any], at_once: int) -> dict[str, Any]:
    """Return the manifest of a run, of which no image is there, with half of the slots at once.

    Args:
        job: The run.
        before: Its manifest.
        at_once: The slots that were too many.
    """
    half = max(1, at_once // 2)
    size = min(before["batch_size"], half)
    parts = _pass_size(job, size, half)
    smaller = {key: value for key, value in before.items() if key != "pass_size"}
    smaller |= {"batch_size": size, TOO_LARGE: before.get(TOO_LARGE, before["batch_size"])}
    return smaller | ({} if parts is None else {"pass_size": parts})


def batch_of(job: Job, before: Mapping[str, Any] | None, batch_size: int | None) -> tuple[int, int | None]:
    """Return the batch size of a run, and the most slots in one evaluation of the denoiser.

    The second is None where all slots of a unit are. A run that is continued has those of its manifest; a new one as
    many slots as fit into half of all memory of the device.

    Args:
        job: The run.
        before: The manifest in its folder; None: there is none.
        batch_size: What the user asks for; None: nothing.
    """
    if before is not None:
        return batch_size or before["batch_size"], before.get("pass_size")
    limit = batch_size or footprint(job).fit(device_memory(job.prior.device) // 2)
    size = batch_size or min(MAX_BATCH, limit or MAX_BATCH)
    return size, _pass_size(job, size, limit)


def at_once(images: int, batch_size: int, pass_size: int | None) -> int:
    """Return the most slots in one evaluation of the denoiser, of a run of so many images."""
    return min(batch_size, pass_size or batch_size, images)


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
