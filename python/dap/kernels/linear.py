"""The linear kernel, the paper's choice: k(x, y) = x·y, D(x, y) = ‖x − y‖."""

from __future__ import annotations

from dataclasses import dataclass, field

from dap.kernels.arrays import Array
from dap.kernels.base import KERNELS, Kernel
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["LINEAR", "Linear"]


@KERNELS.register("linear")
@dataclass(frozen=True)
class Linear(Kernel):
    """k(x, y) = x·y, so that D(x, y) is the Euclidean distance.

    Example:
        >>> Linear()
        Linear(name='linear')
    """

    name: str = field(default="linear", init=False)

    def resolve(self, y: Array) -> Linear:
        """Return the kernel itself: no option depends on the data."""
        return self

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return x_i·y_j."""
        return pairs.dot

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return ‖x_i − y_j‖²."""
        return pairs.squared


LINEAR = Linear()
"""The default kernel of the reductions."""
