"""Density-based clusters by UMAP and HDBSCAN, in exactly the wanted number, and a row that represents each.

McInnes, Healy and Melville, "UMAP: Uniform Manifold Approximation and Projection for Dimension Reduction", 2018,
https://arxiv.org/abs/1802.03426; Campello, Moulavi and Sander, "Density-based clustering based on hierarchical density
estimates", 2013. The steps and their order are those of CoDA's released code (:mod:`dap.methods.coda`):

1. The columns are standardised and embedded by UMAP with a minimal distance of 0; the next steps use the embedding.
2. HDBSCAN clusters the rows. The row with the largest membership represents a cluster, the first of equal ones.
3. If there are too many clusters, the largest are kept.
4. If there are too few, the largest cluster of at least twice ``min_cluster_size`` rows is split, as often as needed.
   HDBSCAN must find two clusters or more in its rows; k-means with k = 2 then starts at the representatives of two of
   the three largest, the pair that leaves the smallest inertia. The row nearest to its centre represents a half.
5. If there are still too few, and at least 5 rows of noise for each missing cluster (3 from 11 clusters, 1 from 51),
   k-means divides the noise into the missing clusters.
6. If there is less noise, step 4 is repeated; ``min_cluster_size`` falls by a quarter until a cluster splits.

The released code fails on small classes. Here, without any cluster, step 5 takes all rows as noise, however few; and
clusters that step 6 cannot split are halved by 2-means, the largest first.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.kernels.arrays import Array
from dap.rng import derive_seed
from dap.selection.base import as_rows
from dap.selection.k_means import k_means

__all__ = ["DensityClusters", "density_clusters", "gather", "load_libraries", "umap_embedding"]

SEEDS, SHRINK = 3, 0.75  # largest clusters whose pairs start a split; factor of min_cluster_size in forced splits


@dataclass(frozen=True)
class DensityClusters:
    """The result of :func:`density_clusters`; the largest cluster is the first.

    Attributes:
        indices: The row that represents each cluster, int64 (n_clusters,); all different.
        labels: The cluster of each row, int64 (N,); −1 for a row in none.
    """

    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Group:
    """The rows of a cluster, int64 (n,), and the row that represents it."""

    rows: npt.NDArray[np.int64]
    representative: int


def load_libraries() -> tuple[Any, Any]:
    """Import the classes UMAP and HDBSCAN, which takes seconds.

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
    features: Array,
    n_clusters: int,
    *,
    n_components: int = 50,
    n_neighbors: int = 85,
    min_cluster_size: int = 55,
    min_samples: int = 3,
    seed: int = 0,
) -> DensityClusters:
    """Find ``n_clusters`` clusters where rows are dense, and a row that represents each.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        n_clusters: The number of clusters, 1 ≤ n_clusters ≤ N.
        n_components: As in :func:`umap_embedding`.
        n_neighbors: As in :func:`umap_embedding`.
        min_cluster_size: The smallest number of rows of a cluster, at least 2; HDBSCAN finds no cluster in fewer than
            twice as many rows.
        min_samples: The number k of the neighbour whose distance is the inverse of a row's density, at least 1; the
            row itself does not count, as in the package hdbscan. It is limited to N − 1.
        seed: The seed of UMAP and of k-means.

    Returns:
        The representatives and the labels.

    Raises:
        OptionError: An argument is outside its range, or a library is missing.

    Example:
        >>> rows = np.repeat(np.eye(2), 20, 0) + 0.01 * np.arange(40)[:, None]
        >>> clusters = density_clusters(rows, 2, n_neighbors=10, min_cluster_size=8)
        >>> np.bincount(clusters.labels)
        array([20, 20])
    """
    rows = as_rows(features, n_clusters, "n_clusters")
    points = umap_embedding(rows, n_components=n_components, n_neighbors=n_neighbors, seed=derive_seed(seed, "umap"))
    return gather(points, n_clusters, min_cluster_size=min_cluster_size, min_samples=min_samples, seed=seed)


