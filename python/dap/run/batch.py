"""How many slots are made at once: decided when a run begins, and then the same for all workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dap.run.job import Job
from dap.run.memory import device_memory, footprint

__all__ = ["batch_of"]

MAX_BATCH = 100


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
