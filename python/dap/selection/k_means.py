"""k-means: Lloyd's algorithm from a k-means++ start, and the rows nearest to its centres.

Lloyd, "Least squares quantization in PCM", 1982; Arthur and Vassilvitskii, "k-means++: the advantages of careful
seeding", 2007. Names, stopping rules and the greedy trials of the start are those of scikit-learn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dap import _core
from dap.config import check_number, check_whole
from dap.errors import OptionError
from dap.kernels import Kernel, nearest, row_means
from dap.kernels.arrays import Array, to_numpy
from dap.kernels.checks import check_rows
from dap.selection.base import DISTANCE, Embedding, Selection, as_rows

__all__ = ["KMeans", "k_means", "k_means_centroids", "k_medoids", "kmeans_plusplus", "nearest_rows"]

_ROWS = 4096


@dataclass(frozen=True)
class KMeans:
    """The result of :func:`k_means`.

    Attributes:
        cluster_centers: Float64 (n_clusters, D).
        labels: The nearest centre of each row, int64 (N,); the first of equally near ones.
        inertia: Σ ‖row − its centre‖².
        n_iter: The rounds of Lloyd's algorithm.
    """

    cluster_centers: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    inertia: float
    n_iter: int


def k_means(
    features: Array,
    n_clusters: int,
    *,
    init: Array | str = "k-means++",
    n_init: int = 1,
    max_iter: int = 300,
    tol: float = 1e-4,
    seed: int = 0,
) -> KMeans:
    """Cluster rows by Lloyd's algorithm, until no label changes or the centres hardly move.

    A cluster that loses all its rows takes the row that is farthest from its own centre. Distances have the precision
    of the features (float32 for float16), sums are float64. The result is the same for any number of threads. Memory:
    one packed copy of the features.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        n_clusters: The number of clusters, 1 ≤ n_clusters ≤ N.
        init: "k-means++", or the centres to start from, real numbers with shape (n_clusters, D).
        n_init: The number of starts; the result with the smallest inertia is returned. 1 if ``init`` gives the centres.
        max_iter: The largest number of rounds, at least 1.
        tol: Stop once Σ ‖movement of a centre‖² is at most tol times the mean variance of a feature; 0 or more.
        seed: The seed of the starts.

    Returns:
        Centres, labels, inertia and the number of rounds.

    Raises:
        OptionError: An argument is outside its range.

    Example:
        >>> rows = np.array([[0.0], [1.0], [10.0], [11.0]])
        >>> clusters = k_means(rows, 2, init=rows[:2])
        >>> clusters.cluster_centers.tolist(), clusters.labels.tolist(), clusters.inertia
        ([[0.5], [10.5]], [0, 0, 1, 1], 1.0)
    """
    rows = as_rows(features, n_clusters, "n_clusters")
    check_whole("n_init", n_init)
    check_whole("max_iter", max_iter)
    check_number("tol", tol, 0)
    if isinstance(init, str):
        if init != "k-means++":
            raise OptionError(f'init: expected "k-means++" or an array of centres, got {init!r}')
        seeds = np.random.default_rng(seed).integers(2**63, size=n_init)
        starts = [rows[kmeans_plusplus(rows, n_clusters, seed=int(start_seed))[1]] for start_seed in seeds]
    elif n_init != 1:
        raise OptionError(f"n_init: expected 1, since init gives the centres, got {n_init}")
    else:
        starts = [_check_centers(init, (n_clusters, rows.shape[1]))]
    limit = tol * _mean_variance(rows) if tol else 0.0
    results = [KMeans(*_core.k_means(rows, start.astype(np.float64), max_iter, limit)) for start in starts]
    return min(results, key=lambda result: result.inertia)


def kmeans_plusplus(
    features: Array, n_clusters: int, *, n_local_trials: int | None = None, seed: int = 0
) -> tuple[np.ndarray, npt.NDArray[np.int64]]:
    """Draw the rows from which k-means starts, with probabilities proportional to the squared distance to earlier ones.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        n_clusters: The number of rows, 1 ≤ n_clusters ≤ N.
        n_local_trials: The number of rows drawn for each centre, at least 1; the row that leaves the smallest sum of
            squared distances is taken. None for 2 + ⌊ln n_clusters⌋; 1 is k-means++ as it was published.
        seed: The seed of the draws.

    Returns:
        The rows, (n_clusters, D), and their indices, int64 (n_clusters,).

    Raises:
        OptionError: An argument is outside its range.

    Example:
        >>> rows = np.array([[0.0], [0.0], [9.0]])
        >>> sorted(kmeans_plusplus(rows, 2)[0].ravel().tolist())
        [0.0, 9.0]
    """
    rows = as_rows(features, n_clusters, "n_clusters")
    trials = 2 + int(math.log(n_clusters)) if n_local_trials is None else n_local_trials
    check_whole("n_local_trials", trials)
    indices = _core.plus_plus(rows, int(n_clusters), trials, seed % 2**64)
    return rows[indices], indices


def k_means_centroids(features: Array, count: int, *, kernel: Kernel | str = DISTANCE, seed: int = 0) -> Selection:
    """Return the centres of k-means as ``points``, weighted by their shares of the rows; ``indices`` are the medoids.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: The number of clusters, 1 ≤ count ≤ N.
        kernel: A kernel of :mod:`dap.kernels` or its name, for the error alone.
        seed: The seed of the start of k-means.

    Returns:
        The selection; its error is the MMD of the weighted centres to all rows.

    Raises:
        OptionError: The features, the count or the kernel do not fit.

    Example:
        >>> selection = k_means_centroids(np.array([[0.0], [2.0], [4.0], [100.0]]), 2)
        >>> sorted(zip(selection.points.ravel().tolist(), selection.weights.tolist()))
        [(2.0, 0.75), (100.0, 0.25)]
    """
    rows = as_rows(features, count)
    clusters = k_means(rows, count, seed=seed)
    centers, weights = clusters.cluster_centers, np.bincount(clusters.labels, minlength=count) / len(rows)
    embedding = Embedding.of(rows, kernel)
    means = row_means(centers, rows.astype(np.float64), embedding.kernel)
    error = embedding.error(centers, means, weights)
    return Selection(nearest_rows(rows, centers), weights, error, embedding.kernel, centers)


def k_medoids(features: Array, count: int, *, kernel: Kernel | str = DISTANCE, seed: int = 0) -> Selection:
    """Return the row nearest to each centre of k-means; all rows are different.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: The number of clusters, 1 ≤ count ≤ N.
        kernel: A kernel of :mod:`dap.kernels` or its name, for the error alone.
        seed: The seed of the start of k-means.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: The features, the count or the kernel do not fit.

    Example:
        >>> sorted(k_medoids(np.array([[0.0], [2.0], [4.0], [100.0]]), 2).indices.tolist())
        [1, 3]
    """
    rows = as_rows(features, count)
    return Embedding.of(rows, kernel).select(nearest_rows(rows, k_means(rows, count, seed=seed).cluster_centers))


def nearest_rows(rows: np.ndarray, centers: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return, for each centre in turn, the nearest row that no earlier centre has taken.

    Args:
        rows: Floats with shape (N, D).
        centers: (k, D), with k at most N.

    Returns:
        Indices of rows, int64 (k,).

    Example:
        >>> nearest_rows(np.array([[0.0], [9.0]]), np.array([[0.0], [1.0]]))
        array([0, 1])
    """
    _, near = nearest(centers.astype(np.result_type(rows, np.float32)), rows, k=len(centers))
    taken: list[int] = []
    for candidates in near.tolist():
        taken.append(next(row for row in candidates if row not in taken))
    return np.array(taken, np.int64)


def _check_centers(init: Array, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return the centres as float64; raise unless they are finite and have this shape."""
    check_rows(init=init)
    centers = to_numpy(init, np.float64)
    if centers.shape != shape or not np.isfinite(centers).all():
        raise OptionError(f"init: expected finite centres with shape {shape}, got shape {centers.shape}")
    return centers


def _mean_variance(rows: np.ndarray) -> float:
    """Return the mean of the variances of the features; some rows are read at a time."""
    sums, squares, first = np.zeros(rows.shape[1]), np.zeros(rows.shape[1]), rows[0].astype(np.float64)
    for start in range(0, len(rows), _ROWS):
        moved = rows[start : start + _ROWS] - first
        sums += moved.sum(0)
        squares += np.einsum("ij,ij->j", moved, moved)
    return float((squares / len(rows) - (sums / len(rows)) ** 2).mean()) if rows.shape[1] else 0.0
