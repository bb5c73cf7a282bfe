"""The energies that guidance descends, as the sum over a run's slots in each step, for the manifest and its report.

Sums are whole numbers of billionths: so they do not depend on the order in which units are finished.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from dap.priors import Prior
from dap.sampling import ENERGY, StepCallback

__all__ = ["Energies", "Sums", "add_sums", "from_manifest", "to_manifest"]

UNIT = 1e-9

Sums: TypeAlias = Mapping[str, Mapping[str, Any]]
"""By term "slots", how many latents it guided, and "sums", the sum of their energies in each step or None."""


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

    def take(self) -> Sums:
        """Return the sums since the last call."""
        sums = {}
        for term, steps in self._steps.items():
            totals = {step: _billionths(parts) for step, parts in steps.items()}
            slots = sum(map(len, steps[min(steps)]))
            sums[term] = {"slots": slots, "sums": [totals.get(step) for step in range(max(steps) + 1)]}
        self._steps = {}
        return sums


def _billionths(parts: Sequence[Tensor]) -> int | None:
    total = sum(float(part.double().sum()) for part in parts)
    return round(total / UNIT) if math.isfinite(total) else None


def add_sums(first: Sums, second: Sums) -> Sums:
    """Return the sums of both."""
    total = {**first}
    for term, entry in second.items():
        if term not in first:
            total[term] = entry
            continue
        longest = max(len(first[term]["sums"]), len(entry["sums"]))
        sides = [[*side["sums"], *[None] * (longest - len(side["sums"]))] for side in (first[term], entry)]
        sums = [None if a is None and b is None else (a or 0) + (b or 0) for a, b in zip(*sides, strict=True)]
        total[term] = {"slots": first[term]["slots"] + entry["slots"], "sums": sums}
    return total


def to_manifest(sums: Sums) -> dict[str, object]:
    """Return means instead of sums."""
    return {
        term: {
            "slots": entry["slots"],
            "mean": [None if value is None else value * UNIT / entry["slots"] for value in entry["sums"]],
        }
        for term, entry in sums.items()
    }


def from_manifest(means: Mapping[str, Mapping[str, Any]]) -> Sums:
    """Return the sums of :func:`to_manifest`'s means."""
    return {
        term: {
            "slots": entry["slots"],
            "sums": [None if value is None else round(value * entry["slots"] / UNIT) for value in entry["mean"]],
        }
        for term, entry in means.items()
    }
