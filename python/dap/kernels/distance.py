"""The distance kernel: k(x, y) = ‖x‖ + ‖y‖ − ‖x − y‖, D(x, y)² = 2 ‖x − y‖.

Its MMD² is the energy distance (Sejdinovic, Sriperumbudur, Gretton, Fukumizu, "Equivalence of distance-based and
RKHS-based statistics in hypothesis testing", 2013, https://arxiv.org/abs/1207.6076; their k is half of this one).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dap.kernels.arrays import Array
from dap.kernels.base import KERNELS, Kernel
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["Distance"]


@KERNELS.register("distance")
@dataclass(frozen=True)
class Distance(Kernel):
    """k(x, y) = ‖x‖ + ‖y‖ − ‖x − y‖: the distance-induced kernel with the origin as its centre.

    Example:
        >>> import numpy as np
        >>> from dap.kernels import row_sums
        >>> row_sums(np.array([[3.0, 4.0]]), np.array([[3.0, 0.0]]), Distance())
        array([4.])
    """

    name: str = field(default="distance", init=False)

    def resolve(self, y: Array) -> Distance:
        """Return the kernel itself: no option depends on the data."""
        return self

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return ‖x_i‖ + ‖y_j‖ − ‖x_i − y_j‖."""
        return pairs.x_norm + pairs.y_norm - pairs.distance

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return 2 ‖x_i − y_j‖."""
        return 2.0 * pairs.distance
