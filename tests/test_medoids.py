"""Medoids among candidates: against a slow PAM, its edges, and what it promises of its result."""

from __future__ import annotations

import itertools

import numpy as np
import oracles
import pytest
import torch

from dap.errors import OptionError
from dap.selection import medoids_towards


def rows(n, d, seed):
    return np.random.default_rng(seed).standard_normal((n, d))


def cost(candidates, targets, chosen):
    return ((targets[:, None] - candidates[list(chosen)][None]) ** 2).sum(2).min(1).mean()


@pytest.mark.parametrize(("n", "targets", "d", "count"), [(1, 1, 1, 1), (9, 1, 2, 3), (12, 40, 3, 4), (7, 30, 1, 7)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_it_is_the_slow_pam(n, targets, d, count, weighted, dtype):
    x, y = rows(n, d, 0).astype(dtype), rows(targets, d, 1).astype(dtype)
    weights = np.random.default_rng(2).dirichlet(np.ones(targets)) if weighted else None
    found = medoids_towards(x, y, count, weights=weights)
    assert found.dtype == np.int64
    assert found.tolist() == oracles.slow_medoids(x.astype(float), y.astype(float), count, weights)
    assert medoids_towards(torch.from_numpy(x), torch.from_numpy(y), count, weights=weights).tolist() == found.tolist()


def test_no_exchange_helps_and_it_is_mostly_the_best():
    excess = []
    for seed in range(20):
        x, y = rows(10, 2, seed), rows(50, 2, 100 + seed)
        found = medoids_towards(x, y, 3)
        reached = cost(x, y, found)
        for place, other in itertools.product(range(3), set(range(10)) - set(found.tolist())):
            exchanged = [*found[:place], other, *found[place + 1 :]]
            assert cost(x, y, exchanged) >= reached * (1 - 1e-9)
        excess.append(reached / min(cost(x, y, each) for each in itertools.combinations(range(10), 3)) - 1)
    assert np.median(excess) < 1e-9


def test_exchanges_mend_the_greedy_start():
    """The first choice stands in the middle of two clusters, where no medoid is wanted."""
    x, y = np.array([[0.0], [-5.0], [5.0]]), np.array([[-5.0], [-5.1], [5.0], [5.1]])
    assert sorted(medoids_towards(x, y, 2).tolist()) == [1, 2]


@pytest.mark.parametrize("seed", range(8))
def test_of_equally_good_candidates_the_first_is_taken(seed):
    """One candidate is nearest to every target, so all others cost the same but for the rounding of their sums."""
    x, y = rows(29, 5, seed), rows(7, 5, 100 + seed) * 0.1
    x[17] = 0
    weights = np.random.default_rng(seed).dirichlet(np.ones(7))
    x[:17] += 20 * np.sign(x[:17])
    x[18:] += 20 * np.sign(x[18:])
    assert medoids_towards(x, y, 4, weights=weights).tolist() == [17, 0, 1, 2]


def test_equal_candidates_and_distances_that_round_to_zero():
    x = np.full((6, 3), 1e3, np.float32)
    assert medoids_towards(x, x[:2], 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("x", "y", "count", "message"),
    [
        (rows(3, 2, 0), rows(4, 2, 0), 4, "count: expected a whole number from 1 to 3, got 4"),
        (rows(3, 2, 0), rows(4, 3, 0), 1, "candidates have 2 columns and targets 3"),
        (rows(3, 2, 0) * np.nan, rows(4, 2, 0), 1, "finite"),
        (rows(3, 2, 0), rows(0, 2, 0), 1, "count: expected"),
    ],
)
def test_bad_input(x, y, count, message):
    with pytest.raises(OptionError, match=message):
        medoids_towards(x, y, count)
