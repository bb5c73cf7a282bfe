"""The exponential kernel: k(x, y) = exp(−‖x − y‖ / σ), D(x, y)² = −2 expm1(−‖x − y‖ / σ)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dap.kernels.bandwidth import Bandwidth, check_bandwidth, number, resolve_bandwidth
from dap.kernels.base import KERNELS, Kernel, Pairs

__all__ = ["Exponential"]


@KERNELS.register("exponential")
@dataclass(frozen=True)
class Exponential:
    """k(x, y) = exp(−‖x − y‖ / σ), with the Euclidean distance: the Matérn kernel of ν = ½.

    Args:
        bandwidth: σ > 0 in the units of the features; "median" or "mean" of the Euclidean distances between rows of y
            (which form is meant: :mod:`dap.kernels.bandwidth`); or a list of σ, for the sum of the kernels.

    Raises:
        OptionError: If the bandwidth is none of these.

    Example:
        >>> import numpy as np
        >>> from dap.kernels import row_sums
        >>> row_sums(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), Exponential(bandwidth=5.0)).round(4)
        array([0.3679])
    """

    bandwidth: Bandwidth = "median"
    name: str = field(default="exponential", init=False)

    def __post_init__(self) -> None:
        """Refuses a bandwidth that is none."""
        object.__setattr__(self, "bandwidth", check_bandwidth(self.bandwidth))

    def resolve(self, y: Any) -> Kernel:
        """The kernel with its bandwidth as a number; ``y`` is a numpy array or torch tensor with shape (m, d)."""
        return resolve_bandwidth(self, y)

    def value(self, pairs: Pairs) -> Any:
        """exp(−‖x_i − y_j‖ / σ)."""
        return pairs.xp.exp(-pairs.distance / number(self.bandwidth))

    def squared_distance(self, pairs: Pairs) -> Any:
        """2 − 2 k(x_i, y_j), by expm1."""
        return -2.0 * pairs.xp.expm1(-pairs.distance / number(self.bandwidth))
