"""The base class of methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import Field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from torch import Tensor

from dap.methods.context import Context, Slot, Unit
from dap.priors import Demand
from dap.seams import Seam

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["AnyMethod", "Context", "Couples", "Method", "Presets", "Record", "Remakes", "Slot", "Unit"]

A = TypeVar("A")

Couples: TypeAlias = Literal["slot", "class", "sequence"]
Remakes: TypeAlias = Literal["slot", "class", "nothing"]
Presets: TypeAlias = Mapping[str, Mapping[str, object]]
Record: TypeAlias = Mapping[str, object]


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

    def weights(self, context: Context, artefact: A) -> Mapping[str, Sequence[float]]:
        """Return how many real images each slot stands for, by class and in slot order; {}: all count equally.

        The numbers are at least 0, and above it for some slot of each class. The manifest keeps them;
        ``dap.evaluate(..., weighted=True)`` trains with them.
        """
        return {}

    def uses_prior(self) -> bool:
        """Return whether a prior makes the images under these options; by default whether "prior" is in ``needs``.

        If not, no prior is loaded, images have the size and channels of the source, and :meth:`make` returns images.
        """
        return "prior" in self.needs

    def ignored(self) -> tuple[str, ...]:
        """Return which options of sampling change nothing with this method, such as "eta"; none by default.

        dap warns of those that are given.
        """
        return ()

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
