"""The Method: a recipe that says what to prepare from the source and how to make the images of a unit of slots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from dap import rng
from dap.data.classmap import ClassEntry
from dap.data.source import Source
from dap.errors import OptionError
from dap.priors import Prior
from dap.sampling import SamplingSettings, StepCallback

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dap.index import Index

__all__ = ["Context", "Method", "Slot", "Unit"]


@dataclass(frozen=True)
class Slot:
    """One image to make: number ``number`` (from 0) of the class at position ``class_index`` of the class map."""

    class_index: int
    number: int


@dataclass(frozen=True)
class Unit:
    """Slots that are made, and resumed, together."""

    index: int
    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Context:
    """What a method works with.

    Attributes:
        source: The real labelled images; where a run has an index alone, its classes and ids without the images.
        classes: The class map; labels of ``source`` are positions in it.
        prior: The frozen diffusion model, or None if the method asked for none.
        settings: How to sample.
        seed: The root seed.
        ipc: Images per class.
        size: Side of the images in pixels.
        channels: 1 (grey) or 3 (RGB).
        callback_on_step_end: Passed on to the denoising loop.
        index: The feature index that was given for the run, or None: what needs one makes its own.
    """

    source: Source
    classes: tuple[ClassEntry, ...]
    prior: Prior | None
    settings: SamplingSettings
    seed: int
    ipc: int
    size: int
    channels: int
    callback_on_step_end: StepCallback | None = None
    index: Index | None = None

    def require_prior(self) -> Prior:
        """The prior of a method that declares that it needs one."""
        if self.prior is None:
            raise OptionError("this method samples from a prior, and none was given")
        return self.prior

    def labels(self, unit: Unit) -> Tensor:
        """The prior's label of each slot, int64 (B,)."""
        return torch.tensor([self.classes[slot.class_index].prior_label for slot in unit.slots])

    def generators(self, unit: Unit) -> list[torch.Generator]:
        """The generator of each slot, named by (seed, class name, slot)."""
        slots = unit.slots
        return [rng.generator(self.seed, "slot", self.classes[slot.class_index].name, slot.number) for slot in slots]

    def classes_of(self, unit: Unit) -> list[tuple[int, Tensor]]:
        """The classes of a unit, by index, each with the places of its slots in the unit, int64 (m,)."""
        own = torch.tensor([slot.class_index for slot in unit.slots])
        return [(int(each), torch.nonzero(own == each).flatten()) for each in own.unique()]

    def images(self, indices: Sequence[int]) -> Tensor:
        """Real images, uint8 with shape (n, channels, size, size)."""
        return torch.from_numpy(self.source.images(indices, size=self.size, channels=self.channels))


class Method(Protocol):
    """A frozen dataclass, one for each paper.

    Attributes:
        name: What users call it.
        paper: A short reference, with arXiv number or DOI.
        year: When it was published; None: it was not.
        couples: "slot" where each slot is made by itself, "class" where the slots of a class depend on each other.
        needs: Of "prior" (a diffusion model), "labels" (real images with their classes, beyond the classes' names),
            "classifier" (a network that tells the classes apart), "training" (a network is trained or adapted for the
            run) and "text" (captions, or a prior that reads them).
        presets: Named options, for ``method="name:preset"``.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int | None]
    couples: ClassVar[Literal["slot", "class"]]
    needs: ClassVar[tuple[str, ...]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]

    def prepare(self, context: Context) -> Any:
        """Whatever is computed once from the source, before the first unit."""

    def make(self, context: Context, unit: Unit, artefact: Any) -> Tensor:
        """The slots of ``unit``, in order: latents (B, C, h, w) as float, or images (B, channels, H, W) as uint8."""

    def record(self, context: Context, artefact: Any) -> dict[str, Any]:
        """What the manifest says about the artefact: JSON-able, the same for each run of the same plan."""

    def order(self, context: Context, artefact: Any, class_index: int, images: Tensor) -> list[int] | None:
        """The slots of a class, best first, by its finished images; None: as numbered. A method may leave it out."""

    def files(self, context: Context, artefact: Any) -> Mapping[str, bytes]:
        """What stands in the output folder beside the images, by path; a method may leave it out."""

    def steps_per_slot(self, settings: SamplingSettings) -> int:
        """How often the callback sees each slot that is wanted, for the progress bar.

        A method may leave it out: it is then ``settings.num_inference_steps``.
        """
