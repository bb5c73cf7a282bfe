"""The exponential kernel: k(x, y) = exp(−‖x − y‖ / σ), D(x, y)² = −2 expm1(−‖x − y‖ / σ)."""

from __future__ import annotations

from dataclasses import dataclass, field

from dap.kernels.bandwidth import Bandwidth, BandwidthKernel
from dap.kernels.base import KERNELS
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["Exponential"]


@KERNELS.register("exponential")
@dataclass(frozen=True)
class Exponential(BandwidthKernel):
    """k(x, y) = exp(−‖x − y‖ / σ), with the Euclidean distance: the Matérn kernel of ν = ½.

    Args:
        bandwidth: σ > 0 in the units of the features; "median" or "mean" of the Euclidean distances between rows of y
            (:mod:`dap.kernels.bandwidth` has the exact rule); or a list of σ, for the sum of the kernels.

    Raises:
        OptionError: The bandwidth is none of these.

    Example:
        >>> import numpy as np
        >>> from dap.kernels import row_sums
        >>> row_sums(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), Exponential(bandwidth=5.0)).round(4)
        array([0.3679])
    """

    bandwidth: Bandwidth = "median"
    name: str = field(default="exponential", init=False)

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return exp(−‖x_i − y_j‖ / σ)."""
        return pairs.xp.exp(-pairs.distance / self.sigma)

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return 2 − 2 k(x_i, y_j), computed by expm1."""
        return -2.0 * pairs.xp.expm1(-pairs.distance / self.sigma)
