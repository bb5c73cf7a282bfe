"""Bisecting k-means: clusters that are split in two, one after the other, always the one of the largest inertia.

Steinbach, Karypis and Kumar, "A comparison of document clustering techniques", 2000. Words are those of scikit-learn's
``BisectingKMeans``, whose strategy "biggest_inertia" this is; so is the divisive clustering of ManifoldGD's code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.selection.base import as_rows
from dap.selection.k_means import k_means

__all__ = ["BisectingKMeans", "bisecting_k_means"]


@dataclass(frozen=True)
class BisectingKMeans:
    """What :func:`bisecting_k_means` found.

    Attributes:
        cluster_centers: Float64 (n_clusters, D): the means of the clusters.
        labels: The cluster of each row, int64 (N,), by the splits; another cluster's centre may be nearer.
        inertia: Σ ‖row − its cluster's mean‖².
        levels: How many splits led to each cluster, int64 (n_clusters,); 0 is the cluster of all rows.
    """

    cluster_centers: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    inertia: float
    levels: npt.NDArray[np.int64]


def bisecting_k_means(features: Any, n_clusters: int, *, n_init: int = 10, seed: int = 0) -> BisectingKMeans:
    """Splits the cluster of the largest inertia by k-means with k = 2, until there are enough.

    A cluster of equal rows, which has nothing to split by, is split into halves once no other cluster is left.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        n_clusters: How many clusters, 1 ≤ n_clusters ≤ N.
        n_init: Starts of each split, of which the best is kept; at least 1.
        seed: Of the starts.

    Returns:
        Centres, labels, inertia and levels. A split leaves its number to one of the halves, the other one is the last.

    Raises:
        OptionError: If an argument is not as said.

    Example:
        >>> rows = np.array([[0.0], [1.0], [10.0], [11.0], [100.0]])
        >>> found = bisecting_k_means(rows, 3)
        >>> sorted(zip(found.cluster_centers.ravel().tolist(), found.levels.tolist()))
        [(0.5, 2), (10.5, 2), (100.0, 1)]
    """
    rows = as_rows(features, n_clusters)
    if n_init < 1:
        raise OptionError(f"n_init must be 1 or more, got {n_init}")
    seeds = np.random.default_rng(seed).integers(2**63, size=n_clusters)
    labels, levels = np.zeros(len(rows), np.int64), np.zeros(n_clusters, np.int64)
    centers, inertias = np.zeros((n_clusters, rows.shape[1])), np.zeros(n_clusters)
    centers[0], inertias[0] = _moments(rows)
    for new in range(1, n_clusters):
        splittable = np.bincount(labels, minlength=new)[:new] > 1
        old = int(np.where(splittable, inertias[:new], -1.0).argmax())
        own = np.flatnonzero(labels == old)
        half = k_means(rows[own], 2, n_init=n_init, seed=int(seeds[new])).labels == 1
        if half.all() or not half.any():
            half = np.arange(len(own)) >= len(own) // 2
        labels[own[half]] = new
        levels[[old, new]] = levels[old] + 1
        for cluster in (old, new):
            centers[cluster], inertias[cluster] = _moments(rows[labels == cluster])
    return BisectingKMeans(centers, labels, float(inertias.sum()), levels)


def _moments(rows: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], float]:
    """Mean and inertia of rows."""
    moved = rows - rows[0].astype(np.float64)  # what is far from zero cancels
    mean = moved.mean(0)
    return mean + rows[0], float(((moved - mean) ** 2).sum())
