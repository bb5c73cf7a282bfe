"""The seeded random choice of real images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dap.data.source import Source
from dap.errors import SourceError
from dap.selection import permutation, random_per_class

LABELS = np.array([2, 0, 1, 0, 2, 0, 1, 0, 0, 1])


@pytest.fixture
def source() -> Source:
    names = ("shoe", "bag", "hat")
    return Source("fake", names, names, LABELS.copy(), [str(i) for i in range(10)], lambda i: Image.new("L", (8, 8)))


def test_permutation_depends_on_its_arguments_alone() -> None:
    before = torch.get_rng_state()
    order = permutation(50, 0, "Dress")
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(50))
    np.testing.assert_array_equal(permutation(50, 0, "Dress"), order)
    assert permutation(50, 1, "Dress").tolist() != order.tolist()
    assert permutation(50, 0, "Coat").tolist() != order.tolist()
    assert torch.equal(torch.get_rng_state(), before)


def test_permutation_is_uniform() -> None:
    firsts = np.bincount([permutation(5, seed, "x")[0] for seed in range(2000)], minlength=5)
    np.testing.assert_allclose(firsts / 2000, 0.2, atol=0.04)


def test_choice_within_classes(source: Source) -> None:
    chosen = random_per_class(source, 2, seed=3)
    assert source.labels[chosen].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(chosen.tolist())) == 6
    expected = source.of_class(0)[permutation(5, 3, "shoe")[:2]]
    np.testing.assert_array_equal(chosen[:2], expected)


def test_a_larger_choice_begins_with_the_smaller(source: Source) -> None:
    small, large = random_per_class(source, 1, seed=0), random_per_class(source, 2, seed=0)
    np.testing.assert_array_equal(large[::2], small)


def test_short_classes_give_all_they_have(source: Source) -> None:
    chosen = random_per_class(source, 4, seed=0)
    assert source.labels[chosen].tolist() == [0] * 4 + [1] * 3 + [2] * 2
    assert len(set(chosen.tolist())) == 9


def test_counts_by_name(source: Source) -> None:
    chosen = random_per_class(source, {"hat": 1, "shoe": 3}, seed=0)
    assert source.labels[chosen].tolist() == [2, 0, 0, 0]
    np.testing.assert_array_equal(chosen[1:], random_per_class(source, 3, seed=0)[:3])
    assert random_per_class(source, {}, seed=0).tolist() == []


def test_unknown_class(source: Source) -> None:
    with pytest.raises(SourceError, match="fake: no class 'sock'; it has shoe, bag, hat"):
        random_per_class(source, {"sock": 1}, seed=0)
