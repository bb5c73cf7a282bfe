"""dit: the prior's own samples, without guidance by real images, as the distillation papers report it.

Peebles and Xie, "Scalable Diffusion Models with Transformers", ICCV 2023, https://arxiv.org/abs/2212.09748.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from dap.methods.base import Context, Unit
from dap.sampling import sample

__all__ = ["DiT"]


@dataclass(frozen=True)
class DiT:
    """Class-conditional samples with classifier-free guidance and nothing else.

    Example:
        >>> import dap
        >>> samples = dap.distill("fashion-mini", method="dit", ipc=1, out="samples")  # doctest: +SKIP
    """

    name: ClassVar[str] = "dit"
    paper: ClassVar[str] = "Peebles and Xie, ICCV 2023, arXiv 2212.09748"
    year: ClassVar[int | None] = 2023
    couples: ClassVar[Literal["slot", "class"]] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("prior",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def prepare(self, context: Context) -> None:
        """Nothing is taken from the source."""

    def make(self, context: Context, unit: Unit, artefact: None) -> Tensor:
        """Latents of the unit's slots."""
        return sample(
            context.require_prior(), context.labels(unit), context.generators(unit),
            settings=context.settings, callback_on_step_end=context.callback_on_step_end,
        )  # fmt: skip

    def record(self, context: Context, artefact: None) -> dict[str, Any]:
        """Nothing."""
        return {}
