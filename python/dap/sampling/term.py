"""Terms: guidance as the denoising loop sees it, and the state of a step that a term reads.

A term has an ``energy`` (:class:`EnergyTerm`) or a ``delta`` (:class:`DeltaTerm`), acts at one place, and is active
inside a window of steps. With total energy E = Σ scale · E_term over the active energy terms of a place, the loop
applies

    eps     ε̂ = ε + √(1 − ᾱ_t) · ∇_{x_t} E      (the score of the Boltzmann factor exp(−E), as in classifier guidance)
    x0      x̂_0 = x̂_0 − ∇_{x_t} E
    sample  x_{t−1} = step(x_t, ε̂) − ∇_{x_t} E    (DAP's Algorithm 1)

and adds a delta, times its scale, to ε, x̂_0 or x_{t−1}. After a change of x̂_0 the step is taken with the ε that
belongs to the new x̂_0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from dap.config import check_choice, check_number
from dap.errors import OptionError
from dap.seams import Seam

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
        """Return whether the term acts in step ``step`` of ``num_steps``."""
        return self.start * num_steps <= step < self.stop * num_steps


@dataclass(frozen=True)
class StepState:
    """The state of one denoising step of B slots, which a term reads.

    Attributes:
        step: Number of the step, from 0.
        num_steps: Number of steps.
        timestep: t of the noise schedule.
        alpha: √ᾱ_t, whatever the scale of the sampler's own x_t.
        sigma: √(1 − ᾱ_t).
        std: The standard deviation of the noise that an ancestral sampler (DDPM) adds after this step: that of the
            posterior q(x_{t−1} | x_t, x_0), or the learned one, which is a tensor (B, C, h, w).
        sample: x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, float32 (B, C, h, w); requires grad in the steps in which an energy
            term, or one that needs the denoiser, is active.
        eps: The guided noise estimate; carries a graph only where a term needs the denoiser.
        x0: The estimate of x_0 that belongs to it, clipped where the scheduler clips.
        labels: The prior's label of each slot, int64 (B,).
        features: Tokens (B, T, D) of the conditional pass by block, with the graph to ``sample``.
        x0_conditional: The estimate of x_0 under the label alone, before classifier-free guidance; clipped as ``x0``.
            None if the prior does not return its noise estimate (:class:`dap.priors.Prediction`).
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
    x0_conditional: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Term(Seam):
    """The fields that every term has; a term is an :class:`EnergyTerm` or a :class:`DeltaTerm`.

    A subclass is a frozen dataclass with ``kw_only=True``. It may give these fields other defaults and add its own.

    Attributes:
        at: Where the term acts: "eps", "x0" or "sample".
        needs: What it needs of the prior beyond ε and x̂_0: "nothing", "features" of the tapped blocks, or a gradient
            through the whole "denoiser".
        taps: Numbers, from 1, of the blocks whose tokens it reads; at least one where ``needs`` is "features".
        window: The steps in which it acts.
        scale: Its factor; 0 switches it off.

    Raises:
        OptionError: A field has a value of another type or outside its range.
    """

    seam: ClassVar[str] = "term"

    at: Place = "eps"
    needs: Needs = "nothing"
    taps: frozenset[int] = frozenset()
    window: Window = field(default_factory=Window)
    scale: float = 1.0

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise OptionError unless every field is valid."""
        term = f"term {type(self).__name__}"
        check_choice(f"at of {term}", self.at, get_args(Place))
        check_choice(f"needs of {term}", self.needs, get_args(Needs))
        check_number(f"scale of {term}", self.scale)
        if not isinstance(self.window, Window):
            raise OptionError(f"window of {term}: expected a dap.sampling.Window, got {self.window!r}")
        if not isinstance(self.taps, frozenset) or not all(type(tap) is int and tap >= 1 for tap in self.taps):
            raise OptionError(f"taps of {term}: expected a frozenset of block numbers from 1, got {self.taps!r}")
        if self.needs == "features" and not self.taps:
            raise OptionError(f"taps of {term}: it needs features and names no block; give taps=frozenset({{block}})")
        if self.needs == "nothing" and self.taps:
            raise OptionError(f"needs of {term}: it has taps, so it has to be 'features' or 'denoiser'")


@dataclass(frozen=True, kw_only=True)
class EnergyTerm(Term):
    """A term given by an energy that guidance descends.

    Attributes:
        normalise: Divide the energy of each slot by its value in the first step in which the term acts, so that one
            scale serves many priors.

    Example:
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Length(EnergyTerm):
        ...     at: Place = "sample"
        ...     def energy(self, state):
        ...         return state.sample.flatten(1).norm(dim=1)
        >>> Length(scale=0.1).normalise
        False
    """

    normalise: bool = False

    @abstractmethod
    def energy(self, state: StepState) -> Tensor:
        """Return energies with shape (B,), differentiable with respect to ``state.sample``."""

    def check(self) -> None:
        """Raise OptionError unless every field is valid."""
        super().check()
        if type(self.normalise) is not bool:
            raise OptionError(f"normalise of term {type(self).__name__}: expected a bool, got {self.normalise!r}")


@dataclass(frozen=True, kw_only=True)
class DeltaTerm(Term):
    """A term given by its change of ε, x̂_0 or x_{t−1}, which the loop multiplies by the scale."""

    @abstractmethod
    def delta(self, state: StepState) -> Tensor:
        """Return the change, with shape (B, C, h, w)."""
