"""References: the real images that guidance compares slots with, as features at each guided step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from dap.features import Tap
from dap.sampling import Window

if TYPE_CHECKING:
    from torch import Tensor

    from dap.features import ChosenRows
    from dap.index import Index
    from dap.methods.base import Context

__all__ = ["GuidedSteps", "References"]


@dataclass(frozen=True)
class References:
    """Features of real images of each class, at each guided step.

    Attributes:
        tap: Where the features are taken.
        ids: Source ids by class name; if they differ between timesteps, a dict of them by timestep.
        features: Features (N, D), float32 on the CPU, by (step, prior label), at the guided steps and the last one.
        steps: The guided steps.
        index: The index with the features; None if no step is guided.
        chosen: Rows of the index and their weights, by (step, class name).
    """

    tap: Tap
    ids: Mapping[str, Sequence[str] | Mapping[int, Sequence[str]]]
    features: Mapping[tuple[int, int], Tensor]
    steps: frozenset[int] = frozenset()
    index: Index | None = None
    chosen: Mapping[tuple[int, str], ChosenRows] = field(default_factory=dict)

    def weights(self, context: Context) -> dict[tuple[int, int], Tensor]:
        """Return the weights of weighted references, float32 (N,), by (step, prior label)."""
        labels = {entry.name: entry.label for entry in context.classes}
        return {
            (step, labels[name]): torch.from_numpy(rows.weights).float()
            for (step, name), rows in self.chosen.items()
            if rows.weights is not None
        }


@dataclass(frozen=True)
class GuidedSteps(Window):
    """A window of single steps: those for which references have features."""

    steps: frozenset[int] = frozenset()

    def contains(self, step: int, num_steps: int) -> bool:
        """Return whether the term acts in step ``step``."""
        return step in self.steps
