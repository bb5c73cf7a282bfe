"""Representatives from where rows are dense: UMAP, HDBSCAN, and what to do where it finds too many clusters or too few.

McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction", 2018,
https://arxiv.org/abs/1802.03426; Campello, Moulavi and Sander, "Density-based clustering based on hierarchical density
estimates", 2013. The steps and their order are those of CoDA's released code (:mod:`dap.methods.coda`):

1. Columns are standardised and embedded by UMAP with a minimal distance of 0; all that follows is in the embedding.
2. HDBSCAN. The row of a cluster with the largest membership stands for it, the first of equal ones.
3. Too many clusters: the largest are kept.
4. Too few: the largest cluster of at least twice ``min_cluster_size`` rows is split as often as is needed. HDBSCAN of
   its rows has to find two clusters or more; k-means with k = 2 then starts at the rows that stand for two of the
   three largest, whichever pair leaves the smallest inertia. The row nearest to its centre stands for a half.
5. Still too few, and at least 5 rows of noise for each cluster that is lacking (3 from 11 clusters, 1 from 51): k-means
   of the noise, with as many clusters as are lacking.
6. Still too few, and less noise: as 4, with a ``min_cluster_size`` that falls by a quarter until a cluster splits.

Where the released code fails, which small classes do, there is more: without any cluster all rows are noise for step 5
however few they are, and what step 6 cannot split is halved by 2-means, the largest cluster first.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.rng import derive_seed
from dap.selection.base import as_rows
from dap.selection.k_means import k_means

__all__ = ["DensityClusters", "density_clusters", "gather", "load_libraries", "umap_embedding"]

SEEDS, SHRINK = 3, 0.75  # clusters whose pairs a split starts from; of min_cluster_size where a split is forced


@dataclass(frozen=True)
class DensityClusters:
    """What :func:`density_clusters` found; the largest cluster is the first.

    Attributes:
        indices: The row that stands for each cluster, int64 (n_clusters,); all different.
        labels: The cluster of each row, int64 (N,); −1: it is in none.
    """

    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Group:
    """Rows of a cluster, int64 (n,), and the one that stands for it."""

    rows: npt.NDArray[np.int64]
    row: int


def load_libraries() -> tuple[Any, Any]:
    """The classes UMAP and HDBSCAN, whose import takes seconds.

    Raises:
        OptionError: umap-learn or scikit-learn is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # umap says that its parametric form lacks Tensorflow
            from sklearn.cluster import HDBSCAN
            from umap import UMAP
    except ImportError as error:
        raise OptionError(
            f"density-based clusters need umap-learn and scikit-learn ({error}): pip install 'dap-distill[coda]'"
        ) from error
    return UMAP, HDBSCAN


def density_clusters(
    features: Any,
    n_clusters: int,
    *,
    n_components: int = 50,
    n_neighbors: int = 85,
    min_cluster_size: int = 55,
    min_samples: int = 3,
    seed: int = 0,
) -> DensityClusters:
    """Finds so many clusters where rows are dense, and a row that stands for each.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        n_clusters: How many clusters, 1 ≤ n_clusters ≤ N.
        n_components: As of :func:`umap_embedding`.
        n_neighbors: As of :func:`umap_embedding`.
        min_cluster_size: Rows of a cluster, at least 2. In fewer than twice as many rows there is none.
        min_samples: Which neighbour's distance is the inverse of a row's density, at least 1; the row itself does not
            count, as in the package hdbscan. At most N − 1 where there are fewer rows.
        seed: Of UMAP and of k-means.

    Returns:
        Representatives and labels.

    Raises:
        OptionError: Rows and their number do not fit, or a library is missing.

    Example:
        >>> rows = np.repeat(np.eye(2), 20, 0) + 0.01 * np.arange(40)[:, None]
        >>> found = density_clusters(rows, 2, n_neighbors=10, min_cluster_size=8)
        >>> np.bincount(found.labels)
        array([20, 20])
    """
    rows = as_rows(features, n_clusters)
    points = umap_embedding(rows, n_components=n_components, n_neighbors=n_neighbors, seed=derive_seed(seed, "umap"))
    return gather(points, n_clusters, min_cluster_size=min_cluster_size, min_samples=min_samples, seed=seed)


def umap_embedding(rows: npt.NDArray[Any], *, n_components: int, n_neighbors: int, seed: int) -> npt.NDArray[Any]:
    """Standardised rows (N, D), embedded; float32 (N, n), and as they are, (N, D), where N is below 4.

    Args:
        rows: Finite real numbers; a column that does not vary becomes 0.
        n_components: n, at most N − 2, since the spectral start of UMAP has no more.
        n_neighbors: Neighbours of a row in UMAP's graph, itself included, at most N − 1.
        seed: Of UMAP, which takes 32 bits of it.
    """
    import torch

    umap, _ = load_libraries()
    values = rows.astype(np.float64)
    values -= values.mean(0)
    deviation = values.std(0)
    values /= np.where(deviation > 0, deviation, 1)
    points = values.astype(np.float32)
    if len(rows) < 4:
        return points
    model = umap(
        n_components=min(n_components, len(rows) - 2), n_neighbors=min(n_neighbors, len(rows) - 1), min_dist=0.0,
        random_state=seed % 2**32, n_jobs=1,
    )  # fmt: skip
    threads = torch.get_num_threads()
    try:
        with warnings.catch_warnings():
            # rows that fall apart into several graphs; as an error, one of these would be caught, and change the start
            warnings.simplefilter("ignore")
            embedded: npt.NDArray[Any] = model.fit_transform(points)
    finally:
        torch.set_num_threads(threads)  # numba's pool sets OpenMP's threads, torch's with them, to all processors
    return embedded


