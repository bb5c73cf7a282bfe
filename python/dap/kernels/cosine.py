"""The cosine kernel: k(x, y) = x·y / ‖x‖‖y‖, 0 where a vector is 0; D(x, y) = ‖x/‖x‖ − y/‖y‖‖."""

from __future__ import annotations

from dataclasses import dataclass, field

from dap.kernels.arrays import Array
from dap.kernels.base import KERNELS, Kernel
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["Cosine"]


@KERNELS.register("cosine")
@dataclass(frozen=True)
class Cosine(Kernel):
    """k(x, y) = x·y / ‖x‖‖y‖: the linear kernel of the rows divided by their norms; a row of zeros stays zero.

    Example:
        >>> import numpy as np
        >>> from dap.kernels import row_sums
        >>> row_sums(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[2.0, 0.0]]), Cosine())
        array([0.6, 0. ])
    """

    name: str = field(default="cosine", init=False)

    def resolve(self, y: Array) -> Cosine:
        """Return the kernel itself: no option depends on the data."""
        return self

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return x_i·y_j / ‖x_i‖‖y_j‖."""
        return pairs.unit.dot

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return ‖x_i/‖x_i‖ − y_j/‖y_j‖‖²."""
        return pairs.unit.squared
