"""The energies that guidance descends: of each unit the mean over its latents in each step, for the manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from dap.priors import Prior
from dap.sampling import ENERGY, StepCallback

__all__ = ["Energies", "EnergyMeans"]

EnergyMeans: TypeAlias = Mapping[str, Mapping[str, Any]]
"""By term "slots", the number of latents that it guided, and "mean", of each step a number, or None without one."""


class Energies:
    """Collects the energies of a unit, which may be sampled in several parts."""

    def __init__(self) -> None:
        self._steps: dict[str, dict[int, list[Tensor]]] = {}

    def watching(self, callback: StepCallback) -> StepCallback:
        """Return a callback of the denoising loop that notes the energies, and then calls another one."""

        def on_step(prior: Prior, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            for name, values in tensors.items():
                if name.startswith(ENERGY):
                    self._steps.setdefault(name.removeprefix(ENERGY), {}).setdefault(step, []).append(values)
            return callback(prior, step, timestep, tensors)

        return on_step

    def take(self) -> EnergyMeans:
        """Return the means since the last call, with six digits."""
        found = {}
        for term, steps in self._steps.items():
            means = [_mean(steps.get(step, [])) for step in range(max(steps) + 1)]
            found[term] = {"slots": sum(map(len, steps[max(steps)])), "mean": means}
        self._steps = {}
        return found


def _mean(parts: Sequence[Tensor]) -> float | None:
    """Return the mean of all values; None where there are none, or it is not finite."""
    if not parts:
        return None
    mean = sum(float(part.double().sum()) for part in parts) / sum(map(len, parts))
    return float(f"{mean:.6g}") if math.isfinite(mean) else None
