"""The Laplacian kernel: k(x, y) = exp(−‖x − y‖₁ / σ), D(x, y)² = −2 expm1(−‖x − y‖₁ / σ)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dap.kernels.bandwidth import Bandwidth, check_bandwidth, number, resolve_bandwidth
from dap.kernels.base import KERNELS, Kernel, Pairs

__all__ = ["Laplacian"]


@KERNELS.register("laplacian")
@dataclass(frozen=True)
class Laplacian:
    """k(x, y) = exp(−‖x − y‖₁ / σ), with the sum of the absolute differences (as scikit-learn, γ = 1/σ).

    Args:
        bandwidth: σ > 0 in the units of ‖x − y‖₁; "median" or "mean" of the distances ‖y_i − y_j‖₁ between rows of y
            (which form is meant: :mod:`dap.kernels.bandwidth`); or a list of σ, for the sum of the kernels.

    Raises:
        OptionError: If the bandwidth is none of these.

    Example:
        >>> import numpy as np
        >>> Laplacian().resolve(np.array([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]]))
        Laplacian(bandwidth=4.0, name='laplacian')
    """

    bandwidth: Bandwidth = "median"
    name: str = field(default="laplacian", init=False)

    def __post_init__(self) -> None:
        """Refuses a bandwidth that is none."""
        object.__setattr__(self, "bandwidth", check_bandwidth(self.bandwidth))

    def resolve(self, y: Any) -> Kernel:
        """The kernel with its bandwidth as a number; ``y`` is a numpy array or torch tensor with shape (m, d)."""
        return resolve_bandwidth(self, y, order=1)

    def value(self, pairs: Pairs) -> Any:
        """exp(−‖x_i − y_j‖₁ / σ)."""
        return pairs.xp.exp(-pairs.manhattan / number(self.bandwidth))

    def squared_distance(self, pairs: Pairs) -> Any:
        """2 − 2 k(x_i, y_j), by expm1."""
        return -2.0 * pairs.xp.expm1(-pairs.manhattan / number(self.bandwidth))
