"""What a method gets: the context of a run, and units of slots to make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dap import rng
from dap.bar import NO_BARS, Bars
from dap.data.classmap import ClassEntry
from dap.data.source import Source
from dap.priors import Prior
from dap.sampling import SamplingSettings, StepCallback, Term, sample, steps_taken

if TYPE_CHECKING:
    from dap.features import Encoder
    from dap.index import Index

__all__ = ["Context", "Slot", "Unit"]


@dataclass(frozen=True)
class Slot:
    """One image to make.

    Attributes:
        class_index: Position of its class in the class map.
        number: Its number in the class, from 0.
        again: How often it was made again, each time with other random numbers.
    """

    class_index: int
    number: int
    again: int = 0

    @property
    def key(self) -> tuple[int, ...]:
        """What its random numbers are seeded by, beside the run's seed and the class's name."""
        return (self.number, self.again) if self.again else (self.number,)


@dataclass(frozen=True)
class Unit:
    """Slots that are made, and resumed, together."""

    index: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Context:
    """A run as a method sees it.

    Attributes:
        source: The real labelled images; if the run has only an index, the classes and ids of the index without images.
        classes: The class map; labels of ``source`` are positions in it.
        prior: The frozen diffusion model; a :class:`dap.priors.NoPrior` if the method needs none.
        settings: How to sample.
        seed: The root seed.
        ipc: Images per class; the most of a class if ``counts`` differ.
        size: Side of the images in pixels; if they keep their own sizes, the short side of the source's first one.
        channels: 1 (grey) or 3 (RGB).
        callback_on_step_end: The callback of the denoising loop; see :func:`dap.sampling.sample`.
        index: The feature index that the user gave; None if a method that needs an index has to make it.
        bars: Opens the bars of a preparation; see :meth:`dap.bar.Bars.stage`.
        encoder: What turns real images into the features by which they are chosen; None: the prior's own features.
        own_size: Whether real images keep their own sizes, which may differ.
        pass_size: The most slots in one evaluation of the denoiser; None: all slots of a unit.
        batch_size: The slots that the run makes at once, for a preparation that samples; None: not known.
        counts: Images of each class, if they are not the same number; see :meth:`ipc_of`.
        latent_dtype: In which the cache keeps latents of real images: "float16", or "float32" in a run that a version
            began which kept them so.
    """

    source: Source
    classes: tuple[ClassEntry, ...]
    prior: Prior
    settings: SamplingSettings
    seed: int
    ipc: int
    size: int
    channels: int
    callback_on_step_end: StepCallback | None = None
    index: Index | None = None
    bars: Bars = NO_BARS
    encoder: Encoder | None = None
    own_size: bool = False
    pass_size: int | None = None
    batch_size: int | None = None
    counts: tuple[int, ...] | None = None
    latent_dtype: str = "float16"

    def ipc_of(self, class_index: int) -> int:
        """Return the number of images of a class."""
        return self.ipc if self.counts is None else self.counts[class_index]

    def num_steps(self, strength: float = 1.0) -> int:
        """Return the denoiser steps of the run's schedule, or of its last share; Heun has 2n − 1 of n steps."""
        return steps_taken(self.prior, self.settings, strength)

    def sample(
        self,
        unit: Unit,
        terms: Sequence[Term] = (),
        *,
        recurrences: int = 1,
        init: Tensor | None = None,
        strength: float = 1.0,
    ) -> Tensor:
        """Return latents of a unit's slots, (B, C, h, w); see :func:`dap.sampling.sample`."""
        return sample(
            self.prior, self.labels(unit), self.generators(unit), settings=self.settings, terms=terms,
            recurrences=recurrences, init=init, strength=strength, pass_size=self.pass_size,
            callback_on_step_end=self.callback_on_step_end,
        )  # fmt: skip

    def labels(self, unit: Unit) -> Tensor:
        """Return the prior's label of each slot, int64 (B,)."""
        return torch.tensor([self.classes[slot.class_index].label for slot in unit.slots])

    def generators(self, unit: Unit) -> list[torch.Generator]:
        """Return a generator for each slot, seeded by (seed, class name, slot number)."""
        slots = unit.slots
        return [rng.generator(self.seed, "slot", self.classes[slot.class_index].name, *slot.key) for slot in slots]

    def classes_of(self, unit: Unit) -> list[tuple[int, Tensor]]:
        """Return the index of each class in a unit with the positions of its slots in the unit, int64 (m,)."""
        indices = torch.tensor([slot.class_index for slot in unit.slots])
        return [(int(index), torch.nonzero(indices == index).flatten()) for index in indices.unique()]

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return real images of the source, uint8 with shape (n, channels, size, size)."""
        return torch.from_numpy(self.source.images(indices, size=self.size, channels=self.channels))
