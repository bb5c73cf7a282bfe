"""Makes a part of a unit for a trial: samples a few steps of it, decodes it, encodes it, and ranks it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dap.data.image_files import encode_png
from dap.methods import Context, Method, Slot, Unit
from dap.run.job import Job
from dap.run.stopwatch import NO_TIME, Spent, Stopwatch
from dap.run.trial_sampling import Enough, Sampled, TrialContext

__all__ = ["SHARE", "make_part", "unit_of"]

SHARE = 0.05  # of the run, at most
SECONDS = 60  # for sampling without guidance, unless a single slot takes longer
STEPS = 6  # of a unit are taken at most


def unit_of(job: Job, part: Job, units: int) -> Unit:
    """Return the slots that are timed: those of a unit, or as many as the share and the seconds of a trial allow."""
    share = SHARE / 2 * sum(job.counts) * max(1, job.recipe.steps_per_slot(job.context())) / STEPS
    if job.recipe.uses_prior():
        share = min(share, SECONDS / STEPS / _pass_time(job.context(), 1)[0])
    most = max(1, int(share))
    slots: list[Slot] = []
    if job.recipe.couples == "sequence":
        numbers = max(1, min(2, max(part.counts)))
        slots = [Slot(label, n) for label in range(len(part.classes)) for n in range(min(numbers, part.counts[label]))]
    else:
        slots = [Slot(label, n) for label, count in enumerate(part.counts) for n in range(count)]
        slots = slots[: min(most, math.ceil(sum(job.counts) / units))]
    return Unit(0, tuple(slots))


def make_part(
    part: Job, unit: Unit, artefact: Any, units: int, batch_size: int, pass_size: int | None, images: int
) -> tuple[Spent, Spent, Sampled]:
    """Make a part of a unit; return the time of all units, that of ranking the classes, and what was sampled."""
    recipe, device = part.recipe, part.prior.device
    plain = part.context(pass_size=pass_size)
    sampled = Sampled(device)
    slots = len(unit.slots)
    watch = Stopwatch(device)
    latents: object = None
    try:
        latents = recipe.make(TrialContext.of(plain, sampled), unit, artefact)
        latents = latents if isinstance(latents, Tensor) else list(latents)
    except Enough:
        pass
    made = watch.read()
    if sampled.calls:
        at_once = _at_once(part, sampled, slots, math.ceil(images / units), batch_size, pass_size)
        whole = made - sampled.really + sampled.whole * _gain(plain, sampled.slots, at_once)
        if sampled.iteration is not None:  # after sampling, in a loop of its own
            passes = recipe.steps_per_slot(plain) * slots - sampled.plain - sampled.guided
            whole += sampled.iteration * (passes - sampled.iterated)
            sampled.guided += passes
    elif sampled.iteration is not None:
        passes = recipe.steps_per_slot(plain)
        whole = sampled.iteration * (passes * slots)
        sampled.guided = passes * slots
    else:
        whole = made
    if not recipe.uses_prior() and latents is None:
        latents = torch.zeros(slots, part.shape.channels, part.shape.size, part.shape.size, dtype=torch.uint8)
    elif latents is None or (isinstance(latents, Tensor) and latents.is_floating_point()):
        latents = torch.randn(slots, *part.prior.latent_shape, device=device) if latents is None else latents
        whole, latents = _decoded(part, latents, whole)
    watch = Stopwatch(device)
    pixels = [image.numpy() for image in latents]  # type: ignore[attr-defined]  # a tensor, or a list of them
    for image in pixels:
        encode_png(image)
    whole += watch.read()
    finish = _ranked(recipe, plain, artefact, pixels)
    return whole * (images / slots), finish, sampled


def _at_once(part: Job, sampled: Sampled, slots: int, of_unit: int, batch_size: int, pass_size: int | None) -> int:
    """Return how many slots the run will sample at once."""
    if part.recipe.couples == "sequence":
        return min(batch_size, of_unit)
    whole = sampled.slots * of_unit // slots
    return max(1, min(whole, pass_size or whole))


def _gain(context: Context, slots: int, at_once: int) -> float:
    """Return the time of a slot among as many as the run samples at once, as a share of that among fewer."""
    if slots == at_once:
        return 1.0
    fewer = _pass_time(context, slots)
    more = max(slots, min(at_once, int(SECONDS / 2 / max(1e-9, fewer[0]))))  # a slow device gains little from more
    clock = 0 if context.prior.device.type == "cuda" else 1
    return _pass_time(context, more, warm=True)[clock] / max(1e-9, fewer[clock])


def _pass_time(context: Context, slots: int, *, warm: bool = False) -> Spent:
    """Return the time of an evaluation of the denoiser, divided by the slots; `warm`: another one came before it."""
    prior = context.prior
    x = torch.randn(slots, *prior.latent_shape, device=prior.device)
    labels = torch.full((slots,), context.classes[0].label, device=prior.device)
    for _ in range(1 if warm else 2):
        watch = Stopwatch(prior.device)
        with torch.no_grad():
            prior.denoise(x, torch.tensor(500, device=x.device), labels, guidance_scale=context.settings.guidance_scale)
        spent = watch.read()
    return spent * (1 / slots)


def _decoded(part: Job, latents: Any, spent: Spent) -> tuple[Spent, Tensor]:
    """Decode latents; return the time with it, and the images."""
    part.prior.decode(latents[:1])
    watch = Stopwatch(part.prior.device)
    images = part.prior.decode(latents)
    return spent + watch.read(), images


def _ranked(recipe: Method[Any], context: Context, artefact: Any, pixels: list[np.ndarray]) -> Spent:
    """Return the time of ordering the images of the classes of a trial."""
    if type(recipe).order is Method.order:
        return NO_TIME
    watch = Stopwatch(context.prior.device)
    for label in range(len(context.classes)):
        images = [pixels[number % len(pixels)] for number in range(context.ipc_of(label))]
        recipe.order(context, artefact, label, torch.from_numpy(np.stack(images)))
    return watch.read()
