"""The Term: what guides. The loop knows nothing else about a method.

A term has either an ``energy`` (EnergyTerm) or a ``delta`` (DeltaTerm), acts at one place, and is active inside a
window of steps. With total energy E = Σ scale · E_term over the active energy terms of a place, the loop applies

    eps     ε̂ = ε + √(1 − ᾱ_t) · ∇_{x_t} E      (the score of the Boltzmann factor exp(−E), as in classifier guidance)
    x0      x̂_0 = x̂_0 − ∇_{x_t} E
    sample  x_{t−1} = step(x_t, ε̂) − ∇_{x_t} E    (DAP's Algorithm 1)

and adds a delta, times its scale, to ε, x̂_0 or x_{t−1}. Whatever changes x̂_0 enters the step through the ε that
belongs to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from dap.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DeltaTerm", "EnergyTerm", "Needs", "Place", "StepState", "Term", "Window"]

Place = Literal["eps", "x0", "sample"]
Needs = Literal["nothing", "features", "denoiser"]


@dataclass(frozen=True)
class Window:
    """The steps in which a term acts: step i of n is inside if start · n <= i < stop · n (step 0 is the noisiest).

    The paper's early stop is a ``stop`` below 1.
    """

    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop <= 1:
            raise OptionError(f"window: expected 0 <= start <= stop <= 1, got start={self.start}, stop={self.stop}")

    def contains(self, step: int, num_steps: int) -> bool:
        """Whether the term acts in step ``step`` of ``num_steps``."""
        return self.start * num_steps <= step < self.stop * num_steps


@dataclass(frozen=True)
class StepState:
    """What a term sees of one denoising step of B slots.

    Attributes:
        step: Number of the step, from 0.
        num_steps: Number of steps.
        timestep: t of the noise schedule.
        alpha: √ᾱ_t.
        sigma: √(1 − ᾱ_t).
        std: The standard deviation of the noise that an ancestral sampler (DDPM) adds after this step: that of the
            posterior q(x_{t−1} | x_t, x_0), or the learned one, which is a tensor (B, C, h, w).
        sample: x_t, float32 (B, C, h, w); requires grad in the steps in which an energy term, or one that needs the
            denoiser, is active.
        eps: The guided noise estimate; carries a graph only where a term needs the denoiser.
        x0: The estimate of x_0 that belongs to it, clipped where the scheduler clips.
        labels: The prior's label of each slot, int64 (B,).
        features: Tokens (B, T, D) of the conditional pass by block, with the graph to ``sample``.
    """

    step: int
    num_steps: int
    timestep: int
    alpha: float
    sigma: float
    std: float | Tensor
    sample: Tensor
    eps: Tensor
    x0: Tensor
    labels: Tensor
    features: Mapping[int, Tensor]


class Term(Protocol):
    """What every term states."""

    @property
    def at(self) -> Place:
        """Where it acts."""

    @property
    def needs(self) -> Needs:
        """What it needs of the prior: nothing, the tapped features, or a gradient through the whole denoiser."""

    @property
    def taps(self) -> frozenset[int]:
        """The blocks whose tokens it reads."""

    @property
    def window(self) -> Window:
        """The steps in which it acts."""

    @property
    def scale(self) -> float:
        """Its factor."""


@runtime_checkable
class EnergyTerm(Term, Protocol):
    """A term given by an energy that guidance descends."""

    @property
    def normalise(self) -> bool:
        """Divide the energy, slot by slot, by its value in the first step in which the term acts.

        One scale then serves many priors.
        """

    def energy(self, state: StepState) -> Tensor:
        """Energies with shape (B,), differentiable with respect to ``state.sample``."""


@runtime_checkable
class DeltaTerm(Term, Protocol):
    """A term given by its change."""

    def delta(self, state: StepState) -> Tensor:
        """The change, with shape (B, C, h, w)."""
