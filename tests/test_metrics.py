"""Representativeness, diversity and coverage, against loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dap.errors import OptionError
from dap.metrics import coverage, diversity, representativeness


@pytest.fixture
def features() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.normal(3, 1, (7, 12)).astype(np.float32), draw.normal(2, 2, (19, 12)).astype(np.float32)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))


def test_representativeness_is_the_mean_over_all_pairs(features: tuple[np.ndarray, np.ndarray]) -> None:
    own, real = features
    expected = np.mean([distance(a, b) for a in own for b in real])
    assert representativeness(own, real) == pytest.approx(expected, rel=1e-5)


def test_diversity_is_the_mean_over_different_pairs(features: tuple[np.ndarray, np.ndarray]) -> None:
    own, _ = features
    expected = np.mean([distance(a, b) for i, a in enumerate(own) for j, b in enumerate(own) if i != j])
    assert diversity(own) == pytest.approx(expected, rel=1e-5)


def test_duplicates_have_no_diversity() -> None:
    """Far from the origin k(a,a) + k(b,b) − 2 k(a,b) cancels; the distance of equal features must stay nothing."""
    one = np.random.default_rng(1).normal(100, 1, (1, 64)).astype(np.float32)
    assert diversity(np.repeat(one, 5, axis=0)) == pytest.approx(0.0, abs=1e-3)


def test_the_median_image_is_more_representative_than_an_outlier(features: tuple[np.ndarray, np.ndarray]) -> None:
    _, real = features
    assert representativeness(real.mean(0, keepdims=True), real) < representativeness(real[:1] + 5, real)


def test_other_kernels(features: tuple[np.ndarray, np.ndarray]) -> None:
    from dap.kernels import RBF

    own, real = features
    kernel = RBF(bandwidth=4.0)
    expected = np.mean([math.sqrt(2 - 2 * math.exp(-(distance(a, b) ** 2) / (2 * 4.0**2))) for a in own for b in real])
    assert representativeness(own, real, kernel) == pytest.approx(expected, rel=1e-5)


def test_one_and_none() -> None:
    one, none = np.ones((1, 3), np.float32), np.ones((0, 3), np.float32)
    assert diversity(one) == 0.0
    for call in (lambda: diversity(none), lambda: representativeness(none, one), lambda: representativeness(one, none)):
        with pytest.raises(OptionError, match="expected"):
            call()


def coverage_by_loops(own: np.ndarray, real: np.ndarray, k: int) -> float:
    """Naeem et al. 2020, equation 5."""
    covered = 0
    for j, each in enumerate(real):
        radius = sorted(distance(each, other) for i, other in enumerate(real) if i != j)[k - 1]
        covered += any(distance(each, x) <= radius for x in own)
    return covered / len(real)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("near", [False, True])
def test_coverage_counts_real_images_with_a_distilled_neighbour(features, k: int, near: bool) -> None:
    _, real = features
    own = real[:7] + (0.3 if near else 100.0)
    expected = coverage_by_loops(own, real, k)
    assert coverage(own, real, k) == pytest.approx(expected)
    assert (expected > 0) == near


def test_coverage_refuses_too_few() -> None:
    with pytest.raises(OptionError, match="more than 5 real ones, got 1, 5"):
        coverage(np.zeros((1, 2), np.float32), np.zeros((5, 2), np.float32))
