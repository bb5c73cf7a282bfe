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
from tqdm import tqdm

from dap.bar import Bars
from dap.config import to_json
from dap.data.image_files import encode_png
from dap.run.job import Job
from dap.run.stopwatch import NO_TIME, Spent, Stopwatch
from dap.run.trial_unit import SHARE, make_part, unit_of
from dap.storage.cache_folder import bytes_of, cache_folder

__all__ = ["Trial", "trial_of"]

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
        cached: Bytes that the preparation writes to the cache.
    """

    prepare: Spent
    make: Spent
    finish: Spent
    own: Spent
    guided: int
    plain: int
    image_bytes: int
    cached: int


class Stage(NamedTuple):
    """A stage of a preparation that has a bar: its count in all, its time, and whether it works on made images."""

    total: int
    spent: Spent
    made: bool


class Measured(Bars):
    """Keeps the stages of a preparation."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(shown=False)
        self.stages: list[Stage] = []
        self._device = device

    @contextmanager
    def stage(self, title: str | None, *, total: int, made: bool = False, **options: Any) -> Iterator[tqdm]:
        """Yield a bar, and keep the time until it is closed."""
        watch = Stopwatch(self._device)
        with super().stage(title, total=total, **options) as bar:
            yield bar
        self.stages.append(Stage(total, watch.read(), made))


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
    fewer, part = (_part(job, classes, images) for images in _images(job, classes))
    few, many = len(fewer.source) / classes, len(part.source) / classes
    with _empty_cache():
        _, first, _ = _prepared(fewer, pass_size, batch_size)
    with _empty_cache():
        spent, second, artefact = _prepared(part, pass_size, batch_size)
        each = len(job.source) / len(job.classes)
        prepare = _of_all(spent, first, second, few, many, each) * (len(job.classes) / classes)
        grows = any(more.total > fewer.total for fewer, more in zip(first, second, strict=False))
        cached = bytes_of(cache_folder()) * len(job.classes) / classes * (each / many if grows else 1.0)
        unit = unit_of(job, part, units)
        make, finish, sampled = make_part(part, unit, artefact, units, batch_size, pass_size, sum(job.counts))
    share = sum(job.counts) / len(unit.slots)
    return Trial(
        prepare, make, finish * (len(job.classes) / classes), watch.read(), round(sampled.guided * share),
        round(sampled.plain * share), _image_bytes(job), round(cached),
    )  # fmt: skip


def _classes(job: Job, batch_size: int) -> int:
    """Return of how many classes a part of the run has to be: as many as fill a unit, within the share of a trial."""
    least = 2 if "classifier" in job.recipe.needs or job.recipe.shared() else 1  # networks tell two classes apart
    wanted = math.ceil(batch_size / max(job.counts))
    return min(len(job.classes), max(least, min(wanted, int(SHARE * len(job.classes) / 2))))


def _images(job: Job, classes: int) -> tuple[int, int]:
    """Return the most real images of a class for both preparations; the run's other images are left out.

    Their sum is the share of a trial, or what the method needs. A class with fewer images gives all.
    """
    largest = max(len(job.source.of_class(label)) for label in range(classes))
    options: Any = to_json(job.recipe)
    needed = max(_numbers(options, "references"), max(job.counts), 8)
    share = SHARE * len(job.source) / classes / 3
    few = min(largest, max(needed, int(share)))
    return few, min(largest, 2 * few)


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


def _prepared(part: Job, pass_size: int | None, batch_size: int) -> tuple[Spent, list[Stage], object]:
    """Prepare a part of the run; return the time, the stages and the artefact."""
    bars = Measured(part.prior.device)
    watch = Stopwatch(part.prior.device)
    artefact = part.recipe.prepare(part.context(bars, pass_size=pass_size, batch_size=batch_size))
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


def _of_all(spent: Spent, first: list[Stage], second: list[Stage], few: float, many: float, images: float) -> Spent:
    """Return the time of the preparation with all images of these classes."""
    counted, grows = NO_TIME, False
    rest = spent
    for fewer, more in zip(first, second, strict=False):
        rise = (more.total - fewer.total) / (many - few) if many > few else 0.0
        grows = grows or rise > 0
        total = fewer.total + rise * (images - few)
        # one that counts classes takes longer with more images
        alike = 1.0 if rise or not grows or more.made else images / many
        counted += more.spent * (max(total, more.total) / max(1, more.total) * alike)
        rest = rest - more.spent
    return counted + rest * (images / many if grows else 1.0)


def _image_bytes(job: Job) -> int:
    """Return the bytes of a PNG of the run, by those of real images of its size; the most that it can be without."""
    raw = job.shape.channels * job.shape.size**2
    if job.index is not None and job.request.source is None:
        return raw
    numbers = np.linspace(0, len(job.source) - 1, min(IMAGES, len(job.source))).astype(int)
    images = job.source.images(numbers, size=job.shape.size, channels=job.shape.channels)
    return sum(len(encode_png(image)) for image in images) // len(images)
