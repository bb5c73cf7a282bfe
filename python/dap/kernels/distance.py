"""The distance kernel: k(x, y) = ‖x‖ + ‖y‖ − ‖x − y‖, D(x, y)² = 2 ‖x − y‖.

Its MMD² is the energy distance (Sejdinovic, Sriperumbudur, Gretton, Fukumizu, "Equivalence of distance-based and
RKHS-based statistics in hypothesis testing", 2013, https://arxiv.org/abs/1207.6076; theirs is half of this k).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dap.kernels.base import KERNELS, Pairs

__all__ = ["Distance"]


@KERNELS.register("distance")
@dataclass(frozen=True)
class Distance:
    """k(x, y) = ‖x‖ + ‖y‖ − ‖x − y‖, the kernel that distances to the origin induce.

    Example:
        >>> import numpy as np
        >>> from dap.kernels import row_sums
        >>> row_sums(np.array([[3.0, 4.0]]), np.array([[3.0, 0.0]]), Distance())
        array([4.])
    """

    name: str = field(default="distance", init=False)

    def resolve(self, y: Any) -> Distance:
        """Itself: nothing depends on the data."""
        return self

    def value(self, pairs: Pairs) -> Any:
        """‖x_i‖ + ‖y_j‖ − ‖x_i − y_j‖."""
        return pairs.x_norm + pairs.y_norm - pairs.distance

    def squared_distance(self, pairs: Pairs) -> Any:
        """2 ‖x_i − y_j‖."""
        return 2.0 * pairs.distance
