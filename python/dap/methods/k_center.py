"""k_center: real images so spread that none of their class is far from them.

Sener and Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR 2018,
https://arxiv.org/abs/1708.00489: farthest-point sampling in the features of the prior, from a seeded random image on;
see :mod:`dap.selection.k_center`. The first k images of a larger set are the set of k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from dap.methods.base import Context, Unit
from dap.methods.common.real_images import Chosen, check_tap, choose_by_features, record_images
from dap.rng import derive_seed
from dap.selection import k_center

__all__ = ["KCenter"]


@dataclass(frozen=True)
class KCenter:
    """Real images chosen by farthest-point sampling within each class.

    Attributes:
        block: The denoiser's block at which the features are taken, from 1; None takes the prior's recommendation.
        timestep: The step to which real images are noised for it, 0 to 999; the metrics' own is 100.

    Example:
        >>> import dap
        >>> subset = dap.distill("fashion-mini", method="k_center", ipc=1, out="subset")  # doctest: +SKIP
    """

    name: ClassVar[str] = "k_center"
    paper: ClassVar[str] = "Sener and Savarese, ICLR 2018, arXiv 1708.00489"
    year: ClassVar[int | None] = 2018
    couples: ClassVar[Literal["slot", "class"]] = "slot"
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
                k_center(features, context.ipc, seed=derive_seed(context.seed, "k_center", name)).indices
            ),
        )

    def make(self, context: Context, unit: Unit, artefact: Chosen) -> Tensor:
        """The chosen images, uint8."""
        return context.images([artefact[slot.class_index, slot.number] for slot in unit.slots])

    def record(self, context: Context, artefact: Chosen) -> dict[str, Any]:
        """The source id of each image, by class and in slot order."""
        return record_images(context, artefact)
