"""k-means: Lloyd's algorithm from a k-means++ start, and the rows nearest to its centres.

Lloyd, "Least squares quantization in PCM", 1982; Arthur and Vassilvitskii, "k-means++: the advantages of careful
seeding", 2007. Words, stopping rules and the greedy trials of the start are those of scikit-learn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dap import _core
from dap.errors import OptionError
from dap.kernels import Kernel, nearest, row_means
from dap.kernels.arrays import check_rows, to_numpy
from dap.selection.base import DISTANCE, Embedding, Selection, as_rows

__all__ = ["KMeans", "k_means", "k_means_centroids", "k_medoids", "kmeans_plusplus"]

_ROWS = 4096


@dataclass(frozen=True)
class KMeans:
    """What :func:`k_means` found.

    Attributes:
        cluster_centers: Float64 (n_clusters, D).
        labels: The nearest centre of each row, int64 (N,); of equally near ones the first.
        inertia: Σ ‖row − its centre‖².
        n_iter: Rounds of Lloyd's algorithm.
    """

    cluster_centers: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    inertia: float
    n_iter: int


def k_means(
    features: Any,
    n_clusters: int,
    *,
    init: Any = "k-means++",
    n_init: int = 1,
    max_iter: int = 300,
    tol: float = 1e-4,
    seed: int = 0,
) -> KMeans:
    """Clusters rows by Lloyd's algorithm, until no label changes or the centres hardly move.

    A cluster that loses all its rows takes the row that is farthest from its own centre. Distances have the precision
    of the features (float16 is computed with in float32), sums are float64. The result is the same for any number of
    threads. Beside the features one packed copy of them is held.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        n_clusters: How many clusters, 1 ≤ n_clusters ≤ N.
        init: "k-means++", or the centres to start from, real numbers with shape (n_clusters, D).
        n_init: Starts, of which the result with the smallest inertia is kept; 1 with given centres.
        max_iter: Rounds at most, at least 1.
        tol: Stop once Σ ‖movement of a centre‖² is at most tol times the mean variance of a feature; 0 or more.
        seed: Of the starts.

    Returns:
        Centres, labels, inertia and the number of rounds.

    Raises:
        OptionError: If an argument is not as said.

    Example:
        >>> rows = np.array([[0.0], [1.0], [10.0], [11.0]])
        >>> found = k_means(rows, 2, init=rows[:2])
        >>> found.cluster_centers.tolist(), found.labels.tolist(), found.inertia
        ([[0.5], [10.5]], [0, 0, 1, 1], 1.0)
    """
    rows = as_rows(features, n_clusters)
    if min(n_init, max_iter) < 1 or not 0 <= tol < math.inf:
        raise OptionError(f"n_init and max_iter must be 1 or more and tol 0 or more, got {n_init}, {max_iter}, {tol}")
    if isinstance(init, str):
        if init != "k-means++":
            raise OptionError(f'init must be "k-means++" or an array of centres, got {init!r}')
        seeds = np.random.default_rng(seed).integers(2**63, size=n_init)
        starts = [rows[kmeans_plusplus(rows, n_clusters, seed=int(each))[1]] for each in seeds]
    elif n_init != 1:
        raise OptionError(f"n_init must be 1 where init gives the centres, got {n_init}")
    else:
        starts = [_given(init, (n_clusters, rows.shape[1]))]
    limit = tol * _mean_variance(rows) if tol else 0.0
    found = [KMeans(*_core.k_means(rows, start.astype(np.float64), max_iter, limit)) for start in starts]
    return min(found, key=lambda each: each.inertia)


def kmeans_plusplus(
    features: Any, n_clusters: int, *, n_local_trials: int | None = None, seed: int = 0
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Draws rows to start k-means from: each by its squared distance to those drawn, as the best of some trials.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        n_clusters: How many rows, 1 ≤ n_clusters ≤ N.
        n_local_trials: Rows drawn for each centre, of which the one that leaves the smallest sum of squared distances
            is taken; 2 + ⌊ln n_clusters⌋ if left out, 1 for k-means++ as it was published.
        seed: Of the draws.

    Returns:
        The rows, (n_clusters, D) as an array of the dtype that is read, and their indices, int64 (n_clusters,).

    Raises:
        OptionError: If an argument is not as said.

    Example:
        >>> rows = np.array([[0.0], [0.0], [9.0]])
        >>> sorted(kmeans_plusplus(rows, 2)[0].ravel().tolist())
        [0.0, 9.0]
    """
    rows = as_rows(features, n_clusters)
    trials = 2 + int(math.log(n_clusters)) if n_local_trials is None else n_local_trials
    if trials < 1:
        raise OptionError(f"n_local_trials must be 1 or more, got {n_local_trials}")
    indices = _core.plus_plus(rows, int(n_clusters), trials, seed % 2**64)
    return rows[indices], indices


