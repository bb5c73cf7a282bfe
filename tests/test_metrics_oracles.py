"""Metrics of features against torch-fidelity and prdc with the same features, and against definitions in float64."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from scipy import linalg, stats
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from dap import metrics
from dap.errors import OptionError
from dap.metrics.frechet import Gaussian, frechet_distance

Pair = tuple[np.ndarray, np.ndarray]


def pair(n: int, m: int, d: int, shift: float = 0.3, seed: int = 0) -> Pair:
    draw = np.random.default_rng(seed)
    mix = draw.normal(0, 1, (d, d)) / d**0.5
    return (draw.normal(shift, 1, (n, d)) @ mix).astype(np.float32), draw.normal(0, 1.3, (m, d)).astype(np.float32)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 400, 16), (20, 200, 64), (20, 30, 64), (5, 4, 1), (64, 64, 64)])
def test_fid_is_that_of_torch_fidelity(n: int, m: int, d: int) -> None:
    own, real = pair(n, m, d)
    double = [fid_features_to_statistics(torch.from_numpy(rows.astype(np.float64))) for rows in (own, real)]
    double = [{"mu": each["mu"], "sigma": np.atleast_2d(each["sigma"])} for each in double]
    expected = fid_statistics_to_metric(*double, verbose=False)["frechet_inception_distance"]
    assert metrics.fid(own, real) == pytest.approx(expected, rel=1e-5)


def test_fid_is_the_definition_with_scipys_matrix_root() -> None:
    own, real = (rows.astype(np.float64) for rows in pair(100, 120, 8))
    first, second = np.cov(own.T), np.cov(real.T)
    expected = ((own.mean(0) - real.mean(0)) ** 2).sum() + np.trace(first + second - 2 * linalg.sqrtm(first @ second))
    assert metrics.fid(own, real) == pytest.approx(expected, rel=1e-10)


def test_fid_of_few_images_is_exact_where_covariances_are_singular() -> None:
    """Two images a side on orthogonal lines: the covariances share no direction, so the last trace is zero."""
    own, real = np.zeros((2, 2048)), np.zeros((2, 2048))
    own[0, 0], real[0, 1] = 2, 4
    assert metrics.fid(own, real) == pytest.approx((1 + 4) + 2 + 8, rel=1e-12)
    assert metrics.fid(own, own) == pytest.approx(0, abs=1e-12)


def test_fid_reads_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    own, real = pair(50, 70, 6)
    whole = metrics.fid(own, real)
    monkeypatch.setattr("dap.metrics.rows._BLOCK", 40)
    assert metrics.fid(own, real) == pytest.approx(whole, rel=1e-12)
    assert frechet_distance(Gaussian.of(own), Gaussian.of(real)) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "size"), [(60, 90, 40), (50, 50, 50)])
def test_kid_is_that_of_torch_fidelity_with_its_subsets(n: int, m: int, size: int) -> None:
    own, real = pair(n, m, 24)
    found = metrics.kid(own, real, subsets=10, subset_size=size, seed=7)
    expected = kid_features_to_metric(
        *(torch.from_numpy(rows.astype(np.float64)) for rows in (own, real)),
        kid_subsets=10, kid_subset_size=size, rng_seed=7, verbose=False,
    )  # fmt: skip
    assert found.mean == pytest.approx(expected["kernel_inception_distance_mean"], rel=1e-6)
    assert found.std == pytest.approx(expected["kernel_inception_distance_std"], rel=1e-4, abs=1e-12)


def by_package(own: np.ndarray, real: np.ndarray, k: int) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):
        found: dict[str, float] = compute_prdc(real, own, k)
    return found


@pytest.mark.parametrize(("n", "m", "d", "k"), [(40, 200, 8, 5), (30, 50, 3, 3), (60, 20, 2, 1), (9, 9, 1, 2)])
@pytest.mark.parametrize("kind", ["continuous", "whole numbers", "chosen real images"])
def test_prdc_is_that_of_the_package(n: int, m: int, d: int, k: int, kind: str) -> None:
    own, real = pair(n, m, d, seed=k)
    if kind != "continuous":  # equal rows and points on the surface of balls; the package's distances are exact here
        own, real = np.rint(own * 2), np.rint(real * 2)
    if kind == "chosen real images":
        own = real[np.random.default_rng(d).choice(m, min(n, m), replace=False)]
    found = metrics.prdc(own, real, k)
    assert {name: getattr(found, name) for name in ("precision", "recall", "density", "coverage")} == pytest.approx(
        by_package(own, real, k), rel=1e-12
    )


def test_prdc_counts_by_loops_where_distances_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the origin and in small blocks; a distilled image that is a real one lies on surfaces of balls."""
    monkeypatch.setattr("dap.metrics.rows._BLOCK", 5000)
    real = (1000 + np.random.default_rng(0).normal(0, 1, (30, 4))).astype(np.float32).astype(np.float64)
    own = np.concatenate([real[:10], real[10:15] + 0.1])
    distance = lambda a, b: ((a - b) ** 2).sum()  # noqa: E731
    radii = [sorted(distance(y, z) for z in real)[3] for y in real]
    own_radii = [sorted(distance(x, z) for z in own)[3] for x in own]
    found = metrics.prdc(own, real, 3)
    assert found.balls.tolist() == [sum(distance(x, y) < r for y, r in zip(real, radii, strict=True)) for x in own]
    assert found.recalled.tolist() == [
        any(distance(x, y) < r for x, r in zip(own, own_radii, strict=True)) for y in real
    ]
    assert found.covered.tolist() == [any(distance(x, y) < r for x in own) for y, r in zip(real, radii, strict=True)]
    assert metrics.coverage(own, real, 3) > found.coverage  # its balls are closed


