"""The Gaussian kernel: k(x, y) = exp(−‖x − y‖² / 2σ²), D(x, y)² = −2 expm1(−‖x − y‖² / 2σ²)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dap.kernels.bandwidth import Bandwidth, check_bandwidth, number, resolve_bandwidth
from dap.kernels.base import KERNELS, Kernel, Pairs

__all__ = ["RBF"]


@KERNELS.register("rbf")
@dataclass(frozen=True)
class RBF:
    """k(x, y) = exp(−‖x − y‖² / 2σ²).

    Args:
        bandwidth: σ > 0 in the units of the features; "median" or "mean" of the Euclidean distances between rows of y
            (which form is meant: :mod:`dap.kernels.bandwidth`); or a list of σ, for the sum of the kernels.

    Raises:
        OptionError: If the bandwidth is none of these.

    Example:
        >>> import numpy as np
        >>> RBF().resolve(np.array([[0.0], [1.0], [3.0]]))
        RBF(bandwidth=2.0, name='rbf')
    """

    bandwidth: Bandwidth = "median"
    name: str = field(default="rbf", init=False)

    def __post_init__(self) -> None:
        """Refuses a bandwidth that is none."""
        object.__setattr__(self, "bandwidth", check_bandwidth(self.bandwidth))

    def resolve(self, y: Any) -> Kernel:
        """The kernel with its bandwidth as a number; ``y`` is a numpy array or torch tensor with shape (m, d)."""
        return resolve_bandwidth(self, y)

    def value(self, pairs: Pairs) -> Any:
        """exp(−‖x_i − y_j‖² / 2σ²)."""
        return pairs.xp.exp(self._exponent(pairs))

    def squared_distance(self, pairs: Pairs) -> Any:
        """2 − 2 k(x_i, y_j), by expm1."""
        return -2.0 * pairs.xp.expm1(self._exponent(pairs))

    def _exponent(self, pairs: Pairs) -> Any:
        sigma = number(self.bandwidth)
        return -0.5 * (pairs.squared / sigma / sigma)