def umap_embedding(rows: np.ndarray, *, n_components: int, n_neighbors: int, seed: int) -> np.ndarray:
    """Standardise rows, (N, D), and embed them by UMAP: float32 (N, n). Fewer than 4 rows stay standardised, (N, D).

    Args:
        rows: Finite real numbers; a constant column becomes 0.
        n_components: n, limited to N − 2, which the spectral start of UMAP needs.
        n_neighbors: The number of neighbours of a row in UMAP's graph, with itself; limited to N − 1.
        seed: The seed of UMAP, which takes 32 bits of it.
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
            # UMAP warns about a graph in several parts; as an error, UMAP would catch it and start differently
            warnings.simplefilter("ignore")
            embedded: np.ndarray = model.fit_transform(points)
    finally:
        torch.set_num_threads(threads)  # numba's pool sets the threads of OpenMP, and so of torch, to all processors
    return embedded


def gather(
    points: np.ndarray, n_clusters: int, *, min_cluster_size: int, min_samples: int, seed: int
) -> DensityClusters:
    """Run steps 2 to 6 of the module's docstring on embedded points (N, d); see :func:`density_clusters`."""
    groups = _dense(points, np.arange(len(points)), min_cluster_size, min_samples)
    _split(points, groups, n_clusters, [min_cluster_size], min_samples)
    if missing := max(0, n_clusters - len(groups)):
        noise = np.setdiff1d(np.arange(len(points)), np.concatenate([np.zeros(0, np.int64), *(g.rows for g in groups)]))
        enough = 5 if n_clusters <= 10 else 3 if n_clusters <= 50 else 1
        if not groups or len(noise) >= enough * missing:
            groups += _by_k_means(points, noise, missing, seed)
        else:
            _split(points, groups, n_clusters, _smaller(min_cluster_size), min_samples)
            _halve(points, groups, noise, n_clusters, seed)
    groups = sorted(groups, key=lambda group: -len(group.rows))[:n_clusters]
    labels = np.full(len(points), -1, np.int64)
    for number, group in enumerate(groups):
        labels[group.rows] = number
    return DensityClusters(np.array([group.representative for group in groups], np.int64), labels)


def _dense(points: np.ndarray, rows: npt.NDArray[np.int64], size: int, min_samples: int) -> list[_Group]:
    """Cluster some rows by HDBSCAN; return no group, or two or more."""
    if len(rows) < 2 * size:
        return []
    _, hdbscan = load_libraries()
    # scikit-learn counts the row itself as a neighbour
    model = hdbscan(min_cluster_size=size, min_samples=min(min_samples + 1, len(rows)), copy=True).fit(points[rows])
    clusters = [np.flatnonzero(model.labels_ == number) for number in range(model.labels_.max() + 1)]
    return [_Group(rows[part], int(rows[part[model.probabilities_[part].argmax()]])) for part in clusters]


def _in_two(points: np.ndarray, group: _Group, size: int, min_samples: int) -> list[_Group]:
    """Return the halves of a group that has two dense parts or more, else nothing."""
    parts = sorted(_dense(points, group.rows, size, min_samples), key=lambda part: -len(part.rows))[:SEEDS]
    starts = [[first.representative, second.representative] for first, second in itertools.combinations(parts, 2)]
    splits = [k_means(points[group.rows], 2, init=points[start]) for start in starts]
    if not splits:
        return []
    best = min(splits, key=lambda split: split.inertia)
    return _groups(points, group.rows, best.labels, best.cluster_centers)


def _groups(points: np.ndarray, rows: npt.NDArray[np.int64], labels: np.ndarray, centers: np.ndarray) -> list[_Group]:
    """Return the clusters of k-means as groups; nothing if one is empty, which happens where rows are equal."""
    groups = []
    for number, center in enumerate(centers):
        members = rows[labels == number]
        if not len(members):
            return []
        groups.append(_Group(members, int(members[((points[members] - center) ** 2).sum(1).argmin()])))
    return groups


def _by_k_means(points: np.ndarray, rows: npt.NDArray[np.int64], count: int, seed: int) -> list[_Group]:
    """Divide some rows by k-means, or by their order where too many of them are equal."""
    clusters = k_means(points[rows], count, seed=derive_seed(seed, "k-means"))
    groups = _groups(points, rows, clusters.labels, clusters.cluster_centers)
    return groups or [_Group(part, int(part[0])) for part in np.array_split(rows, count)]


def _split(points: np.ndarray, groups: list[_Group], count: int, sizes: list[int], min_samples: int) -> None:
    """Split groups in place, each by the first size that can, until there are enough or no group can be split."""
    waiting = [group for group in groups if len(group.rows) >= 2 * sizes[-1]]
    while len(groups) < count and waiting:
        parent = _largest(waiting)
        waiting.remove(parent)
        halves = next((pair for size in sizes if (pair := _in_two(points, parent, size, min_samples))), [])
        if halves:
            groups.remove(parent)
            groups += halves
            waiting += [half for half in halves if len(half.rows) >= 2 * sizes[-1]]


def _smaller(size: int) -> list[int]:
    """Return the sizes of forced splits: each is three quarters of the one before, down to 2."""
    sizes, least = list[int](), float(size)
    while least > 2:
        least *= SHRINK
        sizes.append(max(2, int(least)))
    return sizes or [2]


def _halve(points: np.ndarray, groups: list[_Group], noise: npt.NDArray[np.int64], count: int, seed: int) -> None:
    """Add the missing groups: halve the largest by 2-means, or divide the noise where all groups have one row."""
    while len(groups) < count:
        parent = _largest(groups)
        if len(parent.rows) == 1:
            groups += _by_k_means(points, noise, count - len(groups), seed)
        else:
            groups.remove(parent)
            groups += _by_k_means(points, parent.rows, 2, seed)


def _largest(groups: list[_Group]) -> _Group:
    return max(groups, key=lambda group: len(group.rows))
