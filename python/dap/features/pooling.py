"""Where in the prior a feature is taken, and how its tokens become one vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dap.registry import unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from dap.priors import Prior

__all__ = ["POOLINGS", "Tap", "default_block"]

POOLINGS = ("mean", "flat")


@dataclass(frozen=True)
class Tap:
    """φ(x_t, t): the hidden state after one block of the denoiser, pooled.

    Attributes:
        block: Number of the block, counted from 1.
        pooling: "mean" over the tokens gives D numbers, "flat" keeps all T × D.
    """

    block: int
    pooling: str = "mean"

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise unknown_name("pooling", self.pooling, POOLINGS)

    def pool(self, tokens: Tensor) -> Tensor:
        """Vectors, float32 (B, D) or (B, T·D), of tokens with shape (B, T, D)."""
        return tokens.float().mean(dim=1) if self.pooling == "mean" else tokens.float().flatten(1)


def default_block(prior: Prior) -> int:
    """The block that a prior recommends, or the one at a third of its depth (DAP: blocks 4 to 12 of 28 are best)."""
    return int(prior.recommended.get("block") or max(1, round(prior.num_blocks / 3)))
