"""k-means beside scikit-learn and its definition: labels, inertia, starts, empty clusters, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dap import _core
from dap.errors import OptionError
from dap.selection import k_means, k_means_centroids, k_medoids, kmeans_plusplus


def blobs(rows=3000, columns=20, groups=12, seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    centers = 4 * random.standard_normal((groups, columns))
    return (centers[random.integers(groups, size=rows)] + random.standard_normal((rows, columns))).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "columns", "clusters"), [(3000, 20, 12), (1111, 65, 40), (200, 3, 7)])
@pytest.mark.parametrize("tol", [0.0, 1e-2])
def test_the_same_start_ends_as_scikit_learns(dtype, rows, columns, clusters, tol):
    from sklearn.cluster import KMeans

    x = blobs(rows, columns, dtype=dtype) + dtype(3)
    start = x[np.random.default_rng(1).choice(rows, clusters, replace=False)]
    theirs = KMeans(clusters, init=start, n_init=1, algorithm="lloyd", max_iter=50, tol=tol).fit(x)
    ours = k_means(x, clusters, init=start, max_iter=50, tol=tol)
    np.testing.assert_array_equal(ours.labels, theirs.labels_)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-5)
    assert ours.n_iter == theirs.n_iter_
    np.testing.assert_allclose(ours.cluster_centers, theirs.cluster_centers_, atol=1e-4)


def test_empty_clusters_end_as_scikit_learns():
    from sklearn.cluster import KMeans

    x = blobs(500, 4, groups=3, dtype=np.float64)
    start = np.concatenate([x[:4], x[:2] + 1000.0])
    theirs = KMeans(6, init=start, n_init=1, algorithm="lloyd", tol=0).fit(x)
    ours = k_means(x, 6, init=start, tol=0)
    np.testing.assert_array_equal(ours.labels, theirs.labels_)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-10)


def test_the_result_is_its_definition():
    x = blobs(dtype=np.float64)
    found = k_means(x, 9, seed=4, tol=0)
    distances = ((x[:, None] - found.cluster_centers) ** 2).sum(-1)
    np.testing.assert_array_equal(found.labels, distances.argmin(1))
    assert found.inertia == pytest.approx(distances.min(1).sum(), rel=1e-12)
    means = [x[found.labels == cluster].mean(0) for cluster in range(9)]
    np.testing.assert_allclose(found.cluster_centers, means, rtol=1e-12)
    assert (found.labels.dtype, found.cluster_centers.dtype) == (np.int64, np.float64)


def test_every_type_and_a_tensor():
    x = blobs(dtype=np.float16)
    found = [
        k_means(x, 12, seed=2),
        k_means(x.astype(np.float64), 12, init=x[kmeans_plusplus(x, 12, seed=_first(2))[1]]),
        k_means(torch.from_numpy(x), 12, seed=2),
    ]
    for each in found[1:]:
        np.testing.assert_array_equal(each.labels, found[0].labels)


def _first(seed):
    return int(np.random.default_rng(seed).integers(2**63, size=1)[0])


def test_more_starts_are_no_worse():
    x = blobs(600, 2, groups=20)
    one, five = (k_means(x, 20, n_init=n, seed=0).inertia for n in (1, 8))
    assert five < one


def test_the_number_of_threads_changes_no_bit():
    x = blobs(5000, 33)
    start = x[:30].astype(np.float64)
    one, *others = ([np.asarray(part).tobytes() for part in _core.k_means(x, start, 7, 0.0, n)] for n in (1, 2, 3))
    assert others == [one] * 2
    first, *rest = (_core.plus_plus(x, 30, 5, 3, n).tolist() for n in (1, 2, 3))
    assert rest == [first] * 2


def test_the_start_is_as_good_as_scikit_learns():
    from sklearn.cluster import kmeans_plusplus as theirs

    x = blobs(2000, 10, groups=25, dtype=np.float64)

    def potential(centers):
        return ((x[:, None] - centers) ** 2).sum(-1).min(1).sum()

    ours = np.mean([potential(kmeans_plusplus(x, 25, seed=seed)[0]) for seed in range(12)])
    rival = np.mean([potential(theirs(x, 25, random_state=seed)[0]) for seed in range(12)])
    assert ours == pytest.approx(rival, rel=0.1)
    plain = np.mean([potential(kmeans_plusplus(x, 25, n_local_trials=1, seed=seed)[0]) for seed in range(12)])
    assert ours < plain
    centers, indices = kmeans_plusplus(x, 25, seed=1)
    assert len(set(indices.tolist())) == 25
    np.testing.assert_array_equal(centers, x[indices])


def test_centroids_and_medoids():
    x = blobs(800, 5, groups=4, dtype=np.float64)
    found = k_means_centroids(x, 6, seed=3)
    means = k_means(x, 6, seed=3)
    np.testing.assert_array_equal(found.points, means.cluster_centers)
    np.testing.assert_allclose(found.weights, np.bincount(means.labels) / 800)
    nearest = ((x[:, None] - found.points) ** 2).sum(-1).argmin(0)
    np.testing.assert_array_equal(found.indices, nearest)
    medoids = k_medoids(x, 6, seed=3)
    np.testing.assert_array_equal(medoids.indices, nearest)
    assert medoids.points is None and medoids.weights is None

    def distance(a, b):
        return np.sqrt(((a[:, None] - b) ** 2).sum(-1))

    w = found.weights
    squared = 2 * (w @ distance(found.points, x)).mean() - distance(x, x).mean()
    squared -= w @ distance(found.points, found.points) @ w
    assert found.error == pytest.approx(np.sqrt(squared), rel=1e-6)


def test_medoids_of_equal_rows_are_different():
    x = np.repeat(np.array([[0.0], [1.0]]), [3, 3], axis=0)
    assert sorted(k_medoids(x, 6).indices.tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_clusters": 0}, "n_clusters: expected a whole number from 1 to 4, got 0"),
        ({"n_clusters": 5}, "from 1 to 4, got 5"),
        ({"features": np.full((4, 2), np.nan)}, "features must be finite"),
        ({"init": "random"}, "init: expected"),
        ({"init": np.zeros((3, 2))}, r"finite centres with shape \(2, 2\), got shape \(3, 2\)"),
        ({"init": np.full((2, 2), np.inf)}, "finite centres"),
        ({"init": np.zeros((2, 2)), "n_init": 2}, "n_init: expected 1, since"),
        ({"max_iter": 0}, "max_iter: expected a whole number of at least 1, got 0"),
        ({"tol": -1.0}, "tol: expected a number of at least 0"),
    ],
)
def test_refusals(change, message):
    arguments = {"features": np.arange(8.0).reshape(4, 2), "n_clusters": 2} | change
    with pytest.raises(OptionError, match=message):
        k_means(**arguments)