def k_means_centroids(features: Any, count: int, *, kernel: Kernel | str = DISTANCE, seed: int = 0) -> Selection:
    """The centres of k-means, each weighted by its share of the rows, as ``points``; ``indices`` are the medoids.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: How many, 1 ≤ count ≤ N.
        kernel: Of the error: a kernel of :mod:`dap.kernels` or its name. It does not change the choice.
        seed: Of the start of k-means.

    Returns:
        The selection; its error is the MMD of the weighted centres to all rows.

    Raises:
        OptionError: If features, count or kernel do not fit.

    Example:
        >>> found = k_means_centroids(np.array([[0.0], [2.0], [4.0], [100.0]]), 2)
        >>> sorted(zip(found.points.ravel().tolist(), found.weights.tolist()))
        [(2.0, 0.75), (100.0, 0.25)]
    """
    rows = as_rows(features, count)
    found = k_means(rows, count, seed=seed)
    weights = np.bincount(found.labels, minlength=count) / len(rows)
    embedding = Embedding.of(rows, kernel)
    means = row_means(found.cluster_centers, rows.astype(np.float64), embedding.kernel)
    error = embedding.error(found.cluster_centers, means, weights)
    return Selection(_medoids(rows, found), weights, error, embedding.kernel, found.cluster_centers)


def k_medoids(features: Any, count: int, *, kernel: Kernel | str = DISTANCE, seed: int = 0) -> Selection:
    """The row nearest to each centre of k-means, all different.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: How many, 1 ≤ count ≤ N.
        kernel: Of the error: a kernel of :mod:`dap.kernels` or its name. It does not change the choice.
        seed: Of the start of k-means.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: If features, count or kernel do not fit.

    Example:
        >>> sorted(k_medoids(np.array([[0.0], [2.0], [4.0], [100.0]]), 2).indices.tolist())
        [1, 3]
    """
    rows = as_rows(features, count)
    return Embedding.of(rows, kernel).select(_medoids(rows, k_means(rows, count, seed=seed)))


def _medoids(rows: npt.NDArray[Any], found: KMeans) -> npt.NDArray[np.int64]:
    """The nearest row of each centre that no centre before it has taken: one of as many as there are centres."""
    _, near = nearest(
        found.cluster_centers.astype(np.result_type(rows, np.float32)), rows, k=len(found.cluster_centers)
    )
    taken: list[int] = []
    for candidates in near.tolist():
        taken.append(next(row for row in candidates if row not in taken))
    return np.array(taken, np.int64)


def _given(init: Any, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    check_rows(init=init)
    centers = to_numpy(init, np.float64)
    if centers.shape != shape or not np.isfinite(centers).all():
        raise OptionError(f"init must hold finite centres with shape {shape}, got shape {centers.shape}")
    return centers


def _mean_variance(rows: npt.NDArray[Any]) -> float:
    """The mean over the features of their variances, some rows at a time."""
    sums, squares, first = np.zeros(rows.shape[1]), np.zeros(rows.shape[1]), rows[0].astype(np.float64)
    for start in range(0, len(rows), _ROWS):
        moved = rows[start : start + _ROWS] - first
        sums += moved.sum(0)
        squares += np.einsum("ij,ij->j", moved, moved)
    return float((squares / len(rows) - (sums / len(rows)) ** 2).mean()) if rows.shape[1] else 0.0
