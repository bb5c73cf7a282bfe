"""k_medoids: the real images nearest to the k-means centres of their class.

k-means in the features of the prior, with a seeded k-means++ start; see :mod:`dap.selection.k_means`. The images of a
class depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from dap.methods.base import Context, Unit
from dap.methods.common.real_images import Chosen, check_tap, choose_by_features, record_images
from dap.rng import derive_seed
from dap.selection import k_medoids

__all__ = ["KMedoids"]


@dataclass(frozen=True)
class KMedoids:
    """The real image nearest to each of ipc k-means centres of its class, all different.

    Attributes:
        block: The denoiser's block at which the features are taken, from 1; None takes the prior's recommendation.
        timestep: The step to which real images are noised for it, 0 to 999; the metrics' own is 100.

    Example:
        >>> import dap
        >>> subset = dap.distill("fashion-mini", method="k_medoids", ipc=1, out="subset")  # doctest: +SKIP
    """

    name: ClassVar[str] = "k_medoids"
    paper: ClassVar[str] = "k-means++: Arthur and Vassilvitskii, SODA 2007, doi 10.5555/1283383.1283494"
    year: ClassVar[int | None] = 2007
    couples: ClassVar[Literal["slot", "class"]] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    block: int | str | None = None
    timestep: int = 100

    def __post_init__(self) -> None:
        check_tap(self.block, self.timestep)

    def prepare(self, context: Context) -> Chosen:
        """The source index of each slot."""
        return choose_by_features(
            context,
            self.block,
            self.timestep,
            lambda features, name: (
                k_medoids(features, context.ipc, seed=derive_seed(context.seed, "k_medoids", name)).indices
            ),
        )

    def make(self, context: Context, unit: Unit, artefact: Chosen) -> Tensor:
        """The chosen images, uint8."""
        return context.images([artefact[slot.class_index, slot.number] for slot in unit.slots])

    def record(self, context: Context, artefact: Chosen) -> dict[str, Any]:
        """The source id of each image, by class and in slot order."""
        return record_images(context, artefact)
