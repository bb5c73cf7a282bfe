"""Representatives of dense clusters, as CoDA takes them: blobs whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dap.errors import OptionError
from dap.selection import density
from dap.selection.density import density_clusters, gather, umap_embedding

# diffusers meets numpy 2 here
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def square(x, side=5, seed=0, y=0.0):
    """side² points about 1 apart, the first corner at (x, y); the middle one has number (side² − 1) / 2."""
    draw = np.random.default_rng(seed)
    points = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    return points + draw.uniform(-0.15, 0.15, points.shape) + [x, y]


def scattered(count, seed=9):
    """Points far from those of ``square`` and from each other."""
    return np.random.default_rng(seed).uniform(1000, 9000, (count, 2)) * [1, -1]


def found(points, count, size=20, min_samples=3, seed=0):
    result = gather(points, count, min_cluster_size=size, min_samples=min_samples, seed=seed)
    assert result.indices.shape == (count,) and len(set(result.indices.tolist())) == count
    assert result.labels[result.indices].tolist() == list(range(count)), "each is a row of its own cluster"
    sizes = np.bincount(result.labels[result.labels >= 0], minlength=count)
    assert (np.diff(sizes) <= 0).all(), "the largest is the first"
    return result


def strengths(points, neighbour):
    """1 / the distance to that neighbour of each point, itself not counted."""
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(2))
    return 1 / np.sort(distances, 1)[:, neighbour]


def test_each_cluster_is_represented_by_a_row_of_the_largest_membership():
    """Of a Gaussian blob that is a row from its middle."""
    draw = np.random.default_rng(1)
    sizes = (60, 90, 40)
    blobs = [draw.normal(size=(size, 2)) + np.array([100, 0]) * place for place, size in enumerate(sizes)]
    result = found(np.concatenate(blobs), 3)
    starts = np.array([0, 60, 150])
    for number, blob in enumerate((1, 0, 2)):
        own = np.flatnonzero(result.labels == number) - starts[blob]
        assert own.min() >= 0 and own.max() < sizes[blob] and len(own) > 0.5 * sizes[blob]
        local = result.indices[number] - starts[blob]
        density_of = strengths(blobs[blob], 3)
        assert density_of[local] >= np.quantile(density_of, 0.75), "from where it is dense"
        assert np.linalg.norm(blobs[blob][local] - [100 * blob, 0]) < 1.5


@pytest.mark.parametrize("min_samples", [1, 3, 8])
def test_membership_is_that_of_hdbscan_which_does_not_count_the_row_itself(min_samples):
    from sklearn.cluster import HDBSCAN

    draw = np.random.default_rng(2)
    points = np.concatenate([draw.normal(size=(70, 2)), draw.normal(size=(50, 2)) + 50])
    result = found(points, 2, min_samples=min_samples)
    model = HDBSCAN(min_cluster_size=20, min_samples=min_samples + 1, copy=True).fit(points)
    for number, row in enumerate(result.indices):
        own = np.flatnonzero(model.labels_ == model.labels_[row])
        assert np.array_equal(np.flatnonzero(result.labels == number), own)
        assert row == own[model.probabilities_[own] == 1][0]


def test_of_too_many_clusters_the_largest_are_kept():
    points = np.concatenate([square(0, 5), square(50, 7), square(100, 6), square(150, 8)])
    result = found(points, 2)
    assert np.array_equal(np.flatnonzero(result.labels == 0), np.arange(110, 174))
    assert np.array_equal(np.flatnonzero(result.labels == 1), np.arange(25, 74))
    assert (result.labels == -1).sum() == 25 + 36


def test_too_few_clusters_are_split_where_they_are_dense_and_the_largest_is_the_first(monkeypatch):
    """Two squares of 25 that are 2 apart are one cluster of HDBSCAN, and so are two of 36."""
    monkeypatch.setattr(density, "_smaller", lambda size: pytest.fail("no smaller clusters are needed"))
    points = np.concatenate([square(0), square(6, seed=1), square(200, 6, seed=2), square(207, 6, seed=3)])
    assert np.bincount(found(points, 2).labels).tolist() == [72, 50]
    three = found(points, 3)
    assert np.bincount(three.labels).tolist() == [50, 36, 36]
    four = found(points, 4)
    assert np.bincount(four.labels).tolist() == [36, 36, 25, 25]
    for number in range(4):
        own = np.flatnonzero(four.labels == number)
        assert own.tolist() == list(range(own[0], own[0] + len(own)))
        distances = ((points[own] - points[own].mean(0)) ** 2).sum(1)
        assert four.indices[number] == own[distances.argmin()], "a half is represented by the row nearest to its mean"
    assert (set(four.indices.tolist()) & {12, 37}) == {12, 37}


def test_halves_are_split_again(monkeypatch):
    """Four squares in a row are one cluster beside one that is far."""
    monkeypatch.setattr(density, "_smaller", lambda size: pytest.fail("no smaller clusters are needed"))
    points = np.concatenate([square(6 * place, seed=place) for place in range(4)] + [square(900, seed=4)])
    assert np.bincount(found(points, 2).labels).tolist() == [100, 25]
    assert np.bincount(found(points, 3).labels).tolist() == [50, 50, 25]
    five = found(points, 5)
    assert np.bincount(five.labels).tolist() == [25] * 5 and all(
        (np.diff(row) == 0).all() for row in five.labels.reshape(5, 25)
    )


def test_a_split_starts_from_the_pair_of_dense_parts_that_leaves_the_smallest_inertia():
    """Four squares at the corners of an oblong: k-means that starts at the two largest stays with the longer halves."""
    points = np.concatenate([square(0, 7), square(0, 6, seed=1, y=20), square(28, seed=2), square(28, seed=3, y=20)])
    group = density._Group(np.arange(135), 0)
    assert sorted(len(part.rows) for part in density._dense(points, group.rows, 20, 3)) == [25, 25, 36, 49]
    halves = density._in_two(points, group, 20, 3)
    assert [half.rows.tolist() for half in halves] in (
        [[*range(85)], [*range(85, 135)]],
        [[*range(85, 135)], [*range(85)]],
    )


def test_what_is_lacking_comes_from_k_means_of_enough_noise():
    """Two squares cannot be split; 18 rows of noise, too few for a cluster of 20, are 6 for each of three."""
    points = np.concatenate([square(0), square(60, seed=1), scattered(18)])
    result = found(points, 5)
    sizes = np.bincount(result.labels)
    assert sizes.sum() == 68 and sizes[:2].tolist() == [25, 25]
    of_noise = [number for number in range(5) if (result.labels[50:] == number).any()]
    assert len(of_noise) == 3 and not np.isin(result.labels[:50], of_noise).any()
    means = np.stack([points[result.labels == number].mean(0) for number in of_noise])
    distances = ((points[50:, None] - means) ** 2).sum(2)
    assert np.array_equal(np.array(of_noise)[distances.argmin(1)], result.labels[50:])
    for number, mean in zip(of_noise, means, strict=True):
        own = np.flatnonzero(result.labels == number)
        assert result.indices[number] == own[((points[own] - mean) ** 2).sum(1).argmin()]


@pytest.mark.parametrize(("noise", "count", "of_noise"), [(10, 4, 2), (9, 4, 0)])
def test_five_rows_of_noise_are_enough_for_each_cluster_that_is_lacking(noise, count, of_noise, monkeypatch):
    """Two clusters, each of two squares of 25: too small to be split at 30, but not at three quarters of it."""
    pairs = np.concatenate([square(0), square(6, seed=1), square(200, seed=2), square(206, seed=3)])
    points = np.concatenate([pairs, scattered(noise)])
    if not of_noise:
        monkeypatch.setattr(density, "_by_k_means", lambda *arguments: pytest.fail("smaller clusters are dense enough"))
    result = found(points, count, size=30)
    assert (result.labels[100:] >= 0).all() == bool(of_noise)
    sizes = np.bincount(result.labels[result.labels >= 0]).tolist()
    assert (sizes[:2] == [50, 50]) if of_noise else (sizes == [25, 25, 25, 25])


def test_a_cluster_that_does_not_split_is_tried_with_ever_smaller_parts(monkeypatch):
    tried = []
    monkeypatch.setattr(density, "_in_two", lambda points, group, size, min_samples: tried.append(size) or [])
    density._split(np.zeros((99, 2)), [density._Group(np.arange(99), 0)], 2, density._smaller(55), 3)
    assert tried == [41, 30, 23, 17, 13, 9, 7, 5, 4, 3, 2, 2]
    assert density._smaller(2) == [2]


@pytest.mark.parametrize(("ipc", "least"), [(10, 5), (11, 3), (50, 3), (51, 1)])
def test_how_much_noise_is_enough_depends_on_how_many_are_wanted(ipc, least, monkeypatch):
    calls = []
    real = density._smaller
    monkeypatch.setattr(density, "_smaller", lambda size: calls.append(1) or real(size))
    squares = np.concatenate([square(60 * place, seed=place) for place in range(ipc - 2)])
    for noise in (2 * least, 2 * least - 1):
        found(np.concatenate([squares, scattered(noise)]), ipc)
    assert calls == [1], "only with the fewer"


@pytest.mark.parametrize("count", [1, 4, 20])
def test_noise_alone_is_clustered_by_k_means(count):
    points = scattered(20)
    result = found(points, count)
    assert (result.labels >= 0).all()
    means = np.stack([points[result.labels == number].mean(0) for number in range(count)])
    assert np.array_equal(((points[:, None] - means) ** 2).sum(2).argmin(1), result.labels)


def test_what_has_no_parts_is_halved_until_there_are_enough():
    points = np.concatenate([square(0), square(60, seed=1), scattered(3)])
    for count in (30, 50, 52, 53):
        labels = found(points, count).labels
        assert np.bincount(labels[labels >= 0], minlength=count).min() == 1
        assert (labels[50:] >= 0).all() == (count > 50), "noise comes last"
    equal = found(np.zeros((12, 2)), 5, size=3)
    assert np.bincount(equal.labels, minlength=5).min() >= 1


def test_columns_are_standardised_before_they_are_embedded():
    rows = np.random.default_rng(3).normal(size=(40, 6))
    options = {"n_components": 3, "n_neighbors": 8, "seed": 1}
    embedded = umap_embedding(rows, **options)
    assert embedded.shape == (40, 3) and embedded.dtype == np.float32
    assert np.array_equal(umap_embedding(rows * 2.0 ** np.arange(-9, 9, 3), **options), embedded)
    constant = np.concatenate([rows, np.full((40, 1), 0.1)], 1)
    assert np.array_equal(umap_embedding(constant, **options), embedded)
    assert not np.array_equal(umap_embedding(rows, **options | {"seed": 2}), embedded)
    few = rows[:3]
    assert np.allclose(umap_embedding(few, **options), (few - few.mean(0)) / few.std(0), atol=1e-6)


def test_groups_of_a_high_dimension_are_found_through_the_embedding():
    draw = np.random.default_rng(4)
    centers, sizes = draw.normal(size=(3, 64)), (50, 30, 40)
    rows = np.repeat(centers, sizes, 0) + 0.2 * draw.normal(size=(120, 64))
    result = density_clusters(rows.astype(np.float32), 3, n_components=5, n_neighbors=15, min_cluster_size=15)
    assert np.bincount(result.labels).tolist() == [50, 40, 30]
    assert [[0, 80, 50][number] <= row < [50, 120, 80][number] for number, row in enumerate(result.indices)]


def test_it_is_the_same_each_time_and_leaves_global_seeds_alone():
    rows = np.random.default_rng(5).normal(size=(60, 16)).astype(np.float32)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    one = density_clusters(rows, 6, min_cluster_size=5, n_neighbors=10)
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(2)
    again = density_clusters(rows, 6, min_cluster_size=5, n_neighbors=10)
    assert np.array_equal(one.indices, again.indices) and np.array_equal(one.labels, again.labels)
    other = density_clusters(rows, 6, min_cluster_size=5, n_neighbors=10, seed=1)
    assert not np.array_equal(one.labels, other.labels)


def test_torch_keeps_its_threads():
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            umap_embedding(np.random.default_rng(7).normal(size=(20, 5)), n_components=2, n_neighbors=5, seed=0)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("images", "count"), [(1, 1), (2, 1), (2, 2), (3, 2), (4, 4), (5, 2), (5, 5), (9, 3)])
def test_few_rows_are_enough(images, count):
    rows = np.random.default_rng(6).normal(size=(images, 12)).astype(np.float32)
    result = density_clusters(rows, count)
    assert len(set(result.indices.tolist())) == count and (result.labels >= 0).all()
    with pytest.raises(OptionError, match=f"{images + 1}"):
        density_clusters(rows, images + 1)
