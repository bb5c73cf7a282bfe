"""What a run takes before it starts: memory by its number of slots at once, and disk for its preparation."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from dap.errors import OptionError
from dap.priors import StepBytes
from dap.priors.pipeline import PipelinePrior
from dap.run.job import Job
from dap.storage.space import size_text

__all__ = ["Footprint", "check_memory", "device_memory", "footprint", "head"]


@dataclass(frozen=True)
class Footprint:
    """The memory and disk that a run needs, in bytes.

    Attributes:
        weights: Memory of the prior's weights; 0 if it is not known.
        stages: Memory of each stage of a step, beside the weights; none for a method that takes no step.
        preparation: Memory of the preparation, beside the weights.
        decode: Memory of one latent while it is decoded.
        decoded: The most latents that are decoded at once.
        disk: Disk of the cache for the preparation, if nothing of it is there.
    """

    weights: int
    stages: tuple[StepBytes, ...]
    preparation: int
    decode: int
    decoded: int
    disk: int

    def step(self, slots: int) -> int:
        """Return the memory of a step of some slots at once, with the weights."""
        return self.weights + max((stage.of(slots) for stage in self.stages), default=0)

    def unit(self, slots: int) -> int:
        """Return the most memory that making a unit takes if its slots are sampled at once, with the weights."""
        return max(self.step(slots), self.weights + min(slots, self.decoded) * self.decode)

    def peak(self, slots: int) -> int:
        """Return the most memory of a run whose units have some slots, with the weights, once the prior is loaded."""
        return max(self.weights + self.preparation, self.unit(slots))

    def fit(self, available: int) -> int | None:
        """Return the most slots whose step fits some bytes beside the weights; None: any number."""
        return min((stage.fit(available) for stage in self.stages), default=None)


def footprint(job: Job) -> Footprint:
    """Return the memory and disk that a run needs; nothing of the run is computed."""
    context, prior = job.context(), job.prior
    demands = job.recipe.demands(context)
    stages = tuple(prior.step_bytes(demand, guidance_scale=job.settings.guidance_scale) for demand in demands)
    return Footprint(
        weights=prior.weight_bytes,
        stages=stages,
        preparation=job.recipe.preparation_bytes(context),
        decode=prior.image_bytes.decode if stages else 0,
        decoded=prior.batches.decode,
        disk=job.recipe.disk(context),
    )


def check_memory(job: Job, slots: int) -> None:
    """Raise OptionError if the device cannot hold the run; only for priors whose memory is measured.

    Args:
        job: The run.
        slots: Its slots that are made at once.

    Raises:
        OptionError: The slots, or the preparation, take more memory than there is.
    """
    if not isinstance(job.prior, PipelinePrior):
        return
    need, there, device = footprint(job), device_memory(job.prior.device), job.prior.device
    smaller, advice = "", "on a GPU dtype='bfloat16', or a method that needs less (docs/memory.md)"
    if (memory := need.unit(slots)) > there:
        subject = f"batch_size: {slots} slot{'s' if slots > 1 else ''} of {job.recipe.name} at once take"
        smaller = "a smaller batch_size=, " if slots > 1 else ""
    elif (memory := need.peak(slots)) > there:
        subject = f"the preparation of {job.recipe.name} takes"
    else:
        return
    raise OptionError(
        f"{subject} {size_text(memory)} of memory, {device} has {size_text(there)}: choose {smaller}{advice}"
    )


def head(job: Job, units: int, slots: int) -> str:
    """Return in one line what a run needs: units, steps, memory and disk; :func:`dap.plan` says more."""
    need, images = footprint(job), sum(job.counts)
    steps = job.recipe.steps_per_slot(job.context()) * images
    parts = [f"{units} unit{'s' if units > 1 else ''} of at most {slots} slots"]
    if steps:
        parts.append(f"{steps:,} denoiser steps")
    parts.append(
        f"{size_text(need.peak(slots))} of {size_text(device_memory(job.prior.device))} memory with the weights"
    )
    parts.append(f"up to {size_text(need.disk)} for the cache" if need.disk else "nothing for the cache")
    return ", ".join(parts) + "; dap plan tells the time"


def device_memory(device: torch.device) -> int:
    """Return all memory of a device in bytes: that of the GPU, or else of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
