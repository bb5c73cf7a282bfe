"""Medoids among candidates: the rows of one set that represent the rows of another set best.

The algorithm is PAM (Kaufman and Rousseeuw, "Finding Groups in Data", 1990, chapter 2), except that a medoid need not
be one of the points: a greedy start, then the best exchange of a chosen candidate for another one, until none helps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.kernels.arrays import Array
from dap.selection.base import as_rows

__all__ = ["medoids_towards"]

_GAIN = 1e-9  # relative: a smaller gain is rounding, and exchanges could go in circles


def medoids_towards(
    candidates: Array, targets: Array, count: int, *, weights: npt.ArrayLike | None = None
) -> npt.NDArray[np.int64]:
    """Choose candidates so that the mean squared distance of a target to the nearest of them is small.

    There is no randomness; of equally good candidates the first is taken. Memory: n × N float64 numbers.

    Args:
        candidates: Finite real numbers with shape (n, D).
        targets: Finite real numbers with shape (N, D).
        count: The number of candidates to choose, 1 ≤ count ≤ n.
        weights: The share of each target, (N,), with sum 1; None for equal shares.

    Returns:
        Indices of different candidates, int64 (count,).

    Raises:
        OptionError: The rows, the count or the numbers of columns do not fit.

    Example:
        >>> medoids_towards(np.array([[9.0], [1.0], [0.0], [5.0]]), np.array([[-1.0], [0.0], [8.0]]), 2)
        array([2, 0])
    """
    rows, points = as_rows(candidates, count).astype(np.float64), as_rows(targets, 1).astype(np.float64)
    if rows.shape[1] != points.shape[1]:
        raise OptionError(
            f"candidates have {rows.shape[1]} columns and targets {points.shape[1]}: expected the same number"
        )
    shares = np.full(len(points), 1 / len(points)) if weights is None else np.asarray(weights, np.float64)
    squares = (points**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * points @ rows.T
    distances = np.maximum(squares, 0)
    chosen: list[int] = []
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        chosen.append(_best(distances, nearest, shares, chosen)[0])
        nearest = np.minimum(nearest, distances[:, chosen[-1]])
    cost = shares @ nearest
    while True:
        exchanges = []
        for place in range(count):
            others = chosen[:place] + chosen[place + 1 :]
            without = distances[:, others].min(1, initial=np.inf)
            exchanges.append((*_best(distances, without, shares, chosen)[::-1], place))
        least, candidate, place = min(exchanges)
        if not least < cost * (1 - _GAIN):
            return np.array(chosen, np.int64)
        chosen[place], cost = candidate, least


def _best(
    distances: npt.NDArray[np.float64],
    nearest: npt.NDArray[np.float64],
    shares: npt.NDArray[np.float64],
    taken: list[int],
) -> tuple[int, float]:
    """Return the candidate that leaves the smallest cost, and the cost; ``nearest`` has the distances to the others."""
    costs = shares @ np.minimum(nearest[:, None], distances)
    costs[taken] = np.inf
    best = int(costs.argmin())
    return best, float(costs[best])
