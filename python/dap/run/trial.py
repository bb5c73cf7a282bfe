"""A timed trial: a small part of a run is made and thrown away, to tell how long all of it will take.

The preparation is done for a few classes and two numbers of real images of each, so that what grows with the images is
told from what grows with the classes. A part of a unit is then sampled in a few steps (:mod:`dap.run.trial_sampling`),
decoded and encoded as PNG. Everything is in proportion: times grow with images, classes and steps.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dap.bar import Bars
from dap.config import to_json
from dap.data.image_files import encode_png
from dap.methods import Context, Method, Slot, Unit
from dap.run.job import Job
from dap.run.stopwatch import NO_TIME, Spent, Stopwatch
from dap.run.trial_sampling import Enough, Sampled, TrialContext

__all__ = ["Trial", "trial_of"]

SHARE = 0.05  # of the run, at most
IMAGES = 8  # real images whose PNG tells how large the run's images will be


@dataclass(frozen=True)
class Trial:
    """What a trial says about its run; times are of one process.

    Attributes:
        prepare: The preparation, with nothing of it in the cache.
        make: All units.
        finish: Ranking the images, where the method does.
        own: What the trial itself took.
        guided: Slots times steps in which a term acts, in the whole run.
        plain: Slots times all other steps.
        image_bytes: Bytes of an image's file.
    """

    prepare: Spent
    make: Spent
    finish: Spent
    own: Spent
    guided: int
    plain: int
    image_bytes: int


class Stage(NamedTuple):
    """A stage of a preparation that has a bar: its count in all, and its time."""

    total: int
    spent: Spent


class Measured(Bars):
    """Keeps the stages of a preparation."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(shown=False)
        self.stages: list[Stage] = []
        self._device = device

    @contextmanager
    def stage(self, title: str | None, *, total: int, **options: Any) -> Iterator[tqdm]:
        """Yield a bar, and keep the time until it is closed."""
        watch = Stopwatch(self._device)
        with super().stage(title, total=total, **options) as bar:
            yield bar
        self.stages.append(Stage(total, watch.read()))


def trial_of(job: Job, units: int, batch_size: int, pass_size: int | None) -> Trial:
    """Time a part of a run, in a cache of its own that is removed.

    Args:
        job: The run.
        units: The number of its units.
        batch_size: Slots that are made at once.
        pass_size: The most slots in one evaluation of the denoiser; None: all slots of a unit.
    """
    watch = Stopwatch(job.prior.device)
    classes = _classes(job, batch_size)
    few, many = _images(job, classes)
    with _empty_cache():
        _, first, _ = _prepared(_part(job, classes, few), pass_size)
    with _empty_cache():
        part = _part(job, classes, many)
        spent, second, artefact = _prepared(part, pass_size)
        each = len(job.source) / len(job.classes)
        prepare = _of_all(spent, first, second, few, many, each) * (len(job.classes) / classes)
        unit = _unit(job, part, units)
        make, finish, sampled = _made(part, unit, artefact, units, batch_size, pass_size, sum(job.counts))
    share = sum(job.counts) / len(unit.slots)
    return Trial(
        prepare, make, finish * (len(job.classes) / classes), watch.read(), round(sampled.guided * share),
        round(sampled.plain * share), _image_bytes(job),
    )  # fmt: skip


def _classes(job: Job, batch_size: int) -> int:
    """Return of how many classes a part of the run has to be: as many as fill a unit, within the share of a trial."""
    least = 2 if "classifier" in job.recipe.needs else 1
    wanted = math.ceil(batch_size / max(job.counts))
    return min(len(job.classes), max(least, min(wanted, int(SHARE * len(job.classes) / 2))))


def _images(job: Job, classes: int) -> tuple[int, int]:
    """Return two numbers of real images of a class; their sum is the share of a trial, or what the method needs."""
    smallest = min(len(job.source.of_class(label)) for label in range(len(job.classes)))
    options: Any = to_json(job.recipe)
    needed = max(_numbers(options, "references"), max(job.counts), 8)
    share = SHARE * len(job.source) / classes / 3
    few = min(smallest, max(needed, int(share)))
    return few, min(smallest, 2 * few)


def _numbers(options: Any, name: str) -> int:
    """Return the largest value that an option has in a method, or in the terms of a sum."""
    if isinstance(options, dict):
        values = [_numbers(value, name) for value in options.values()]
        return max([*values, options[name] if isinstance(options.get(name), int) else 0])
    return max(map(lambda value: _numbers(value, name), options), default=0) if isinstance(options, list) else 0


