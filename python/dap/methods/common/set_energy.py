"""The energy of the slots of a class as a set, and its two terms: in the prior's features, and in x̂_0.

:mod:`dap.methods.dap_set` says what the energy is and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from dap.features import Tap
from dap.kernels import Kernel
from dap.kernels.torch_pairs import TorchPairs

if TYPE_CHECKING:
    from dap.methods.common.feature_guide import GuidedSteps
    from dap.sampling import StepState

__all__ = ["ClassSet", "LatentSetEnergyTerm", "SetEnergyTerm", "Sets", "set_energies", "set_size"]


def set_energies(x: Tensor, references: Tensor, kernel: Kernel, weights: Tensor) -> Tensor:
    """The e of each slot, as the module's docstring has it, not divided by its size.

    Args:
        x: Slots, (m, D).
        references: (N, D).
        kernel: A kernel with numbers for its parameters.
        weights: w, (N,) for all slots or (m, N) for each; the sum over n is 1.

    Returns:
        (m,), differentiable in x.

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
    """½ E D(r, r')² over different references; 1 where that is zero."""
    pairs = TorchPairs(references, references)
    total = float(kernel.resolve(references).squared_distance(pairs).fill_diagonal_(0.0).double().sum())
    count = len(references)
    return 0.5 * total / (count * (count - 1)) if total > 0 else 1.0


@dataclass(frozen=True)
class ClassSet:
    """The slots of one class in a unit.

    Attributes:
        label: The prior's label.
        places: Of the slots in the unit, int64 (m,).
        size: What e is divided by.
        pairs: Weights of the references for each slot, (m, N); None: those of the step, or equal shares.
    """

    label: int
    places: Tensor
    size: float
    pairs: Tensor | None = None


@dataclass(frozen=True)
class Sets:
    """The sets of slots of a unit with their references and weights, by (step, prior label)."""

    classes: tuple[ClassSet, ...]
    references: Mapping[tuple[int, int], Tensor]
    weights: Mapping[tuple[int, int], Tensor]
    kernel: Kernel

    def energies(self, x: Tensor, step: int) -> Tensor:
        """The e / size of each slot, (B,), for x with shape (B, D)."""
        energies = x.new_zeros(len(x))
        for own in self.classes:
            places = own.places.to(x.device)
            references = self.references[step, own.label].to(x)
            weights = own.pairs if own.pairs is not None else self.weights.get((step, own.label))
            if weights is None:
                weights = x.new_full((len(references),), 1 / len(references))
            found = set_energies(x[places], references, self.kernel.resolve(references), weights.to(x))
            energies = energies.index_put((places,), found / own.size)
        return energies


@dataclass(frozen=True)
class SetEnergyTerm:
    """The set energy in the prior's features."""

    tap: Tap
    sets: Sets
    window: GuidedSteps
    scale: float
    at: Any = "eps"
    normalise: bool = False
    needs: Literal["features"] = "features"
    taps: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", frozenset({self.tap.block}))

    def energy(self, state: StepState) -> Tensor:
        """The e / size of each slot, with shape (B,)."""
        return self.sets.energies(self.tap.pool(state.features[self.tap.block]).float(), state.step)


@dataclass(frozen=True)
class LatentSetEnergyTerm:
    """The set energy in x̂_0, as a change of x̂_0; ``spreads`` has ½ E ‖z − z'‖² by prior label."""

    sets: Sets
    spreads: Mapping[int, float]
    window: GuidedSteps
    scale: float
    at: Literal["x0"] = "x0"
    needs: Literal["nothing"] = "nothing"
    taps: frozenset[int] = frozenset()

    def delta(self, state: StepState) -> Tensor:
        """The change of x̂_0, with shape (B, C, h, w)."""
        with torch.enable_grad():
            x0 = state.x0.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.sets.energies(x0.flatten(1), state.step).sum(), x0)
        spread = torch.tensor([self.spreads[label] for label in state.labels.tolist()], device=x0.device)
        return -state.std * spread.view(-1, 1, 1, 1) * gradient
