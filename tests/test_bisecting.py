"""Bisecting k-means beside scikit-learn, and beside a search of all splits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dap.errors import OptionError
from dap.selection.bisecting import bisecting_k_means


def blobs(sizes, columns=6, spread=30.0, seed=0):
    random = np.random.default_rng(seed)
    centers = spread * random.standard_normal((len(sizes), columns))
    return np.concatenate([centers[i] + random.standard_normal((n, columns)) for i, n in enumerate(sizes)])


def partition(labels):
    return {tuple(np.flatnonzero(np.asarray(labels) == each)) for each in set(np.asarray(labels).tolist())}


@pytest.mark.parametrize("sizes", [(40, 30, 20, 10), (5, 60, 5, 5, 25, 50, 15)])
def test_the_clusters_of_separated_data_are_scikit_learns(sizes):
    from sklearn.cluster import BisectingKMeans

    x = blobs(sizes)
    theirs = BisectingKMeans(len(sizes), bisecting_strategy="biggest_inertia", n_init=10, random_state=0).fit(x)
    ours = bisecting_k_means(x, len(sizes))
    assert partition(ours.labels) == partition(theirs.labels_)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-9)


def sse(values):
    return ((values - values.mean()) ** 2).sum()


def tree(values, count):
    """Clusters of numbers, with their levels: each split is the best of all thresholds."""
    clusters = [(np.sort(values), 0)]
    while len(clusters) < count:
        worst = max(range(len(clusters)), key=lambda number: sse(clusters[number][0]))
        own, level = clusters.pop(worst)
        cut = min(range(1, len(own)), key=lambda cut: sse(own[:cut]) + sse(own[cut:]))
        clusters += [(own[:cut], level + 1), (own[cut:], level + 1)]
    return sorted((tuple(own), level) for own, level in clusters)


@pytest.mark.parametrize("seed", range(4))
def test_each_split_is_the_best_one_of_the_largest_inertia(seed):
    values = np.random.default_rng(seed).standard_normal(25) + 1000
    found = bisecting_k_means(values[:, None], 7, n_init=60, seed=seed)
    ours = sorted((tuple(np.sort(values[found.labels == each])), int(found.levels[each])) for each in range(7))
    assert ours == tree(values, 7)
    np.testing.assert_allclose(
        found.cluster_centers[:, 0], [values[found.labels == each].mean() for each in range(7)], rtol=1e-12
    )
    assert found.inertia == pytest.approx(sum(sse(values[found.labels == each]) for each in range(7)), rel=1e-9)


def test_equal_rows_and_the_smallest_counts():
    x = np.repeat(np.array([[0.0], [1.0]]), [4, 3], axis=0)
    assert sorted(np.bincount(bisecting_k_means(x, 7).labels)) == [1] * 7
    two = bisecting_k_means(x, 2)
    assert partition(two.labels) == {(0, 1, 2, 3), (4, 5, 6)} and two.inertia == 0 and two.levels.tolist() == [1, 1]
    one = bisecting_k_means(x, 1)
    assert one.labels.tolist() == [0] * 7 and one.levels.tolist() == [0]
    assert one.cluster_centers.item() == pytest.approx(3 / 7) and one.inertia == pytest.approx(12 / 7)


def test_types_and_seeds():
    x = blobs((30, 20, 10), spread=1.0).astype(np.float32)
    first = bisecting_k_means(x, 5, seed=3)
    assert (first.labels.dtype, first.cluster_centers.dtype, first.levels.dtype) == (np.int64, np.float64, np.int64)
    for again in (bisecting_k_means(x, 5, seed=3), bisecting_k_means(torch.from_numpy(x), 5, seed=3)):
        np.testing.assert_array_equal(again.labels, first.labels)
        np.testing.assert_array_equal(again.cluster_centers, first.cluster_centers)
    alone = [bisecting_k_means(x, 5, n_init=1, seed=seed).inertia for seed in range(12)]
    assert len(set(alone)) > 1 and bisecting_k_means(x, 5, n_init=10, seed=0).inertia < np.mean(alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_clusters": 0}, "n_clusters: expected a whole number from 1 to 4, got 0"),
        ({"n_clusters": 5}, "from 1 to 4, got 5"),
        ({"n_init": 0}, "n_init: expected a whole number of at least 1, got 0"),
        ({"features": np.full((4, 2), np.inf)}, "features must be finite"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(OptionError, match=message):
        bisecting_k_means(**({"features": np.arange(8.0).reshape(4, 2), "n_clusters": 2} | change))