@pytest.mark.parametrize(("n", "d"), [(20, 50), (50, 20), (1, 3), (7, 1)])
def test_vendi_score_is_its_definition(n: int, d: int) -> None:
    rows, _ = pair(n, 2, d)
    double = rows.astype(np.float64)
    cosines = double @ double.T / np.outer(*[np.linalg.norm(double, axis=1)] * 2)
    values = np.clip(linalg.eigvalsh(cosines / n), 0, None)
    assert metrics.vendi_score(rows) == pytest.approx(np.exp(stats.entropy(values)), rel=1e-6)


def test_vendi_score_of_constant_and_of_different_features() -> None:
    assert metrics.vendi_score(np.ones((9, 4))) == pytest.approx(1)
    assert metrics.vendi_score(np.zeros((9, 4))) == pytest.approx(1)
    assert metrics.vendi_score(np.eye(6)) == pytest.approx(6)


def test_nearest_real_by_loops() -> None:
    own, real = pair(12, 25, 3)
    own[0] = real[4]
    found = metrics.nearest_real(own, real)
    table = np.linalg.norm(own[:, None].astype(np.float64) - real, axis=2)
    between = np.linalg.norm(real[:, None].astype(np.float64) - real, axis=2) + np.diag(np.full(25, np.inf))
    np.testing.assert_array_equal(found.indices, table.argmin(1))
    np.testing.assert_allclose(found.distances, table.min(1), rtol=1e-6)
    np.testing.assert_allclose(found.between_real, between.min(1)[table.argmin(1)], rtol=1e-6)
    assert found.distances[0] == 0.0
    assert found.authenticity == np.mean(table.min(1) >= between.min(1)[table.argmin(1)])


def test_nearest_real_with_ties_and_copies() -> None:
    real = np.array([[0.0], [0.0], [4.0]])
    found = metrics.nearest_real(np.array([[0.0], [2.0]]), real)
    assert found.indices.tolist() == [0, 0]
    assert found.authentic.tolist() == [False, True]  # a copy of one of two equal images is a copy
    assert np.isnan(metrics.nearest_real(real, real[:1]).authenticity)


