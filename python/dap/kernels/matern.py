"""The Matérn kernels, with z = √(2ν) ‖x − y‖ / σ.

    ν = 3/2:  k = (1 + z) e^−z               1 − k = Σ_{n≥2} (−1)^n (n−1)/n! z^n
    ν = 5/2:  k = (1 + z + z²/3) e^−z        1 − k = Σ_{n≥2} (−1)^(n+1) (n−1)(n−3)/(3 n!) z^n

D² = 2 (1 − k) cancels for near points, so below z = ½ it is computed from the series, whose terms past n = 19 are less
than 10⁻¹⁷ of the sum there. (Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006, Eq. 4.17.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from dap.errors import OptionError
from dap.kernels.bandwidth import Bandwidth, BandwidthKernel
from dap.kernels.base import KERNELS
from dap.kernels.pairs import ArrayT, Pairs

__all__ = ["Matern"]

_SERIES = {
    1.5: [(-1) ** n * (n - 1) / math.factorial(n) for n in range(2, 20)],
    2.5: [(-1) ** (n + 1) * (n - 1) * (n - 3) / (3 * math.factorial(n)) for n in range(2, 20)],
}
"""The factors of z², z³, … in 1 − k."""


@KERNELS.register("matern")
@dataclass(frozen=True)
class Matern(BandwidthKernel):
    """k(x, y) = (1 + z) e^−z for ν = 1.5 and (1 + z + z²/3) e^−z for ν = 2.5, with z = √(2ν) ‖x − y‖ / σ.

    Args:
        nu: ν, 1.5 or 2.5: the larger, the smoother (ν = ½ is :class:`~dap.kernels.exponential.Exponential`).
        bandwidth: σ > 0 in the units of the features; "median" or "mean" of the Euclidean distances between rows of y
            (:mod:`dap.kernels.bandwidth` has the exact rule); or a list of σ, for the sum of the kernels.

    Raises:
        OptionError: An option is outside its range.

    Example:
        >>> import numpy as np
        >>> from dap.kernels import row_sums
        >>> row_sums(np.array([[0.0]]), np.array([[1.0]]), Matern(nu=1.5, bandwidth=3**0.5)).round(4)
        array([0.7358])
    """

    nu: float = 1.5
    bandwidth: Bandwidth = "median"
    name: str = field(default="matern", init=False)

    def __post_init__(self) -> None:
        """Check the options, and convert the bandwidth to float."""
        if self.nu not in tuple(_SERIES):
            raise OptionError(f"nu: expected 1.5 or 2.5, got {self.nu!r}")
        super().__post_init__()

    def value(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return k(x_i, y_j) by the formula of the module."""
        return self._value(pairs, self._z(pairs))

    def squared_distance(self, pairs: Pairs[ArrayT]) -> ArrayT:
        """Return 2 − 2 k(x_i, y_j), for near points by the series of the module."""
        z, xp = self._z(pairs), pairs.xp
        near = xp.clip(z, None, 0.5)  # the powers of a large z would overflow, and make the gradient NaN
        series: ArrayT | float = 0.0
        for factor in reversed(_SERIES[self.nu]):
            series = series * near + factor
        return 2.0 * xp.where(z < 0.5, series * near * near, 1.0 - self._value(pairs, z))

    def _z(self, pairs: Pairs[ArrayT]) -> ArrayT:
        return pairs.distance * (math.sqrt(2.0 * self.nu) / self.sigma)

    def _value(self, pairs: Pairs[ArrayT], z: ArrayT) -> ArrayT:
        polynomial = 1.0 + z if self.nu == 1.5 else 1.0 + z * (1.0 + z / 3.0)
        return polynomial * pairs.xp.exp(-z)
