"""The linear kernel, the paper's choice: k(x, y) = x·y, D(x, y) = ‖x − y‖."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dap.kernels.base import KERNELS, Pairs

__all__ = ["Linear"]


@KERNELS.register("linear")
@dataclass(frozen=True)
class Linear:
    """k(x, y) = x·y, so that D(x, y) is the Euclidean distance.

    Example:
        >>> Linear()
        Linear(name='linear')
    """

    name: str = field(default="linear", init=False)

    def resolve(self, y: Any) -> Linear:
        """Itself: nothing depends on the data."""
        return self

    def value(self, pairs: Pairs) -> Any:
        """x_i·y_j."""
        return pairs.dot

    def squared_distance(self, pairs: Pairs) -> Any:
        """‖x_i − y_j‖²."""
        return pairs.squared
