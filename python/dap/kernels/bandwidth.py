"""The bandwidth σ of a kernel, in the units of the distance it divides: given, or found in the data.

The median heuristic has several forms. Here "median" is the median itself, not the median over √2 and not its square,
of the distances ‖y_i − y_j‖ (‖y_i − y_j‖₁ for the Laplacian kernel) with i < j; "mean" is their mean. Both look at no
more than 1,000 rows: of m > 1,000 rows, row ⌊i·m/1000⌋ for i = 0 … 999. Where there are fewer than two rows, or the
result is zero, σ is 1. (Garreau, Jitkrittum, Kanagawa, "Large sample analysis of the median heuristic", 2018,
https://arxiv.org/abs/1707.07269.)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.kernels.arrays import to_numpy
from dap.kernels.base import Kernel, positive
from dap.kernels.sum import Sum

__all__ = ["Bandwidth", "check_bandwidth", "heuristic", "number", "resolve_bandwidth"]

Bandwidth: TypeAlias = float | Literal["median", "mean"] | Sequence[float]
"""A number, a heuristic, or several numbers: the sum of the kernels at each of them."""

_ROWS = 1000


def check_bandwidth(bandwidth: Any) -> Bandwidth:
    """The bandwidth with its numbers as float, several of them in a tuple.

    Raises:
        OptionError: If it is neither a positive finite number, "median", "mean", nor a list of such numbers.

    Example:
        >>> check_bandwidth([1, 2])
        (1.0, 2.0)
    """
    if isinstance(bandwidth, list | tuple) and bandwidth:
        return tuple(positive("each bandwidth", each) for each in bandwidth)
    if isinstance(bandwidth, str) and bandwidth in ("median", "mean"):
        return cast(Bandwidth, bandwidth)
    try:
        return positive("bandwidth", bandwidth)
    except OptionError:
        raise OptionError(
            f'bandwidth must be a positive finite number, "median", "mean" or a list of numbers, got {bandwidth!r}'
        ) from None


def number(bandwidth: Bandwidth) -> float:
    """The bandwidth of a kernel that was resolved.

    Raises:
        OptionError: If it is still a heuristic or a list.

    Example:
        >>> number(2.0)
        2.0
    """
    if isinstance(bandwidth, float):
        return bandwidth
    raise OptionError(f"the bandwidth {bandwidth!r} is not a number yet: call kernel.resolve(y) first")


def resolve_bandwidth(kernel: Any, y: Any, order: int = 2) -> Kernel:
    """The kernel, a dataclass with a ``bandwidth``, with numbers: itself, one found in y, or the sum over several.

    Args:
        kernel: The kernel.
        y: A numpy array or torch tensor with shape (m, d).
        order: 2 for Euclidean distances, 1 for the sums of absolute differences.

    Raises:
        OptionError: If a heuristic finds no finite number in y.

    Example:
        >>> from dap.kernels import RBF
        >>> resolve_bandwidth(RBF(bandwidth="mean"), np.array([[0.0], [1.0], [5.0]])).bandwidth
        3.3333333333333335
    """
    if isinstance(kernel.bandwidth, tuple):
        return Sum(tuple(dataclasses.replace(kernel, bandwidth=each) for each in kernel.bandwidth))
    if isinstance(kernel.bandwidth, str):
        found: Kernel = dataclasses.replace(kernel, bandwidth=heuristic(kernel.bandwidth, y, order))
        return found
    same: Kernel = kernel
    return same


def heuristic(name: str, y: Any, order: int = 2) -> float:
    """The "median" or the "mean" of the distances between rows of y, as the module says.

    Raises:
        OptionError: If it is not finite: y holds NaN or infinity, or values whose squares are too large.

    Example:
        >>> heuristic("median", np.array([[0.0], [1.0], [3.0]]))
        2.0
    """
    rows = y if len(y) <= _ROWS else y[[i * len(y) // _ROWS for i in range(_ROWS)]]
    rows = to_numpy(rows, np.float64)
    if len(rows) < 2:
        return 1.0
    if not np.isfinite(rows).all():
        raise OptionError(f"the {name} bandwidth of y is not finite: y holds NaN or infinity")
    with np.errstate(over="ignore", invalid="ignore"):
        distances = _euclidean(rows) if order == 2 else _manhattan(rows)
        found = float(np.median(distances) if name == "median" else np.mean(distances))
    if not math.isfinite(found):
        raise OptionError(f"the {name} bandwidth of y is not finite: y holds values too large")
    return found or 1.0


def _euclidean(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    rows = rows - rows[0]  # a common offset would cost digits in the product below
    norms = (rows**2).sum(1)
    first, second = np.triu_indices(len(rows), k=1)
    sizes = norms[first] + norms[second]
    squared = sizes - 2.0 * (rows @ rows.T)[first, second]
    squared[squared < 1e-13 * sizes] = 0.0  # equal rows: what is left is rounding
    distances: npt.NDArray[np.float64] = np.sqrt(squared)
    return distances


def _manhattan(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.concatenate([np.abs(rows[i + 1 :] - row).sum(1) for i, row in enumerate(rows)])
