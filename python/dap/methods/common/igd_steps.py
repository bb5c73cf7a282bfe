"""The two changes of x_{t−1} in IGD's released step, which igd and lgd share; see :mod:`dap.methods.igd`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dap.sampling import EnergyTerm, Place, StepState

__all__ = ["DeviationTerm", "deviation_scale", "sized_as_noise"]

STEP = 0.0015  # the size of a step of k = 1, as a share of the size of its noise
LATENT = 4 * 32 * 32  # the number of values for which γ is given


def sized_as_noise(gradient: Tensor, state: StepState) -> Tensor:
    """Return ρ_t g of each slot, ρ_t = 0.0015 · √(1 − ᾱ_t) · RMS(ε) / RMS(g); where g is zero, zero.

    Args:
        gradient: g, (B, C, h, w).
        state: The step.
    """
    norm = gradient.flatten(1).norm(dim=1)
    length = STEP * state.sigma * state.eps.flatten(1).norm(dim=1)
    rho: Tensor = length / torch.where(norm > 0, norm, 1)
    return rho.view(-1, 1, 1, 1) * gradient


def deviation_scale(gamma: float, latent_shape: Sequence[int]) -> float:
    """Return γ for latents of a shape, from that for 4,096 values.

    Example:
        >>> deviation_scale(50.0, (4, 8, 8))
        3.125
    """
    return gamma * math.prod(latent_shape) / LATENT


@dataclass(frozen=True, kw_only=True)
class DeviationTerm(EnergyTerm):
    """The energy max_m cos(x_t, m), whose gradient is subtracted from x_{t−1}; the scale is γ.

    Attributes:
        memories: Finished latents of each slot's class, (M, C, h, w); with M = 0 the slot is not changed.
    """

    memories: tuple[Tensor, ...]
    at: Place = "sample"

    def energy(self, state: StepState) -> Tensor:
        """Return the largest cosine of each slot, with shape (B,)."""
        rows = []
        for latent, memory in zip(state.sample, self.memories, strict=True):
            cosines = functional.cosine_similarity(latent.flatten()[None], memory.flatten(1))
            rows.append(cosines.max() if len(memory) else 0 * latent.sum())
        return torch.stack(rows)
