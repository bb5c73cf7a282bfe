"""Bisecting k-means: the cluster of the largest inertia is split in two, again and again.

Steinbach, Karypis and Kumar, "A comparison of document clustering techniques", 2000. Names are those of scikit-learn's
``BisectingKMeans``; this is its strategy "biggest_inertia", which the code of ManifoldGD uses too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dap.config import check_whole
from dap.kernels.arrays import Array
from dap.selection.base import as_rows
from dap.selection.k_means import k_means

__all__ = ["BisectingKMeans", "bisecting_k_means"]


@dataclass(frozen=True)
class BisectingKMeans:
    """The result of :func:`bisecting_k_means`.

    Attributes:
        cluster_centers: Float64 (n_clusters, D): the means of the clusters.
        labels: The cluster of each row, int64 (N,), by the splits; the centre of another cluster may be nearer.
        inertia: Σ ‖row − its cluster's mean‖².
        levels: The number of splits that led to each cluster, int64 (n_clusters,); 0 is the cluster of all rows.
    """

    cluster_centers: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    inertia: float
    levels: npt.NDArray[np.int64]


def bisecting_k_means(features: Array, n_clusters: int, *, n_init: int = 10, seed: int = 0) -> BisectingKMeans:
    """Split the cluster of the largest inertia by k-means with k = 2, until there are ``n_clusters``.

    A cluster of equal rows is cut into halves, once no other cluster is left.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        n_clusters: The number of clusters, 1 ≤ n_clusters ≤ N.
        n_init: The number of starts of each split, at least 1; the best is taken.
        seed: The seed of the starts.

    Returns:
        Centres, labels, inertia and levels. One half of a split keeps the number of the cluster, the other is the last.

    Raises:
        OptionError: An argument is outside its range.

    Example:
        >>> rows = np.array([[0.0], [1.0], [10.0], [11.0], [100.0]])
        >>> clusters = bisecting_k_means(rows, 3)
        >>> sorted(zip(clusters.cluster_centers.ravel().tolist(), clusters.levels.tolist()))
        [(0.5, 2), (10.5, 2), (100.0, 1)]
    """
    rows = as_rows(features, n_clusters, "n_clusters")
    check_whole("n_init", n_init)
    seeds = np.random.default_rng(seed).integers(2**63, size=n_clusters)
    labels, levels = np.zeros(len(rows), np.int64), np.zeros(n_clusters, np.int64)
    centers, inertias = np.zeros((n_clusters, rows.shape[1])), np.zeros(n_clusters)
    centers[0], inertias[0] = _moments(rows)
    for new in range(1, n_clusters):
        splittable = np.bincount(labels, minlength=new)[:new] > 1
        old = int(np.where(splittable, inertias[:new], -1.0).argmax())
        members = np.flatnonzero(labels == old)
        half = k_means(rows[members], 2, n_init=n_init, seed=int(seeds[new])).labels == 1
        if half.all() or not half.any():
            half = np.arange(len(members)) >= len(members) // 2
        labels[members[half]] = new
        levels[[old, new]] = levels[old] + 1
        for cluster in (old, new):
            centers[cluster], inertias[cluster] = _moments(rows[labels == cluster])
    return BisectingKMeans(centers, labels, float(inertias.sum()), levels)


def _moments(rows: np.ndarray) -> tuple[npt.NDArray[np.float64], float]:
    """Return the mean and the inertia of rows."""
    moved = rows - rows[0].astype(np.float64)  # a common offset would cost digits
    mean = moved.mean(0)
    return mean + rows[0], float(((moved - mean) ** 2).sum())
