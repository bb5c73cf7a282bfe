"""The Gaussian kernel: k(x, y) = exp(−‖x − y‖² / 2σ²), D(x, y)² = −2 expm1(−‖x − y‖² / 2σ²)."""

from __future__ import annotations

from dataclasses import dataclass, field

from dap.kernels.bandwidth import Bandwidth, BandwidthKernel
from dap.kernels.base import KERNELS
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["RBF"]


@KERNELS.register("rbf")
@dataclass(frozen=True)
class RBF(BandwidthKernel):
    """k(x, y) = exp(−‖x − y‖² / 2σ²).

    Args:
        bandwidth: σ > 0 in the units of the features; "median" or "mean" of the Euclidean distances between rows of y
            (:mod:`dap.kernels.bandwidth` has the exact rule); or a list of σ, for the sum of the kernels.

    Raises:
        OptionError: The bandwidth is none of these.

    Example:
        >>> import numpy as np
        >>> RBF().resolve(np.array([[0.0], [1.0], [3.0]]))
        RBF(bandwidth=2.0, name='rbf')
    """

    bandwidth: Bandwidth = "median"
    name: str = field(default="rbf", init=False)

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return exp(−‖x_i − y_j‖² / 2σ²)."""
        return pairs.xp.exp(self._exponent(pairs))

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return 2 − 2 k(x_i, y_j), computed by expm1."""
        return -2.0 * pairs.xp.expm1(self._exponent(pairs))

    def _exponent(self, pairs: Pairs[ArrayT]) -> ArrayT:
        return -0.5 * (pairs.squared / self.sigma / self.sigma)
