"""What terms change in one step of a sampler: its input before the step, and the sample after it.

The denoising loop uses this, and so does the guidance of a diffusers pipeline that somebody else calls.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dap.errors import DivergedError, OptionError
from dap.priors.noise_levels import Level
from dap.sampling.term import DeltaTerm, EnergyTerm, StepState, Term

__all__ = ["ENERGY", "ActiveTerms", "active_terms", "ancestral_std", "changed", "check_terms", "estimated_x0"]

ENERGY = "energy."  # with the name of a term's class: the key of its energies


@dataclass(frozen=True)
class ActiveTerms:
    """The terms that act in a step, and what they need of the denoiser.

    Attributes:
        terms: In the order in which they were given.
    """

    terms: tuple[Term, ...]

    def __len__(self) -> int:
        return len(self.terms)

    @cached_property
    def energies(self) -> list[EnergyTerm]:
        """Those with an energy."""
        return [term for term in self.terms if isinstance(term, EnergyTerm)]

    @cached_property
    def deltas(self) -> list[DeltaTerm]:
        """Those with a delta."""
        return [term for term in self.terms if isinstance(term, DeltaTerm)]

    @property
    def differentiated(self) -> bool:
        """Whether a delta needs the graph of the denoiser, after the energies' gradients."""
        return any(term.needs == "denoiser" for term in self.deltas)

    @property
    def through(self) -> bool:
        """Whether the graph leads through the whole denoiser."""
        return self.differentiated or any(term.needs == "denoiser" for term in self.energies)

    @property
    def graph(self) -> bool:
        """Whether there is a graph at all."""
        return self.through or bool(self.energies)

    @property
    def taps(self) -> frozenset[int]:
        """The blocks whose features are read."""
        return frozenset().union(*(term.taps for term in self.terms))


def check_terms(terms: Sequence[Term]) -> None:
    """Raise OptionError unless every term is an EnergyTerm or a DeltaTerm with valid fields."""
    for term in terms:
        if not isinstance(term, EnergyTerm | DeltaTerm):
            raise OptionError(
                f"terms: expected subclasses of dap.sampling.EnergyTerm or DeltaTerm, got {type(term).__name__}"
            )
        term.check()  # again, for a subclass that has its own __init__ or __post_init__


def active_terms(terms: Sequence[Term], step: int, num_steps: int) -> ActiveTerms:
    """Return the terms that act in step ``step`` of ``num_steps``."""
    return ActiveTerms(tuple(term for term in terms if term.scale != 0 and term.window.contains(step, num_steps)))


def changed(
    active: ActiveTerms, state: StepState, output: Tensor, noise_level: Level, first: dict[int, Tensor],
    now: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the changed input of the sampler, and what is added to the sample after the step; both (B, C, h, w).

    Args:
        active: The terms of the step.
        state: The step.
        output: The sampler's input without a graph: the noise estimate, or with flow matching v = ε − x_0.
        noise_level: That of the sampler, whose x_t may have another scale than ``state.sample``.
        first: The energies or deltas of each term in the first step in which it acted, by its ``id``; new ones are
            added.
        now: Gets the energies (B,) of each energy term in this step, before its scale, as "energy." and the name of its
            class.

    Raises:
        OptionError: A term returns another shape, or an energy without a gradient.
        DivergedError: A term is not finite in the first step in which it acts.
    """
    with torch.set_grad_enabled(active.graph):
        gradients = _gradients(active.energies, state, first, now, keep_graph=active.differentiated)
    to_sample = torch.zeros_like(output)
    for place, gradient in gradients.items():
        if place == "eps":
            output = output + noise_level.per_eps * noise_level.noise * gradient
        elif place == "x0":
            output = output - noise_level.per_x0 * gradient
        else:
            to_sample = to_sample - noise_level.scale_after * gradient
    for term in active.deltas:
        delta = term.scale * _checked(term, "delta", term.delta(state), output.shape, first)
        if term.at == "eps":
            output = output + noise_level.per_eps * delta
        elif term.at == "x0":
            output = output + noise_level.per_x0 * delta
        else:
            to_sample = to_sample + noise_level.scale_after * delta
    return output, to_sample


def estimated_x0(x: Tensor, eps: Tensor, noise_level: Level, clip: float | None) -> Tensor:
    """Return the estimate of x_0 that belongs to a noise estimate."""
    x0 = (x - noise_level.sigma * eps) / noise_level.alpha
    return x0 if clip is None else x0.clamp(-clip, clip)


def ancestral_std(noise_level: Level, variance: Tensor | None) -> float | Tensor:
    """Return the standard deviation of an ancestral step's noise.

    Ho et al. 2020, Eq. 7, or with a learned variance Nichol and Dhariwal 2021, Eq. 15.
    """
    now, after = noise_level.cumulative, noise_level.after
    beta = 1 - now / after
    posterior = (1 - after) / (1 - now) * beta
    if variance is None:
        return math.sqrt(posterior)
    share = (variance.detach() + 1) / 2
    return torch.exp(0.5 * (share * math.log(beta) + (1 - share) * math.log(max(posterior, 1e-20))))


def _checked(term: Term, part: str, value: Tensor, shape: torch.Size, first: dict[int, Tensor]) -> Tensor:
    """Check the shape of a term's result and, in the first step in which the term acts, its values; return the result.

    Raises:
        OptionError: It has another shape.
        DivergedError: It is not finite.
    """
    if not isinstance(value, Tensor) or value.shape != shape:
        result = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise OptionError(f"term {type(term).__name__}: {part} has to return shape {tuple(shape)}, got {result}")
    if id(term) not in first:
        first[id(term)] = value.detach()
        if not torch.isfinite(value).all():
            raise DivergedError(f"term {type(term).__name__}: {part} is not finite in the first step in which it acts")
    return value


def _gradients(
    terms: Sequence[EnergyTerm], state: StepState, first: dict[int, Tensor], now: dict[str, Tensor], *,
    keep_graph: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Return ∇_{x_t} of the weighted energies by place, one backward pass for each place.

    ``first`` holds the energies of each term in the first step in which it acted, ``now`` gets those of this step;
    ``keep_graph`` keeps the graph for delta terms.
    """
    totals: dict[str, Tensor] = {}
    for term in terms:
        energy = _checked(term, "energy", term.energy(state), state.labels.shape, first)
        name = f"{ENERGY}{type(term).__name__}"
        now[name if name not in now else f"{name} {len(now) + 1}"] = energy.detach()
        if term.normalise:
            start = first[id(term)]
            energy = energy / torch.where(start > 0, start, 1)
        totals[term.at] = totals.get(term.at, torch.zeros(())) + term.scale * energy.sum()
    last = len(totals) - 1
    if not all(total.requires_grad for total in totals.values()):
        names = ", ".join(sorted({type(term).__name__ for term in terms}))
        raise OptionError(
            f"terms: an energy of {names} has no gradient with respect to x_t; quantised layers give none, so use "
            "their plain weights or guidance that needs no denoiser"
        )
    return {
        place: torch.autograd.grad(total, state.sample, retain_graph=keep_graph or number < last)[0]
        for number, (place, total) in enumerate(totals.items())
    }
