"""The bases of the methods that choose real images: random, and by features herding, k_center and k_medoids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dap.config import check_whole
from dap.data.source import Source
from dap.errors import OptionError
from dap.features import Encoder, check_block
from dap.features.encoders import PriorEncoder, with_labels
from dap.methods.base import Context, Couples, Method, Presets, Record, Remakes, Unit
from dap.priors import Demand
from dap.storage.unfinished import in_turns

__all__ = ["ChosenImages", "RealImages", "RealImagesByFeatures", "check_enough", "rows_of_classes"]

ChosenImages: TypeAlias = dict[tuple[int, int], int]
"""The source index of each slot, by class index and number."""

TIMESTEP = 100  # that of the metrics


class RealImages(Method[ChosenImages]):
    """The base of methods whose images are real ones; a subclass chooses them in ``prepare``.

    They keep their own sizes, unless all are squares of one size or the user gives ``size``. If some are in colour, all
    become RGB.
    """

    couples: ClassVar[Couples] = "slot"
    presets: ClassVar[Presets] = {}

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return nothing: no step is taken."""
        return ()

    def make(self, context: Context, unit: Unit, artefact: ChosenImages) -> Tensor | Iterable[Tensor]:
        """Return the chosen images, uint8."""
        chosen = [artefact[slot.class_index, slot.number] for slot in unit.slots]
        if not context.own_size:
            return context.images(chosen)
        pixels = (context.source.pixels(index, channels=context.channels) for index in chosen)
        return map(torch.from_numpy, pixels)

    def record(self, context: Context, artefact: ChosenImages) -> Record:
        """Return the source id of each image, by class and in slot order."""
        ids, classes = context.source.ids, enumerate(context.classes)
        return {
            "images": {
                entry.name: [ids[artefact[index, number]] for number in range(context.ipc_of(index))]
                for index, entry in classes
            }
        }

    def remakes(self) -> Remakes:
        """Return that no image can be made again: there is only one choice."""
        return "nothing"

    def ignored(self) -> tuple[str, ...]:
        """Return that nothing is sampled, though a prior may give the features."""
        return ("sampling", "num_inference_steps", "guidance_scale", "scheduler", "timestep_spacing", "eta")

    def steps_per_slot(self, context: Context) -> int:
        """Return 0: no denoiser step is run."""
        return 0


def check_enough(source: Source, wanted: Sequence[int]) -> None:
    """Raise OptionError if a class of a source has fewer images than are wanted of it."""
    counts = np.bincount(source.labels, minlength=len(source.class_names)).tolist()
    few = next((number for number, count in enumerate(counts) if count < wanted[number]), None)
    if few is not None:
        images = "1 image" if counts[few] == 1 else f"{counts[few]} images"
        raise OptionError(
            f"class {source.class_names[few]!r} has {images}, fewer than ipc={wanted[few]}: choose an ipc of at most "
            f"{min(counts)}, which every class has, give such classes a smaller ipc, or leave them out (classes=)"
        )


def rows_of_classes(context: Context) -> list[npt.NDArray[np.int64]]:
    """Return the source indices of each class.

    Raises:
        OptionError: A class has fewer images than are wanted.
    """
    check_enough(context.source, [context.ipc_of(class_index) for class_index in range(len(context.classes))])
    return [context.source.of_class(class_index) for class_index in range(len(context.classes))]


@dataclass(frozen=True)
class RealImagesByFeatures(RealImages):
    """The options of a method that chooses real images by their features.

    The features are those of the run's encoder (``features=``), or of the prior, mean-pooled. The options are for the
    prior's features alone.

    Attributes:
        block: The denoiser's block whose output gives the features: a number from 1 or a name. None takes the prior's
            recommendation.
        timestep: The timestep to which real images are noised, from 0 to 999. The default is that of the metrics.
    """

    needs: ClassVar[tuple[str, ...]] = ("labels",)

    block: int | str | None = None
    timestep: int = TIMESTEP

    def __post_init__(self) -> None:
        check_block(self.block)
        check_whole("timestep", self.timestep, 0, 999)

    @abstractmethod
    def choose(self, features: npt.NDArray[np.float32], count: int, seed: int, name: str) -> npt.NDArray[np.int64]:
        """Return the rows of a class to take, int64 (count,).

        Args:
            features: Features of all images of the class, (N, D), with N at least ``count``.
            count: How many to take.
            seed: The run's root seed.
            name: The class's name.
        """

    def prepare(self, context: Context) -> ChosenImages:
        """Return the source index of each slot.

        Raises:
            OptionError: A class has fewer images than are wanted, or an option is for the prior's features and the run
                has others.
        """
        (encoder, labels), classes = self._encoder(context), rows_of_classes(context)
        chosen: dict[int, list[int]] = {}
        entries = [
            encoder.entry(context.source, indices, label=label) for label, indices in zip(labels, classes, strict=True)
        ]
        kept = "the features of the classes that were finished are kept"
        with (
            context.bars.stage("features", total=sum(map(len, classes)), unit=" images", kept=kept) as bar,
            closing(in_turns(entries)) as numbers,
        ):
            for class_index in numbers:
                entry, indices = context.classes[class_index], classes[class_index]
                features = encoder.rows(context.source, indices, label=labels[class_index], on_batch=bar.update)
                rows = self.choose(features, context.ipc_of(class_index), context.seed, entry.name)
                chosen[class_index] = [int(indices[row]) for row in rows]
        return {(index, number): row for index in sorted(chosen) for number, row in enumerate(chosen[index])}

    def _encoder(self, context: Context) -> tuple[Encoder, list[int]]:
        """Return the encoder, and its label of each class."""
        if context.encoder is None:
            encoder = PriorEncoder(context.prior, self.block, self.timestep, context.seed)
            return encoder, [entry.label for entry in context.classes]
        if self.block is not None or self.timestep != TIMESTEP:
            raise OptionError(
                f"block and timestep are options of the prior's features, and this run has the features "
                f"{context.encoder.name!r}: leave them out, or take features='prior'"
            )
        return with_labels(context.encoder, context.source)
