"""The energy of the slots of a class as a set, and its two terms: in the prior's features, and in x̂_0.

The energy e is defined and explained in :mod:`dap.methods.dap_set`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dap.features import Tap
from dap.kernels import Kernel
from dap.kernels.torch_pairs import TorchPairs
from dap.sampling import DeltaTerm, EnergyTerm, Needs, Place, StepState

__all__ = ["ClassSet", "LatentSetEnergyTerm", "SetEnergyTerm", "Sets", "set_energies", "set_size"]


def set_energies(x: Tensor, references: Tensor, kernel: Kernel, weights: Tensor) -> Tensor:
    """Return e of each slot, not divided by its size; see :mod:`dap.methods.dap_set`.

    Args:
        x: Slots, (m, D).
        references: References, (N, D).
        kernel: A kernel whose parameters are numbers, not rules.
        weights: w, (N,) for all slots or (m, N) for each; each row sums to 1.

    Returns:
        Energies, (m,), differentiable with respect to ``x``.

    Example:
        >>> from dap.kernels import Distance
        >>> x, r = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0]])
        >>> set_energies(x, r, Distance(), torch.ones(1))
        tensor([0., 0.])
    """
    pull: Tensor = 0.5 * (kernel.squared_distance(TorchPairs(x, references)) * weights).sum(1)
    if len(x) == 1:
        return pull
    others = kernel.squared_distance(TorchPairs(x, x)).fill_diagonal_(0.0)
    push: Tensor = 0.25 * others.sum(1) / (len(x) - 1)
    return pull - push


def set_size(references: Tensor, kernel: Kernel) -> float:
    """Return ½ E D(r, r')² over pairs of different references, or 1 if that is zero."""
    pairs = TorchPairs(references, references)
    total = float(kernel.resolve(references).squared_distance(pairs).fill_diagonal_(0.0).double().sum())
    count = len(references)
    return 0.5 * total / (count * (count - 1)) if total > 0 else 1.0


@dataclass(frozen=True)
class ClassSet:
    """The slots of one class in a unit.

    Attributes:
        label: The prior's label.
        places: Positions of the slots in the unit, int64 (m,).
        size: The size that e is divided by.
        pairs: Weights of the references for each slot, (m, N); None: the weights of the step, or equal shares.
    """

    label: int
    places: Tensor
    size: float
    pairs: Tensor | None = None


@dataclass(frozen=True)
class Sets:
    """The slots of a unit as sets.

    Attributes:
        classes: The set of each class.
        references: References, (N, D), by (step, prior label).
        weights: Weights of the references, (N,), by (step, prior label); equal shares where there is no entry.
        kernel: The kernel; a bandwidth rule is applied to the references.
    """

    classes: tuple[ClassSet, ...]
    references: Mapping[tuple[int, int], Tensor]
    weights: Mapping[tuple[int, int], Tensor]
    kernel: Kernel

    def energies(self, x: Tensor, step: int) -> Tensor:
        """Return e / size of each slot, (B,), for x with shape (B, D)."""
        energies = x.new_zeros(len(x))
        for slots in self.classes:
            places = slots.places.to(x.device)
            references = self.references[step, slots.label].to(x)
            weights = slots.pairs if slots.pairs is not None else self.weights.get((step, slots.label))
            if weights is None:
                weights = x.new_full((len(references),), 1 / len(references))
            class_energies = set_energies(x[places], references, self.kernel.resolve(references), weights.to(x))
            energies = energies.index_put((places,), class_energies / slots.size)
        return energies


@dataclass(frozen=True, kw_only=True)
class SetEnergyTerm(EnergyTerm):
    """The set energy in the prior's features, which ``tap`` takes."""

    tap: Tap
    sets: Sets
    needs: Needs = "features"

    def energy(self, state: StepState) -> Tensor:
        """Return e / size of each slot, with shape (B,)."""
        return self.sets.energies(self.tap.pool(state.features[self.tap.block]).float(), state.step)


@dataclass(frozen=True, kw_only=True)
class LatentSetEnergyTerm(DeltaTerm):
    """The set energy in x̂_0, as a change of x̂_0.

    Attributes:
        sets: The sets; references are latents.
        spreads: ½ E ‖z − z'‖² of the references' latents, by prior label.
    """

    sets: Sets
    spreads: Mapping[int, float]
    at: Place = "x0"

    def delta(self, state: StepState) -> Tensor:
        """Return the change of x̂_0, with shape (B, C, h, w)."""
        with torch.enable_grad():
            x0 = state.x0.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.sets.energies(x0.flatten(1), state.step).sum(), x0)
        spread = torch.tensor([self.spreads[label] for label in state.labels.tolist()], device=x0.device)
        return -state.std * spread.view(-1, 1, 1, 1) * gradient