def test_published_metrics_by_loops() -> None:
    own, real = (rows.astype(np.float64) for rows in pair(6, 60, 5))
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    cross, within = unit(own) @ unit(real).T, unit(own) @ unit(own).T - 9 * np.eye(6)
    far = np.linalg.norm(own[:, None] - real, axis=2)
    apart = np.linalg.norm(own[:, None] - own, axis=2) + np.diag(np.full(6, np.inf))
    expected = {
        metrics.minimax_representativeness(own, real): cross.min(1).mean(),
        metrics.minimax_diversity(own): within.max(1).mean(),
        metrics.manifold_gd_representativeness(own, real): cross.max(1).min(),
        metrics.manifold_gd_diversity(own): 1 - within.max(),
        metrics.mgd3_representativeness(own, real): np.sort(far, 1)[:, :50].mean(),
        metrics.mgd3_diversity(own): apart.min(1).mean(),
    }
    assert list(expected) == pytest.approx(list(expected.values()), rel=1e-9)
    assert metrics.manifold_gd_diversity(np.ones((3, 2))) == pytest.approx(0)


@pytest.mark.parametrize(
    "measure",
    [metrics.fid, lambda x, y: metrics.kid(x, y, subsets=3).mean, lambda x, y: metrics.prdc(x, y, 3).density,
     lambda x, y: metrics.vendi_score(x), lambda x, y: metrics.nearest_real(x, y).distances.mean(),
     metrics.mgd3_representativeness, metrics.manifold_gd_representativeness],
)  # fmt: skip
@pytest.mark.parametrize("convert", [lambda rows: rows.astype(np.float16), torch.from_numpy])
def test_other_types(measure: Callable[..., float], convert: Callable[[np.ndarray], np.ndarray]) -> None:
    own, real = (rows.astype(np.float16).astype(np.float32) for rows in pair(30, 60, 4))
    assert measure(convert(own), convert(real)) == pytest.approx(measure(own, real), rel=1e-3)


def test_features_that_are_refused() -> None:
    none, one, many = np.zeros((0, 2)), np.zeros((1, 2)), np.zeros((9, 2))
    for call, message in (
        (lambda: metrics.fid(one, many), "features: expected at least 2 images, got 1"),
        (lambda: metrics.fid(many, one), "real: expected at least 2 images, got 1"),
        (lambda: metrics.kid(many, many, subset_size=10), "at most 9"),
        (lambda: metrics.prdc(many[:3], many, 5), "got 5 for 3 distilled and 9 real"),
        (lambda: metrics.vendi_score(none), "at least 1 image, got 0"),
        (lambda: metrics.nearest_real(many, none), "real: expected at least 1 image"),
        (lambda: metrics.mgd3_representativeness(one, many), "number of real images, 9, got 50"),
        (lambda: metrics.fid(many, np.zeros((9, 3))), "same number of features, got 2 and 3"),
        (lambda: metrics.fid(many, np.full((9, 2), np.nan)), "must be finite"),
        (lambda: metrics.vendi_score(np.zeros((3, 0))), "at least one feature"),
    ):
        with pytest.raises(OptionError, match=message):
            call()


def test_bootstrap_covers_the_mean_of_the_population() -> None:
    draws = np.random.default_rng(0).normal(5, 2, (200, 50))
    intervals = [metrics.bootstrap(values, repeats=200, seed=number) for number, values in enumerate(draws)]
    assert 0.88 < np.mean([low < 5 < high for low, high in intervals]) < 0.99
    expected = stats.bootstrap((draws[0],), np.mean, method="percentile", rng=0).confidence_interval
    assert metrics.bootstrap(draws[0], repeats=9999) == pytest.approx(tuple(expected), abs=0.03)


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(5, 2, 30)
    low, high = metrics.jackknife(lambda kept: float(values[kept].mean()), 30, groups=30)
    assert (high - low) / 2 == pytest.approx(1.96 * stats.sem(values), rel=1e-4)
