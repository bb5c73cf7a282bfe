"""The rational quadratic kernel: k(x, y) = (1 + ‖x − y‖² / 2ασ²)^−α, D² = −2 expm1(−α log1p(‖x − y‖² / 2ασ²))."""

from __future__ import annotations

from dataclasses import dataclass, field

from dap.kernels.bandwidth import Bandwidth, BandwidthKernel
from dap.kernels.base import KERNELS, positive
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["RationalQuadratic"]


@KERNELS.register("rational_quadratic")
@dataclass(frozen=True)
class RationalQuadratic(BandwidthKernel):
    """k(x, y) = (1 + ‖x − y‖² / 2ασ²)^−α: a mixture of Gaussian kernels of many widths; one of them as α grows.

    Args:
        alpha: α, a positive finite number: the smaller, the heavier the tail.
        bandwidth: σ > 0 in the units of the features; "median" or "mean" of the Euclidean distances between rows of y
            (:mod:`dap.kernels.bandwidth` has the exact rule); or a list of σ, for the sum of the kernels.

    Raises:
        OptionError: An option is outside its range.

    Example:
        >>> import numpy as np
        >>> from dap.kernels import row_sums
        >>> row_sums(np.array([[0.0]]), np.array([[2.0]]), RationalQuadratic(alpha=2.0, bandwidth=1.0))
        array([0.25])
    """

    alpha: float = 1.0
    bandwidth: Bandwidth = "median"
    name: str = field(default="rational_quadratic", init=False)

    def __post_init__(self) -> None:
        """Convert the numbers to float, and check them."""
        object.__setattr__(self, "alpha", positive("alpha", self.alpha))
        super().__post_init__()

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return (1 + ‖x_i − y_j‖² / 2ασ²)^−α."""
        return pairs.xp.exp(self._logarithm(pairs))

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return 2 − 2 k(x_i, y_j), computed by expm1."""
        return -2.0 * pairs.xp.expm1(self._logarithm(pairs))

    def _logarithm(self, pairs: Pairs[ArrayT]) -> ArrayT:
        return -self.alpha * pairs.xp.log1p(pairs.squared / self.sigma / self.sigma / (2.0 * self.alpha))
