"""The bandwidth σ of a kernel, in the units of the distance that it divides: a number, or a rule applied to the data.

The median heuristic has several forms. Here "median" is the median itself, not the median over √2 and not its square,
of the distances ‖y_i − y_j‖ (‖y_i − y_j‖₁ for the Laplacian kernel) with i < j; "mean" is their mean. Both use at
most 1,000 rows: of m > 1,000 rows, row ⌊i·m/1000⌋ for i = 0 … 999. With fewer than two rows, or a result of zero,
σ is 1. (Garreau, Jitkrittum, Kanagawa, "Large sample analysis of the median heuristic", 2018,
https://arxiv.org/abs/1707.07269.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.kernels.arrays import Array, to_numpy
from dap.kernels.base import Kernel, positive
from dap.kernels.sum import Sum

__all__ = ["Bandwidth", "BandwidthKernel", "check_bandwidth", "heuristic"]

Bandwidth: TypeAlias = float | Literal["median", "mean"] | Sequence[float]
"""A number, a rule, or several numbers, which stand for the sum of the kernels with each of them."""

_ROWS = 1000


class BandwidthKernel(Kernel):
    """Base of the kernels with a bandwidth σ > 0, which is the field ``bandwidth``.

    Attributes:
        order: The norm of the distances that the rules use: 2 for Euclidean, 1 for sums of absolute differences.
    """

    order: ClassVar[int] = 2
    bandwidth: Bandwidth

    def __post_init__(self) -> None:
        """Convert the numbers to float, and check them."""
        object.__setattr__(self, "bandwidth", check_bandwidth(self.bandwidth))

    @property
    def sigma(self) -> float:
        """The bandwidth as a number.

        Raises:
            OptionError: It is still a rule or a list.
        """
        if isinstance(self.bandwidth, float):
            return self.bandwidth
        raise OptionError(f"the bandwidth {self.bandwidth!r} is not a number yet: call kernel.resolve(y) first")

    def resolve(self, y: Array) -> Kernel:
        """Return the kernel with a number as its bandwidth, or the sum of the kernels of several bandwidths.

        Args:
            y: The rows that a rule uses, with shape (m, d).

        Raises:
            OptionError: A rule finds no finite number in y.

        Example:
            >>> from dap.kernels import RBF
            >>> RBF(bandwidth="mean").resolve(np.array([[0.0], [1.0], [5.0]])).bandwidth
            3.3333333333333335
        """
        if isinstance(self.bandwidth, tuple):
            return Sum(tuple(self._with(sigma) for sigma in self.bandwidth))
        if isinstance(self.bandwidth, str):
            return self._with(heuristic(self.bandwidth, y, self.order))
        return self

    def _with(self, sigma: float) -> Kernel:
        return dataclasses.replace(self, **{"bandwidth": sigma})


def check_bandwidth(bandwidth: object) -> Bandwidth:
    """Return the bandwidth with its numbers as float; several of them become a tuple.

    Raises:
        OptionError: It is neither a positive finite number, "median", "mean", nor a list of such numbers.

    Example:
        >>> check_bandwidth([1, 2])
        (1.0, 2.0)
    """
    if isinstance(bandwidth, list | tuple) and bandwidth:
        return tuple(positive("each bandwidth", sigma) for sigma in bandwidth)
    if isinstance(bandwidth, str) and bandwidth in ("median", "mean"):
        return cast(Bandwidth, bandwidth)
    try:
        return positive("bandwidth", bandwidth)
    except OptionError:
        raise OptionError(
            f'bandwidth: expected a positive number, "median", "mean" or a list of positive numbers, got {bandwidth!r}'
        ) from None


def heuristic(rule: str, y: Array, order: int = 2) -> float:
    """Return the "median" or the "mean" of the distances between rows of y, as the module's docstring defines them.

    Raises:
        OptionError: It is not finite: y holds NaN or infinity, or values whose squares are too large.

    Example:
        >>> heuristic("median", np.array([[0.0], [1.0], [3.0]]))
        2.0
    """
    rows = to_numpy(y if len(y) <= _ROWS else y[[i * len(y) // _ROWS for i in range(_ROWS)]], np.float64)
    if len(rows) < 2:
        return 1.0
    if not np.isfinite(rows).all():
        raise OptionError(f"the {rule} bandwidth of y is not finite: y holds NaN or infinity")
    with np.errstate(over="ignore", invalid="ignore"):
        distances = _euclidean(rows) if order == 2 else _manhattan(rows)
        sigma = float(np.median(distances) if rule == "median" else np.mean(distances))
    if not math.isfinite(sigma):
        raise OptionError(f"the {rule} bandwidth of y is not finite: y holds values whose squares are too large")
    return sigma or 1.0


def _euclidean(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    rows = rows - rows[0]  # a common offset would cost digits in the product below
    norms = (rows**2).sum(1)
    first, second = np.triu_indices(len(rows), k=1)
    sizes = norms[first] + norms[second]
    squared = sizes - 2.0 * (rows @ rows.T)[first, second]
    squared[squared < 1e-13 * sizes] = 0.0  # the rows are equal: the rest is rounding
    distances: npt.NDArray[np.float64] = np.sqrt(squared)
    return distances


def _manhattan(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate([np.abs(rows[i + 1 :] - row).sum(1) for i, row in enumerate(rows)])