def _part(job: Job, classes: int, images: int) -> Job:
    """Return the run of the first classes with some of the real images of each; an index has all of its own."""
    source = job.source.subset(job.source.class_names[:classes])
    if job.index is None:
        rows = np.concatenate([source.of_class(label)[:images] for label in range(classes)])
        source = source.select(np.sort(rows))
    return replace(job, source=source, classes=job.classes[:classes], counts=job.counts[:classes], whole=None)


def _prepared(part: Job, pass_size: int | None) -> tuple[Spent, list[Stage], object]:
    """Prepare a part of the run; return the time, the stages and the artefact."""
    bars = Measured(part.prior.device)
    watch = Stopwatch(part.prior.device)
    artefact = part.recipe.prepare(part.context(bars, pass_size=pass_size))
    return watch.read(), bars.stages, artefact


@contextmanager
def _empty_cache() -> Iterator[None]:
    before = os.environ.get("DAP_CACHE")
    with tempfile.TemporaryDirectory(prefix="dap-trial-") as folder:
        os.environ["DAP_CACHE"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["DAP_CACHE"]
            else:
                os.environ["DAP_CACHE"] = before


def _of_all(spent: Spent, first: list[Stage], second: list[Stage], few: int, many: int, images: float) -> Spent:
    """Return the time of the preparation with all images of these classes."""
    counted, grows = NO_TIME, False
    rest = spent
    for fewer, more in zip(first, second, strict=False):
        rise = (more.total - fewer.total) / (many - few) if many > few else 0.0
        grows = grows or rise > 0
        total = fewer.total + rise * (images - few)
        alike = 1.0 if rise or not grows else images / many  # one that counts classes takes longer with more images
        counted += more.spent * (max(total, more.total) / max(1, more.total) * alike)
        rest = rest - more.spent
    return counted + rest * (images / many if grows else 1.0)


def _unit(job: Job, part: Job, units: int) -> Unit:
    """Return the slots that are timed: those of a unit, or as many as the share of a trial allows."""
    steps = 6  # of a unit are taken at most, by slots that are at most this share of all
    most = max(1, int(SHARE / 2 * sum(job.counts) * max(1, job.recipe.steps_per_slot(job.context())) / steps))
    slots: list[Slot] = []
    if job.recipe.couples == "sequence":
        numbers = max(1, min(2, max(part.counts)))
        slots = [Slot(label, n) for label in range(len(part.classes)) for n in range(min(numbers, part.counts[label]))]
    else:
        slots = [Slot(label, n) for label, count in enumerate(part.counts) for n in range(count)]
        slots = slots[: min(most, math.ceil(sum(job.counts) / units))]
    return Unit(0, tuple(slots))


def _made(
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
    whole = sampled.slots if sampled.calls > 1 else sampled.slots * of_unit // slots
    return max(1, min(whole, pass_size or whole))


def _gain(context: Context, slots: int, at_once: int) -> float:
    """Return the time of a slot among as many as the run samples at once, as a share of that among fewer."""
    if slots == at_once:
        return 1.0

    def per_slot(count: int, repeats: int) -> float:
        x = torch.randn(count, *context.prior.latent_shape, device=context.prior.device)
        labels = torch.full((count,), context.classes[0].label, device=context.prior.device)
        for _ in range(repeats):
            watch = Stopwatch(context.prior.device)
            with torch.no_grad():
                context.prior.denoise(x, torch.tensor(500, device=x.device), labels,
                                      guidance_scale=context.settings.guidance_scale)  # fmt: skip
            spent = watch.read()
        return spent[0 if context.prior.device.type == "cuda" else 1] / count

    return per_slot(at_once, 1) / max(1e-9, per_slot(slots, 2))


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


def _image_bytes(job: Job) -> int:
    """Return the bytes of a PNG of the run, by those of real images of its size; the most that it can be without."""
    raw = job.shape.channels * job.shape.size**2
    if job.index is not None and job.request.source is None:
        return raw
    numbers = np.linspace(0, len(job.source) - 1, min(IMAGES, len(job.source))).astype(int)
    images = job.source.images(numbers, size=job.shape.size, channels=job.shape.channels)
    return sum(len(encode_png(image)) for image in images) // len(images)
