"""What would make a run cheaper."""

from __future__ import annotations

import torch

from dap.run.job import Job
from dap.run.memory import device_memory, footprint
from dap.run.operations import SlotOperations
from dap.run.trial import Trial

__all__ = ["cheaper"]

MOST = 3  # pieces of advice
FEW_STEPS = 25
DEAR = 3  # a guided step costs so many plain ones


def cheaper(job: Job, trial: Trial, counted: SlotOperations | None, batch_size: int) -> tuple[str, ...]:
    """Return up to three pieces of advice, those that save most first.

    Args:
        job: The run.
        trial: What was measured of it.
        counted: The operations of its steps.
        batch_size: Slots that are made at once.
    """
    advice, prior, steps = [], job.prior, job.settings.num_inference_steps
    make, prepare = trial.make[0], trial.prepare[0]
    if prior.device.type == "cuda" and job.samples and prior.dtype == torch.float32:
        advice.append("--dtype bfloat16: products of half the size, and half the memory")
    if prior.device.type == "cpu" and torch.cuda.is_available():
        advice.append("--device cuda: there is a GPU")
    if counted is not None and trial.guided and counted[1] > DEAR * counted[0]:
        advice.append(
            f"a method that guides without a graph through the whole network, such as dap_set: a guided step of "
            f"{job.recipe.name} has {counted[1] / counted[0]:.1f} times the operations of one without guidance"
        )
    if prepare > make:
        share = 100 * prepare / (prepare + make)
        advice.append(f"runs with the same real images and seed, one after the other: the preparation, {share:.0f} % "
                      "of the time, stays in the cache")  # fmt: skip
    if trial.plain + trial.guided and steps > FEW_STEPS and job.recipe.uses_prior():
        part = round(100 * (1 - FEW_STEPS / steps))
        advice.append(f"--num-inference-steps {FEW_STEPS}: {part} % fewer steps than {steps}, and other images")
    fitting = footprint(job).fit(device_memory(prior.device) // 2) if prior.device.type == "cuda" else None
    if fitting is not None and batch_size < min(100, fitting, sum(job.counts)):
        advice.append(f"--batch-size {min(100, fitting)}: as many slots fit into half of the memory")
    return tuple(advice[:MOST])
