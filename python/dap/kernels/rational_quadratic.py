"""The rational quadratic kernel: k(x, y) = (1 + ‖x − y‖² / 2ασ²)^−α, D² = −2 expm1(−α log1p(‖x − y‖² / 2ασ²))."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dap.kernels.bandwidth import Bandwidth, check_bandwidth, number, resolve_bandwidth
from dap.kernels.base import KERNELS, Kernel, Pairs, positive

__all__ = ["RationalQuadratic"]


@KERNELS.register("rational_quadratic")
@dataclass(frozen=True)
class RationalQuadratic:
    """k(x, y) = (1 + ‖x − y‖² / 2ασ²)^−α: Gaussian kernels of many widths; the Gaussian kernel as α grows.

    Args:
        alpha: α, a positive finite number: the smaller, the heavier the tail.
        bandwidth: σ > 0 in the units of the features; "median" or "mean" of the Euclidean distances between rows of y
            (which form is meant: :mod:`dap.kernels.bandwidth`); or a list of σ, for the sum of the kernels.

    Raises:
        OptionError: If an argument is none of these.

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
        """Refuses options outside their range."""
        object.__setattr__(self, "alpha", positive("alpha", self.alpha))
        object.__setattr__(self, "bandwidth", check_bandwidth(self.bandwidth))

    def resolve(self, y: Any) -> Kernel:
        """The kernel with its bandwidth as a number; ``y`` is a numpy array or torch tensor with shape (m, d)."""
        return resolve_bandwidth(self, y)

    def value(self, pairs: Pairs) -> Any:
        """(1 + ‖x_i − y_j‖² / 2ασ²)^−α."""
        return pairs.xp.exp(self._logarithm(pairs))

    def squared_distance(self, pairs: Pairs) -> Any:
        """2 − 2 k(x_i, y_j), by expm1."""
        return -2.0 * pairs.xp.expm1(self._logarithm(pairs))

    def _logarithm(self, pairs: Pairs) -> Any:
        sigma = number(self.bandwidth)
        return -self.alpha * pairs.xp.log1p(pairs.squared / sigma / sigma / (2.0 * self.alpha))
