"""The Gaussian kernel: k(x, y) = exp(−‖x − y‖² / 2σ²), D(x, y)² = −2 expm1(−‖x − y‖² / 2σ²)."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from dap.errors import OptionError
from dap.kernels.arrays import to_numpy
from dap.kernels.base import KERNELS, Pairs

__all__ = ["RBF"]

MEDIAN_ROWS = 1000
"""Rows that the median heuristic looks at; their pairs fill 8 MB."""


@KERNELS.register("rbf")
@dataclass(frozen=True)
class RBF:
    """k(x, y) = exp(−‖x − y‖² / 2σ²).

    Args:
        bandwidth: σ > 0 in the units of the features, or "median": the median of the Euclidean distances ‖y_i − y_j‖,
            i < j, among the first 1,000 rows of y (this heuristic has several forms: here σ is the median itself, not
            the median over √2); 1.0 if that median is zero or y has fewer than two rows.

    Raises:
        OptionError: If the bandwidth is neither a positive finite number nor "median".

    Example:
        >>> import numpy as np
        >>> RBF().resolve(np.array([[0.0], [1.0], [3.0]]))
        RBF(bandwidth=2.0, name='rbf')
    """

    bandwidth: float | Literal["median"] = "median"
    name: str = field(default="rbf", init=False)

    def __post_init__(self) -> None:
        """Refuses a bandwidth that is none."""
        number = isinstance(self.bandwidth, int | float) and not isinstance(self.bandwidth, bool)
        if self.bandwidth != "median" and not (number and 0 < float(self.bandwidth) < math.inf):
            raise OptionError(f'bandwidth must be a positive finite number or "median", got {self.bandwidth!r}')

    def resolve(self, y: Any) -> RBF:
        """The kernel with its bandwidth as a number; ``y`` is a numpy array or torch tensor with shape (m, d)."""
        return dataclasses.replace(self, bandwidth=median_distance(y)) if self.bandwidth == "median" else self

    def value(self, pairs: Pairs) -> Any:
        """exp(−‖x_i − y_j‖² / 2σ²)."""
        return pairs.xp.exp(self._exponent(pairs))

    def squared_distance(self, pairs: Pairs) -> Any:
        """2 − 2 k(x_i, y_j), by expm1."""
        return -2.0 * pairs.xp.expm1(self._exponent(pairs))

    def _exponent(self, pairs: Pairs) -> Any:
        if self.bandwidth == "median":
            raise OptionError("the bandwidth is not a number yet: call kernel.resolve(y) first")
        return -0.5 * (pairs.squared / self.bandwidth / self.bandwidth)


def median_distance(y: Any) -> float:
    """The median of the pairwise Euclidean distances among the first rows of y; 1.0 where that is zero or undefined."""
    rows = to_numpy(y[:MEDIAN_ROWS], np.float64)
    if len(rows) < 2:
        return 1.0
    rows = rows - rows[0]  # a common offset would cost digits in the product below
    norms = (rows**2).sum(1)
    first, second = np.triu_indices(len(rows), k=1)
    sizes = norms[first] + norms[second]
    squared = sizes - 2.0 * (rows @ rows.T)[first, second]
    squared[squared < 1e-13 * sizes] = 0.0  # equal rows: what is left is rounding
    median = float(np.median(np.sqrt(squared)))
    if not math.isfinite(median):
        raise OptionError("the median bandwidth of y is not finite: y holds NaN or infinity, or values too large")
    return median or 1.0
