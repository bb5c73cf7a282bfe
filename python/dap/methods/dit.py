"""dit: the prior's own samples, without guidance by real images, as the distillation papers report it.

Peebles and Xie, "Scalable Diffusion Models with Transformers", ICCV 2023, https://arxiv.org/abs/2212.09748.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dap.methods.base import Context, Couples, Method, Presets, Record, Unit
from dap.priors import Demand

__all__ = ["DiT"]


@dataclass(frozen=True)
class DiT(Method[None]):
    """Class-conditional samples with classifier-free guidance alone.

    Example:
        >>> import dap
        >>> samples = dap.distill("fashion-mini", method="dit", ipc=1, out="samples")  # doctest: +SKIP
    """

    name: ClassVar[str] = "dit"
    paper: ClassVar[str] = "Peebles and Xie, ICCV 2023, arXiv 2212.09748"
    year: ClassVar[int | None] = 2023
    couples: ClassVar[Couples] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("prior",)
    presets: ClassVar[Presets] = {}

    def prepare(self, context: Context) -> None:
        """Return None: nothing is computed from the source."""

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return that noise estimates are all that is needed."""
        return (Demand(),)

    def make(self, context: Context, unit: Unit, artefact: None) -> Tensor:
        """Return latents of the unit's slots."""
        return context.sample(unit)

    def record(self, context: Context, artefact: None) -> Record:
        """Return an empty record."""
        return {}
