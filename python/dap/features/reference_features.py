"""Features of the references, read from an index when a step needs them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from dap.data.classmap import ClassEntry
    from dap.index import Index

__all__ = ["ChosenRows", "ReferenceFeatures"]


@dataclass(frozen=True)
class ChosenRows:
    """References of a class at one step: rows of the index, their weights (None: equal shares), and the timestep."""

    rows: np.ndarray
    weights: np.ndarray | None
    timestep: int


class ReferenceFeatures(Mapping[tuple[int, int], Tensor]):
    """Features of the references by (step, prior label).

    They are read from the index when they are used: a step reads the rows of its references and no others.

    Args:
        index: The index.
        classes: The class map.
        chosen: The references, by step and class name.
    """

    def __init__(
        self, index: Index, classes: Sequence[ClassEntry], chosen: Mapping[tuple[int, str], ChosenRows]
    ) -> None:
        self._index, self._chosen = index, chosen
        self._names = {entry.label: entry.name for entry in classes}

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        step, label = key
        name = self._names[label]
        chosen = self._chosen[step, name]
        return torch.from_numpy(np.asarray(self._index.features(name, chosen.timestep))[chosen.rows]).float()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return itertools.product(dict.fromkeys(step for step, _ in self._chosen), self._names)

    def __len__(self) -> int:
        return len(self._chosen)
