"""What becomes of a block's tokens: their mean, all of them, a grid of means, a sketch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dap import rng
from dap.errors import OptionError
from dap.features import Tap, pooling


def test_pooling():
    tokens = torch.arange(12.0, dtype=torch.bfloat16).reshape(2, 3, 2)
    assert Tap(1).pool(tokens).tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert Tap(1, "flat").pool(tokens).tolist() == [[*map(float, range(6))], [*map(float, range(6, 12))]]
    assert Tap(1).pool(tokens).dtype == torch.float32
    with pytest.raises(OptionError, match="unknown pooling 'maen'; did you mean 'mean'"):
        Tap(1, "maen")


def test_grid_is_the_mean_of_each_cell():
    tokens = torch.randn((2, 36, 3), generator=torch.Generator().manual_seed(0))
    ours = Tap(1, "grid3").pool(tokens)
    expected = []
    for picture in tokens.double().reshape(2, 6, 6, 3):
        cells = [picture[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum((0, 1)) / 4 for i in range(3) for j in range(3)]
        expected.append(torch.cat(cells))
    torch.testing.assert_close(ours.double(), torch.stack(expected))
    torch.testing.assert_close(Tap(1, "grid1").pool(tokens), Tap(1, "mean").pool(tokens))
    assert torch.equal(Tap(1, "grid6").pool(tokens), Tap(1, "flat").pool(tokens))
    with pytest.raises(OptionError, match="35 in no square"):
        Tap(1, "grid1").pool(tokens[:, :35])


@pytest.mark.parametrize(("count", "size"), [(30, 7), (64, 16), (64, 63)])
def test_sketch_has_one_sign_of_each_coordinate_in_buckets_of_one_size(count, size):
    matrix = Tap(1, f"sketch{size}").pool(torch.eye(count).reshape(count, 1, count))
    assert torch.equal(matrix.abs().sum(1), torch.ones(count))
    assert torch.equal((matrix != 0).sum(1), torch.ones(count, dtype=torch.long))
    filled = (matrix != 0).sum(0)
    assert filled.max() - filled.min() <= 1
    assert {-1.0, 1.0} <= set(matrix.unique().tolist())


@pytest.mark.parametrize("size", [12, 13, 1024])
def test_tokens_of_no_more_numbers_than_a_sketch_are_kept_as_they_are(size):
    tokens = torch.randn((2, 3, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(Tap(1, f"sketch{size}").pool(tokens), tokens.flatten(1))


def test_sketch_keeps_inner_products(monkeypatch):
    """Over other signs its mean is the inner product, and its variance at most 2 ‖x‖² ‖y‖² / K."""
    x, y = torch.randn((2, 1, 1, 300), generator=torch.Generator().manual_seed(3)) + 0.3
    found = []
    for seed in range(400):
        pooling._buckets.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(rng, "generator", lambda *parts, seed=seed: torch.Generator().manual_seed(seed))
            found.append(float((Tap(1, "sketch20").pool(x) * Tap(1, "sketch20").pool(y)).sum()))
    pooling._buckets.cache_clear()
    exact, bound = float((x * y).sum()), float(2 * (x * x).sum() * (y * y).sum() / 20)
    assert abs(np.mean(found) - exact) < 4 * (bound / 400) ** 0.5
    assert 0.1 * bound < np.var(found) < bound
    assert abs(np.mean(found) - exact) < 0.25 * abs(exact)


def test_sketch_is_the_same_in_every_run_and_can_be_differentiated():
    tokens = torch.randn((3, 4, 5), generator=torch.Generator().manual_seed(0), requires_grad=True)
    tap = Tap(1, "sketch6")
    first = tap.pool(tokens)
    pooling._buckets.cache_clear()
    assert torch.equal(tap.pool(tokens), first)
    (gradient,) = torch.autograd.grad((first**2).sum(), tokens)
    assert gradient.abs().min() > 0
