"""The local executor: prepares the method, makes the missing units one after the other, and ranks the slots."""

from __future__ import annotations

import time
from typing import TypeVar

import numpy as np
import torch

from dap.data.image_files import read_image
from dap.methods import Context, Method
from dap.run.folder import RunFolder
from dap.run.job import Job
from dap.run.progress import Progress
from dap.sampling import StepCallback
from dap.torch_state import own_torch_state

__all__ = ["execute"]

A = TypeVar("A")


def execute(
    job: Job, folder: RunFolder, *, progress: bool = True, callback_on_step_end: StepCallback | None = None
) -> None:
    """Make what is missing in the folder of a job, and finish it.

    Args:
        job: The run.
        folder: Its output folder.
        progress: Show progress bars.
        callback_on_step_end: The user's callback; see :func:`dap.distill`.

    Raises:
        DapError: What the method raises. Before its preparation has ended, nothing is written to the folder.
    """
    if not folder.complete:
        with own_torch_state(tf32=job.tf32):
            _execute(job.recipe, job, folder, progress, callback_on_step_end)
    folder.finish()


def _execute(recipe: Method[A], job: Job, folder: RunFolder, progress: bool, callback: StepCallback | None) -> None:
    bars = Progress(shown=progress, callback=callback)
    context, start = job.context(bars, latent_dtype=folder.latent_dtype), time.monotonic()
    artefact = recipe.prepare(context)
    folder.add_seconds("prepare", time.monotonic() - start)
    folder.begin(recipe.record(context, artefact), recipe.files(context, artefact))
    start = time.monotonic()
    title = f"{recipe.name}, {folder.in_words}"
    total = sum(len(unit.slots) for unit in folder.missing()) * recipe.steps_per_slot(context)
    with bars.making(title, total) as on_step:
        context = job.context(bars, on_step, pass_size=folder.pass_size, latent_dtype=folder.latent_dtype)
        for unit in folder.missing():
            made = recipe.make(context, unit, artefact)
            if isinstance(made, torch.Tensor) and made.is_floating_point():
                made = job.prior.decode(made)
            folder.add(unit, made)
    folder.add_seconds("make", time.monotonic() - start)
    _rank(recipe, context, artefact, folder)


def _rank(recipe: Method[A], context: Context, artefact: A, folder: RunFolder) -> None:
    """Record each slot's place in its class, where the method orders the slots by the finished images."""
    if type(recipe).order is Method.order:
        return  # no image has to be read
    ranks = {}
    for index, entry in enumerate(context.classes):
        pixels = np.stack([np.asarray(read_image(path)) for path in folder.paths_of(index)])
        images = torch.from_numpy(pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2).copy())
        order = recipe.order(context, artefact, index, images)
        if order is not None:
            ranks[entry.name] = [order.index(number) for number in range(context.ipc_of(index))]
    if ranks:
        folder.set_ranks(ranks)
