"""The selectors: each against its definition in float64, their errors, their weights, and what they refuse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dap import kernels as K
from dap.errors import OptionError
from dap.selection import SELECTORS, facility_location, herding, k_center, k_medoids, random, thinning


def draw(rows=200, columns=4, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, columns))


def distances(x, y):
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))


def gram(x, y, kernel):
    """k(x_i, y_j) by its formula."""
    if isinstance(kernel, K.Distance):
        return np.linalg.norm(x, axis=1)[:, None] + np.linalg.norm(y, axis=1) - distances(x, y)
    return np.exp(-(distances(x, y) ** 2) / (2 * kernel.bandwidth**2))


def mmd(x, points, weights, kernel):
    within, between = gram(points, points, kernel), gram(points, x, kernel).mean(1)
    return np.sqrt(max(gram(x, x, kernel).mean() + weights @ within @ weights - 2 * weights @ between, 0))


@pytest.mark.parametrize("kernel", [K.Distance(), K.RBF(bandwidth=1.5)], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("select", SELECTORS.values(), ids=lambda select: select.__name__)
def test_a_selection_says_its_error(select, kernel):
    x = draw() + 1.0
    found = select(x, 9, kernel=kernel, seed=3)
    assert (found.indices.shape, found.indices.dtype) == ((9,), np.int64)
    assert len(set(found.indices.tolist())) == 9
    weights = np.full(9, 1 / 9) if found.weights is None else found.weights
    points = x[found.indices] if found.points is None else found.points
    assert found.error == pytest.approx(mmd(x, points, weights, kernel), rel=1e-5)
    assert found.kernel == kernel
    again = select(torch.from_numpy(x), 9, kernel=kernel, seed=3)
    np.testing.assert_array_equal(again.indices, found.indices)
    assert again.error == found.error


@pytest.mark.parametrize("select", [random, herding, k_center, facility_location], ids=lambda select: select.__name__)
def test_a_larger_choice_begins_with_the_smaller(select):
    x = draw()
    np.testing.assert_array_equal(select(x, 17, seed=1).indices[:5], select(x, 5, seed=1).indices)


@pytest.mark.parametrize("select", [random, thinning, k_center, k_medoids], ids=lambda select: select.__name__)
def test_seeds(select):
    x = draw()
    assert select(x, 9, seed=1).indices.tolist() != select(x, 9, seed=2).indices.tolist()


@pytest.mark.parametrize("kernel", [K.Distance(), K.RBF(bandwidth=2.0)], ids=lambda kernel: kernel.name)
def test_herding_is_greedy_in_the_discrepancy(kernel):
    x = draw(80)
    chosen: list[int] = []
    for _ in range(10):
        free = [row for row in range(len(x)) if row not in chosen]
        n = len(chosen) + 1
        errors = [mmd(x, x[[*chosen, row]], np.full(n, 1 / n), kernel) for row in free]
        chosen.append(free[int(np.argmin(errors))])
    assert herding(x, 10, kernel=kernel).indices.tolist() == chosen


def test_herding_beats_random_by_far():
    x = draw(1000)
    ours = herding(x, 32).error
    assert ours < 0.6 * np.mean([random(x, 32, seed=seed).error for seed in range(5)])


def test_weights_are_the_best_on_the_simplex():
    x = draw(150)
    kernel = K.RBF(bandwidth=1.0)
    equal, weighted = herding(x, 12, kernel=kernel), herding(x, 12, kernel=kernel, weighted=True)
    np.testing.assert_array_equal(equal.indices, weighted.indices)
    w = weighted.weights
    assert (w >= 0).all() and w.sum() == pytest.approx(1.0) and weighted.error < equal.error
    chosen = x[weighted.indices]
    slope = gram(chosen, chosen, kernel) @ w - gram(chosen, x, kernel).mean(1)
    assert (slope >= slope @ w - 1e-9).all()  # no way to move weight lowers the error: Karush, Kuhn and Tucker
    free = herding(x, 12, kernel=kernel, weighted=True, simplex=False)
    residual = gram(chosen, chosen, kernel) @ free.weights - gram(chosen, x, kernel).mean(1)
    np.testing.assert_allclose(residual, 0, atol=1e-9)
    assert free.error < weighted.error


def test_weights_may_be_zero():
    """Two of three chosen rows stand for all; the third, far away and chosen because all are, gets nothing."""
    from dap.selection.base import Embedding
    from dap.selection.herding import embedding_weights

    x = np.array([[0.0], [0.0], [0.0], [1.0], [50.0]])
    embedding = Embedding.of(x[:4], K.RBF(bandwidth=1.0))
    whole = Embedding(x, embedding.kernel, K.row_means(x, x[:4], embedding.kernel))
    weights = embedding_weights(whole, np.array([0, 3, 4]))
    np.testing.assert_allclose(weights, [0.75, 0.25, 0.0], atol=1e-9)


def test_thinning_beats_random():
    x = draw(1024, 2)
    thinned = [thinning(x, 16, kernel="rbf", seed=seed).error for seed in range(4)]
    drawn = [random(x, 16, kernel="rbf", seed=seed).error for seed in range(4)]
    assert np.mean(thinned) < 0.3 * np.mean(drawn)


def test_halves_keep_one_of_each_pair_and_the_mean_embedding():
    from dap.selection.thinning import _halve

    kernel = K.RBF(bandwidth=1.5)
    x = draw(1200, 2)
    errors = []
    for seed in range(3):
        kept = _halve(x, np.ones(1200), kernel, np.random.default_rng(seed))
        np.testing.assert_array_equal(kept // 2, np.arange(600))
        errors.append(mmd(x, x[kept], np.full(600, 1 / 600), kernel))
    drawn = [mmd(x, x[random(x, 600, seed=seed).indices], np.full(600, 1 / 600), kernel) for seed in range(3)]
    assert np.mean(errors) < 0.5 * np.mean(drawn)


def test_no_single_swap_helps_the_last_row():
    x, kernel = draw(60), K.Distance()
    chosen = thinning(x, 7, seed=1).indices
    weights = np.full(7, 1 / 7)
    free = [row for row in range(60) if row not in chosen]
    error = mmd(x, x[chosen], weights, kernel)
    assert all(mmd(x, x[[*chosen[:-1], row]], weights, kernel) >= error - 1e-12 for row in free)


def test_k_center_is_within_twice_the_best():
    for seed in range(5):
        x = draw(12, 2, seed)
        apart = distances(x, x)
        best = min(apart[list(some)].min(0).max() for some in itertools.combinations(range(12), 3))
        assert apart[k_center(x, 3, seed=seed).indices].min(0).max() <= 2 * best


def test_facility_location_is_plain_greedy_and_near_the_best():
    kernel = K.RBF(bandwidth=0.7)
    for seed in range(4):
        x = draw(14, 2, seed)
        values = gram(x, x, kernel)
        chosen: list[int] = []
        for _ in range(4):
            gains = [values[:, [*chosen, row]].max(1).sum() for row in range(14)]
            chosen.append(int(np.argmax(gains)))
        found = facility_location(x, 4, kernel=kernel).indices.tolist()
        assert found == chosen
        best = max(values[:, list(some)].max(1).sum() for some in itertools.combinations(range(14), 4))
        assert values[:, found].max(1).sum() >= (1 - 1 / np.e) * best


@pytest.mark.parametrize("select", SELECTORS.values(), ids=lambda select: select.__name__)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int64"])
def test_every_type_and_all_rows(select, dtype):
    x = torch.from_numpy(draw(20, 3) * 4).to(getattr(torch, dtype))
    found = select(x, 20)
    assert sorted(found.indices.tolist()) == list(range(20))
    if found.points is None:
        assert found.error < 1e-2


@pytest.mark.parametrize("select", SELECTORS.values(), ids=lambda select: select.__name__)
def test_refusals(select):
    for features, count, message in [
        (draw(5), 6, "count: expected a whole number from 1 to 5, got 6"),
        (draw(5), 0, "got 0"),
        (draw(5), True, "got True"),
        (np.full((3, 2), np.inf), 2, "features must be finite"),
        (np.zeros(3), 2, "features must have 2 dimensions"),
        ([[1.0]], 1, "features must be a numpy array or a torch tensor"),
    ]:
        with pytest.raises(OptionError, match=message):
            select(features, count)
    with pytest.raises(OptionError, match="unknown kernel 'gauss'"):
        select(draw(5), 2, kernel="gauss")
    with pytest.raises(OptionError, match="kernel: expected a name, a kernel or"):
        select(draw(5), 2, kernel=3)


def test_facility_location_refuses_signed_kernels():
    for kernel in ("linear", "cosine", K.Sum([K.RBF(), K.Polynomial()])):
        with pytest.raises(OptionError, match="never negative"):
            facility_location(draw(5), 2, kernel=kernel)
