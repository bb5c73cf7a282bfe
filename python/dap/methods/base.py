"""The base class of methods, and the context of a run, which a method gets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import Field, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import torch
from torch import Tensor

from dap import rng
from dap.bar import NO_BARS, Bars
from dap.data.classmap import ClassEntry
from dap.data.source import Source
from dap.priors import Demand, Prior
from dap.sampling import SamplingSettings, StepCallback, Term, sample, steps_taken
from dap.seams import Seam

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dap.features import Encoder
    from dap.index import Index

__all__ = ["AnyMethod", "Context", "Couples", "Method", "Presets", "Record", "Remakes", "Slot", "Unit"]

A = TypeVar("A")

Couples: TypeAlias = Literal["slot", "class", "sequence"]
Remakes: TypeAlias = Literal["slot", "class", "nothing"]
Presets: TypeAlias = Mapping[str, Mapping[str, object]]
Record: TypeAlias = Mapping[str, object]


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


class Method(Seam, Generic[A]):
    """The base class of methods: a subclass is a frozen dataclass, one for each paper, whose fields are its options.

    ``A`` is the type of the artefact that it prepares.

    Attributes:
        name: The name that users give.
        paper: A short reference, with arXiv number or DOI.
        year: When it was published; None if it was not.
        couples: "slot" if each slot is made independently, "class" if the slots of a class depend on each other,
            "sequence" if each slot of a class depends on those with lower numbers, which are made before it.
        needs: Any of "prior" (a diffusion model; see :meth:`uses_prior`), "labels" (real images with their classes,
            beyond the classes' names), "classifier" (a network that tells the classes apart), "training" (a network is
            trained or adapted for the run) and "text" (captions, or a prior that reads them).
        presets: Named options, for ``method="name:preset"``.
        version: Raised with every change of its images' bytes: a run of another version is not continued.
        sampled_by: The sampling (:mod:`dap.sampling.named`) for which the numbers of a preset were published, by its
            name. Default: not known of any.

    Raises:
        OptionError: An object is made of a class that lacks one of these or an abstract method.
    """

    seam: ClassVar[str] = "method"
    parts: ClassVar[tuple[str, ...]] = ("name", "paper", "year", "needs", "couples", "presets")

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    name: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int | None]
    couples: ClassVar[Couples]
    needs: ClassVar[tuple[str, ...]]
    presets: ClassVar[Presets]
    version: ClassVar[int] = 1
    sampled_by: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def prepare(self, context: Context) -> A:
        """Compute, once and before the first unit, the artefact: what the method takes from the source."""

    @abstractmethod
    def make(self, context: Context, unit: Unit, artefact: A) -> Tensor | Iterable[Tensor]:
        """Return the slots of ``unit`` in order.

        They are float latents (B, C, h, w), uint8 images (B, channels, H, W), or one by one, uint8 images
        (channels, H, W) of any sizes.
        """

    @abstractmethod
    def record(self, context: Context, artefact: A) -> Record:
        """Return what the manifest says about the artefact: JSON-able, the same for each run of the same plan."""

    def order(self, context: Context, artefact: A, class_index: int, images: Tensor) -> list[int] | None:
        """Return the slot numbers of a class, best first, judged by its finished images; None: slots are not ranked.

        Args:
            context: The run.
            artefact: What :meth:`prepare` returned.
            class_index: Position of the class in the class map.
            images: Its finished images in slot order, uint8 (n, channels, H, W).
        """
        return None

    def uses_prior(self) -> bool:
        """Return whether a prior makes the images under these options; by default whether "prior" is in ``needs``.

        If not, no prior is loaded, images have the size and channels of the source, and :meth:`make` returns images.
        """
        return "prior" in self.needs

    def shared(self) -> str | None:
        """Return what all classes of a run share, such as "a classifier of all classes"; None if they share nothing.

        Classes can be added to a finished run only if they share nothing: else they would change the images of others.
        """
        return "a classifier of all classes" if "classifier" in self.needs else None

    def versions(self) -> Mapping[str, int]:
        """Return the version of the method by its name, unless it is the first; a sum has those of its terms."""
        return {self.name: self.version} if self.version > 1 else {}

    def remakes(self) -> Remakes:
        """Return what can be made again with other random numbers: a "slot", only a whole "class", or "nothing"."""
        return "slot"

    def slots_at_once(self, ipc: int) -> int:
        """Return how many slots of a class are sampled together, where the slots of a class are coupled."""
        return ipc

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return what each stage of making a unit needs of the prior, for the plan of memory.

        Nothing is prepared yet. The default is the most: a graph through the whole denoiser.
        """
        return (Demand(denoiser=True),) if self.uses_prior() else ()

    def preparation_bytes(self, context: Context) -> int:
        """Return the memory of the preparation beside the weights, for the plan of memory.

        The default is that of encoding real images and computing their features.
        """
        return context.prior.encoding_bytes if "labels" in self.needs else 0

    def disk(self, context: Context) -> int:
        """Return about how many bytes the preparation writes to the cache, if nothing of it is there; 0 by default."""
        return 0

    def files(self, context: Context, artefact: A) -> Mapping[str, bytes]:
        """Return files to write next to the images, by their path below the output folder; none by default."""
        return {}

    def steps_per_slot(self, context: Context) -> int:
        """Return how many denoiser steps are run for each slot, for the progress bar; by default the schedule's."""
        return context.num_steps() if self.uses_prior() else 0


AnyMethod: TypeAlias = Method[Any]  # a method of which it does not matter what it prepares
