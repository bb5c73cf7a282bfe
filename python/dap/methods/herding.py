"""herding: real images whose mean embedding follows that of their class.

Welling, "Herding dynamical weights to learn", ICML 2009; as exemplars: Rebuffi et al., "iCaRL", CVPR 2017,
https://arxiv.org/abs/1611.07725. Here in the features of the prior, with the kernel of the energy distance; see
:mod:`dap.selection.herding`. The first k images of a larger set are the set of k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from dap.methods.base import Context, Unit
from dap.methods.common.real_images import Chosen, check_tap, choose_by_features, record_images
from dap.selection import herding

__all__ = ["Herding"]


@dataclass(frozen=True)
class Herding:
    """Real images chosen by kernel herding within each class.

    Attributes:
        block: The denoiser's block at which the features are taken, from 1; None takes the prior's recommendation.
        timestep: The step to which real images are noised for it, 0 to 999; the metrics' own is 100.

    Example:
        >>> import dap
        >>> subset = dap.distill("fashion-mini", method="herding", ipc=1, out="subset")  # doctest: +SKIP
    """

    name: ClassVar[str] = "herding"
    paper: ClassVar[str] = "Welling, ICML 2009; for exemplars Rebuffi et al., CVPR 2017, arXiv 1611.07725"
    year: ClassVar[int | None] = 2009
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
            lambda features, name: herding(features, context.ipc).indices,
        )

    def make(self, context: Context, unit: Unit, artefact: Chosen) -> Tensor:
        """The chosen images, uint8."""
        return context.images([artefact[slot.class_index, slot.number] for slot in unit.slots])

    def record(self, context: Context, artefact: Chosen) -> dict[str, Any]:
        """The source id of each image, by class and in slot order."""
        return record_images(context, artefact)
