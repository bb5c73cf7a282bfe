"""Medoids among candidates: those rows of one set that stand best for all rows of another.

PAM (Kaufman and Rousseeuw, "Finding Groups in Data", 1990, chapter 2), where a medoid need not be one of the points: a
greedy start, then the best exchange of a chosen candidate for another one, until none helps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.selection.base import as_rows

__all__ = ["medoids_towards"]

_GAIN = 1e-9  # relative: an exchange that gains less is rounding, and could go round in circles


def medoids_towards(candidates: Any, targets: Any, count: int, *, weights: Any = None) -> npt.NDArray[np.int64]:
    """Chooses candidates so that the mean squared distance of a target to the nearest of them is small.

    Deterministic; of equally good candidates the first is taken. Memory: n × N float64 numbers.

    Args:
        candidates: Finite real numbers with shape (n, D).
        targets: Finite real numbers with shape (N, D).
        count: How many, 1 ≤ count ≤ n.
        weights: What each target stands for, (N,), with sum 1; None for equal shares.

    Returns:
        Different rows of the candidates, int64 (count,).

    Raises:
        OptionError: If the rows, the count or the numbers of columns do not fit.

    Example:
        >>> medoids_towards(np.array([[9.0], [1.0], [0.0], [5.0]]), np.array([[-1.0], [0.0], [8.0]]), 2)
        array([2, 0])
    """
    rows, wanted = as_rows(candidates, count).astype(np.float64), as_rows(targets, 1).astype(np.float64)
    if rows.shape[1] != wanted.shape[1]:
        raise OptionError(f"candidates have {rows.shape[1]} columns and targets {wanted.shape[1]}, expected as many")
    shares = np.full(len(wanted), 1 / len(wanted)) if weights is None else np.asarray(weights, np.float64)
    squares = (wanted**2).sum(1)[:, None] + (rows**2).sum(1) - 2 * wanted @ rows.T
    distances = np.maximum(squares, 0)
    chosen: list[int] = []
    nearest = np.full(len(wanted), np.inf)
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
    """The candidate that leaves the smallest cost beside those whose distances are ``nearest``, and that cost."""
    costs = shares @ np.minimum(nearest[:, None], distances)
    costs[taken] = np.inf
    best = int(costs.argmin())
    return best, float(costs[best])
