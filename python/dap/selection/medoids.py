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

_GAIN = 1e-9  # relative: a smaller difference is rounding, and exchanges could go in circles


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
        chosen.append(_first_best(_costs(distances, nearest, shares, chosen))[0])
        nearest = np.minimum(nearest, distances[:, chosen[-1]])
    cost = shares @ nearest
    while True:
        costs = np.empty((len(rows), count))  # of the exchange of each chosen one for each candidate
        for place in range(count):
            without = distances[:, chosen[:place] + chosen[place + 1 :]].min(1, initial=np.inf)
            costs[:, place] = _costs(distances, without, shares, chosen)
        exchange, least = _first_best(costs.ravel())
        if not least < cost * (1 - _GAIN):
            return np.array(chosen, np.int64)
        candidate, place = divmod(exchange, count)
        chosen[place], cost = candidate, least


def _costs(
    distances: npt.NDArray[np.float64],
    nearest: npt.NDArray[np.float64],
    shares: npt.NDArray[np.float64],
    taken: list[int],
) -> npt.NDArray[np.float64]:
    """Return the cost (n,) that each candidate leaves; ``nearest`` has the distances to those chosen already."""
    costs = shares @ np.minimum(nearest[:, None], distances)
    costs[taken] = np.inf
    return costs


def _first_best(costs: npt.NDArray[np.float64]) -> tuple[int, float]:
    """Return the place of the first of the smallest costs, and that cost.

    Equal costs may differ by rounding, which depends on the processor's vector length.
    """
    best = int(np.flatnonzero(costs <= costs.min() * (1 + _GAIN))[0])
    return best, float(costs[best])