def gather(
    points: npt.NDArray[Any], n_clusters: int, *, min_cluster_size: int, min_samples: int, seed: int
) -> DensityClusters:
    """As :func:`density_clusters`, of points (N, d) that are embedded already: steps 2 to 6 of the module."""
    groups = _dense(points, np.arange(len(points)), min_cluster_size, min_samples)
    _split(points, groups, n_clusters, [min_cluster_size], min_samples)
    if lacking := max(0, n_clusters - len(groups)):
        noise = np.setdiff1d(np.arange(len(points)), np.concatenate([np.zeros(0, np.int64), *(g.rows for g in groups)]))
        enough = 5 if n_clusters <= 10 else 3 if n_clusters <= 50 else 1
        if not groups or len(noise) >= enough * lacking:
            groups += _by_k_means(points, noise, lacking, seed)
        else:
            _split(points, groups, n_clusters, _smaller(min_cluster_size), min_samples)
            _halve(points, groups, noise, n_clusters, seed)
    groups = sorted(groups, key=lambda group: -len(group.rows))[:n_clusters]
    labels = np.full(len(points), -1, np.int64)
    for number, group in enumerate(groups):
        labels[group.rows] = number
    return DensityClusters(np.array([group.row for group in groups], np.int64), labels)


def _dense(points: npt.NDArray[Any], rows: npt.NDArray[np.int64], size: int, min_samples: int) -> list[_Group]:
    """HDBSCAN of some rows: none, or two groups and more."""
    if len(rows) < 2 * size:
        return []
    _, hdbscan = load_libraries()
    # scikit-learn counts the row itself
    model = hdbscan(min_cluster_size=size, min_samples=min(min_samples + 1, len(rows)), copy=True).fit(points[rows])
    found = [np.flatnonzero(model.labels_ == number) for number in range(model.labels_.max() + 1)]
    return [_Group(rows[own], int(rows[own[model.probabilities_[own].argmax()]])) for own in found]


def _in_two(points: npt.NDArray[Any], group: _Group, size: int, min_samples: int) -> list[_Group]:
    """The halves of a group that has two dense parts or more, or nothing."""
    parts = sorted(_dense(points, group.rows, size, min_samples), key=lambda part: -len(part.rows))[:SEEDS]
    own = points[group.rows]
    splits = [k_means(own, 2, init=points[[one.row, other.row]]) for one, other in itertools.combinations(parts, 2)]
    if not splits:
        return []
    best = min(splits, key=lambda each: each.inertia)
    return _groups(points, group.rows, best.labels, best.cluster_centers)


def _groups(
    points: npt.NDArray[Any], rows: npt.NDArray[np.int64], labels: npt.NDArray[Any], centers: npt.NDArray[Any]
) -> list[_Group]:
    """The clusters of k-means; nothing if one is empty, as it is among equal rows."""
    found = []
    for number, center in enumerate(centers):
        own = rows[labels == number]
        if not len(own):
            return []
        found.append(_Group(own, int(own[((points[own] - center) ** 2).sum(1).argmin()])))
    return found


def _by_k_means(points: npt.NDArray[Any], rows: npt.NDArray[np.int64], count: int, seed: int) -> list[_Group]:
    """Groups of some rows by k-means, or, of rows that are too alike, by their order."""
    found = k_means(points[rows], count, seed=derive_seed(seed, "k-means"))
    groups = _groups(points, rows, found.labels, found.cluster_centers)
    return groups or [_Group(part, int(part[0])) for part in np.array_split(rows, count)]


def _split(points: npt.NDArray[Any], groups: list[_Group], count: int, sizes: list[int], min_samples: int) -> None:
    """Splits groups in place, each by the first size that does it, until there are enough or none is left to split."""
    waiting = [group for group in groups if len(group.rows) >= 2 * sizes[-1]]
    while len(groups) < count and waiting:
        parent = _largest(waiting)
        waiting.remove(parent)
        halves = next((own for size in sizes if (own := _in_two(points, parent, size, min_samples))), [])
        if halves:
            groups.remove(parent)
            groups += halves
            waiting += [half for half in halves if len(half.rows) >= 2 * sizes[-1]]


def _smaller(size: int) -> list[int]:
    """The sizes by which a split is forced: each three quarters of the one before, down to 2."""
    sizes, least = list[int](), float(size)
    while least > 2:
        least *= SHRINK
        sizes.append(max(2, int(least)))
    return sizes or [2]


def _halve(points: npt.NDArray[Any], groups: list[_Group], noise: npt.NDArray[np.int64], count: int, seed: int) -> None:
    """What is still lacking: the largest group by 2-means, or, where all have one row, groups of the noise."""
    while len(groups) < count:
        parent = _largest(groups)
        if len(parent.rows) == 1:
            groups += _by_k_means(points, noise, count - len(groups), seed)
        else:
            groups.remove(parent)
            groups += _by_k_means(points, parent.rows, 2, seed)


def _largest(groups: list[_Group]) -> _Group:
    return max(groups, key=lambda group: len(group.rows))
