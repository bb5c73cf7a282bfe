"""The bases of the methods that choose real images: random, and by features herding, k_center and k_medoids."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dap.config import check_whole
from dap.errors import OptionError
from dap.features import Tap, block_number, check_block, real_features
from dap.methods.base import Context, Couples, Method, Presets, Record, Unit

__all__ = ["ChosenImages", "RealImages", "RealImagesByFeatures", "enough_images"]

ChosenImages: TypeAlias = dict[tuple[int, int], int]
"""The source index of each slot, by class index and number."""


class RealImages(Method[ChosenImages]):
    """The base of methods whose images are real ones; a subclass chooses them in ``prepare``."""

    couples: ClassVar[Couples] = "slot"
    presets: ClassVar[Presets] = {}

    def make(self, context: Context, unit: Unit, artefact: ChosenImages) -> Tensor:
        """Return the chosen images, uint8."""
        return context.images([artefact[slot.class_index, slot.number] for slot in unit.slots])

    def record(self, context: Context, artefact: ChosenImages) -> Record:
        """Return the source id of each image, by class and in slot order."""
        return {
            "images": {
                entry.name: [context.source.ids[artefact[class_index, number]] for number in range(context.ipc)]
                for class_index, entry in enumerate(context.classes)
            }
        }

    def steps_per_slot(self, context: Context) -> int:
        """Return 0: no denoiser step is run."""
        return 0


def enough_images(context: Context, class_index: int) -> npt.NDArray[np.int64]:
    """Return the source indices of a class.

    Raises:
        OptionError: The class has fewer than ``ipc`` images.
    """
    name, indices = context.classes[class_index].name, context.source.of_class(class_index)
    if len(indices) < context.ipc:
        raise OptionError(f"class {name!r} has {len(indices)} images, fewer than ipc={context.ipc}")
    return indices


@dataclass(frozen=True)
class RealImagesByFeatures(RealImages):
    """The options of a method that chooses real images by mean-pooled features of the prior.

    Attributes:
        block: The denoiser's block whose output gives the features: a number from 1 or a name. None takes the prior's
            recommendation.
        timestep: The timestep to which real images are noised, from 0 to 999. The default is that of the metrics.
    """

    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")

    block: int | str | None = None
    timestep: int = 100

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
            OptionError: A class has fewer images than are wanted.
        """
        chosen = ChosenImages()
        tap = Tap(block_number(context.prior, self.block))
        rows_of = [enough_images(context, class_index) for class_index in range(len(context.classes))]
        kept = "nothing of the features is kept; the same command computes them again"
        with context.bars.stage("features", total=sum(map(len, rows_of)), unit=" images", kept=kept) as bar:
            for class_index, (entry, indices) in enumerate(zip(context.classes, rows_of, strict=True)):
                features = real_features(
                    context.prior, context.images(indices.tolist()), [context.source.ids[i] for i in indices],
                    label=entry.label, tap=tap, timestep=self.timestep, seed=context.seed,
                )  # fmt: skip
                rows = self.choose(features.numpy(), context.ipc, context.seed, entry.name)
                chosen |= {(class_index, number): int(indices[row]) for number, row in enumerate(rows)}
                bar.update(len(indices))
        return chosen
