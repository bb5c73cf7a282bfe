"""The Laplacian kernel: k(x, y) = exp(−‖x − y‖₁ / σ), D(x, y)² = −2 expm1(−‖x − y‖₁ / σ)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from dap.kernels.bandwidth import Bandwidth, BandwidthKernel
from dap.kernels.base import KERNELS
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["Laplacian"]


@KERNELS.register("laplacian")
@dataclass(frozen=True)
class Laplacian(BandwidthKernel):
    """k(x, y) = exp(−‖x − y‖₁ / σ), with the sum of the absolute differences (as scikit-learn, γ = 1/σ).

    Args:
        bandwidth: σ > 0 in the units of ‖x − y‖₁; "median" or "mean" of the distances ‖y_i − y_j‖₁ between rows of y
            (:mod:`dap.kernels.bandwidth` has the exact rule); or a list of σ, for the sum of the kernels.

    Raises:
        OptionError: The bandwidth is none of these.

    Example:
        >>> import numpy as np
        >>> Laplacian().resolve(np.array([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]]))
        Laplacian(bandwidth=4.0, name='laplacian')
    """

    order: ClassVar[int] = 1

    bandwidth: Bandwidth = "median"
    name: str = field(default="laplacian", init=False)

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return exp(−‖x_i − y_j‖₁ / σ)."""
        return pairs.xp.exp(-pairs.manhattan / self.sigma)

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return 2 − 2 k(x_i, y_j), computed by expm1."""
        return -2.0 * pairs.xp.expm1(-pairs.manhattan / self.sigma)
