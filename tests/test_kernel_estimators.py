"""MMD², its variance and test, the energy distance and the witness: by their definitions, and by what they estimate."""

from __future__ import annotations

import dataclasses
import itertools

import kernel_oracle as oracle
import numpy as np
import pytest
import scipy.stats
import torch

from dap import kernels as K
from dap.errors import OptionError
from dap.kernels import backend_rust, permutation

BACKENDS = ["numpy", "torch", "rust"]
KERNELS = [K.Linear(), K.Cosine(), K.Polynomial(), K.RBF("median"), K.RBF([1.0, 4.0]), K.Laplacian(4.0), K.Distance()]

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=str)


def draw(n, m, d=3, seed=0, shift=0.5):
    random = np.random.default_rng(seed)
    return random.standard_normal((n, d)), random.standard_normal((m, d)) + shift


def grams(x, y, kernel):
    """K_xx, K_yy and K_xy, with bandwidths from the pooled rows."""
    spec = dataclasses.asdict(kernel.resolve(np.concatenate([x, y])))
    return oracle.gram(x, x, spec), oracle.gram(y, y, spec), oracle.gram(x, y, spec)


def mean_of_different(matrix):
    n = len(matrix)
    return sum(matrix[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))


def mmd2_of(x, y, kernel, unbiased):
    xx, yy, xy = grams(x, y, kernel)
    within = mean_of_different(xx) + mean_of_different(yy) if unbiased else xx.mean() + yy.mean()
    return within - 2 * xy.mean()


@each_backend
@each_kernel
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize(("n", "m"), [(2, 2), (17, 9), (1, 5), (8, 31)])
def test_mmd2_follows_the_definition(n, m, unbiased, kernel, backend):
    x, y = draw(n, m)
    if unbiased and n == 1:
        with pytest.raises(OptionError, match="x must have at least 2 rows for this estimate, got 1"):
            K.mmd2(x, y, kernel, backend)
        return
    found = K.mmd2(x, y, kernel, backend, unbiased=unbiased)
    assert type(found) is float
    assert found == pytest.approx(mmd2_of(x, y, kernel, unbiased), rel=1e-10, abs=1e-12)


def test_long_diagonals_are_taken_in_parts(monkeypatch):
    x, y = draw(17, 9)
    expected = K.mmd2(x, y, "linear", "numpy")
    monkeypatch.setattr(backend_rust, "_DIAGONAL_ROWS", 4)
    assert K.mmd2(x, y, "linear", "rust") == pytest.approx(expected, rel=1e-10)


def test_the_defaults_are_the_unbiased_mmd2_of_the_median_rbf():
    x, y = draw(9, 14)
    assert K.mmd2(x, y) == K.mmd2(x, y, "rbf", unbiased=True) == pytest.approx(mmd2_of(x, y, K.RBF(), True), rel=1e-9)


@each_backend
def test_tensors_give_tensors_that_can_be_differentiated(backend):
    x, y = (torch.from_numpy(rows).float() for rows in draw(9, 14))
    expected = mmd2_of(x.double().numpy(), y.double().numpy(), K.RBF(), True)
    found = K.mmd2(x, y, "rbf", backend)
    assert found.shape == () and found.dtype == torch.float32 and float(found) == pytest.approx(expected, rel=1e-4)
    assert K.energy_distance(x.double(), y, backend).dtype == torch.float64
    pair = K.mmd2_variance(x, y[:9], "rbf", backend)
    assert [each.shape for each in pair] == [(), ()]
    assert K.witness(x, x, y, "rbf", backend).shape == (9,)


@pytest.mark.parametrize("unbiased", [True, False])
def test_gradients_match_finite_differences(unbiased):
    x, y = (torch.from_numpy(rows).requires_grad_() for rows in draw(4, 4))
    for kernel in (K.RBF(1.5), K.Polynomial(), K.Distance()):
        assert torch.autograd.gradcheck(lambda x, y, k=kernel: K.mmd2(x, y, k, unbiased=unbiased), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: K.energy_distance(x, y, unbiased=unbiased), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: K.mmd2_variance(x, y, K.RBF(1.5)), (x, y))
    assert torch.autograd.gradcheck(
        lambda z, x, y: K.witness(z, x, y, K.RBF(1.5)), (x[:2].detach().clone().requires_grad_(), x, y)
    )


def test_the_bandwidth_comes_from_both_samples():
    x, y = draw(5, 9, shift=7.0)
    pooled = K.RBF().resolve(np.concatenate([x, y])).bandwidth
    for backend in BACKENDS:
        assert K.permutation_test(x, y, backend=backend, permutations=1).kernel.bandwidth == pooled
        assert K.mmd2(x, y, "rbf", backend) == K.mmd2(x, y, K.RBF(pooled), backend)
        assert (K.witness(x, x, y, "rbf", backend) == K.witness(x, x, y, K.RBF(pooled), backend)).all()
    x, y = draw(700, 1600, d=1)  # more rows than the rule looks at
    tensors = torch.from_numpy(x).half(), torch.from_numpy(y).float()
    for first, second in ((x, y), tensors):
        whole = np.concatenate([np.asarray(first, np.float64), np.asarray(second, np.float64)])
        found = K.permutation_test(first, second, permutations=1).kernel
        assert found == K.RBF().resolve(whole)


def test_the_unbiased_mmd2_has_no_bias():
    # x ~ N(0, 1), y ~ N(1, 1), RBF: E k(x, x') = s, E k(x, y) = s exp(−1 / 2(σ² + 2)), with s = σ / √(σ² + 2)
    sigma = 1.3
    same = sigma / np.sqrt(sigma**2 + 2)
    exact = 2 * same - 2 * same * np.exp(-1 / (2 * (sigma**2 + 2)))
    random = np.random.default_rng(0)
    draws = [(random.standard_normal((3, 1)), random.standard_normal((4, 1)) + 1) for _ in range(3000)]
    for unbiased in (True, False):
        found = np.array([K.mmd2(x, y, K.RBF(sigma), unbiased=unbiased) for x, y in draws])
        error = abs(found.mean() - exact) / (found.std() / np.sqrt(len(found)))
        assert (error < 4) == unbiased
        assert (found.min() < 0) == unbiased  # the biased one is a squared norm


@each_backend
def test_the_energy_distance_is_scipys_square(backend):
    x, y = draw(23, 17, d=1)
    expected = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert K.energy_distance(x, y, backend) == pytest.approx(expected, rel=1e-9)


@each_backend
@pytest.mark.parametrize("unbiased", [True, False])
def test_the_energy_distance_follows_the_definition(unbiased, backend):
    x, y = draw(8, 13, d=5)
    xx, yy = oracle.euclidean(x, x), oracle.euclidean(y, y)
    within = mean_of_different(xx) + mean_of_different(yy) if unbiased else xx.mean() + yy.mean()
    expected = 2 * oracle.euclidean(x, y).mean() - within
    assert K.energy_distance(x, y, backend, unbiased=unbiased) == pytest.approx(expected, rel=1e-10)
    assert K.mmd2(x, y, "distance", backend, unbiased=unbiased) == pytest.approx(expected, rel=1e-9)
    # float32 far from the origin: distances depend on differences alone
    far = [(rows + 1e4).astype(np.float32) for rows in (x, y)]
    near = [rows.astype(np.float64) - 1e4 for rows in far]
    expected = K.energy_distance(*near, "numpy", unbiased=unbiased)
    assert K.energy_distance(*far, backend, unbiased=unbiased) == pytest.approx(expected, rel=1e-4)


def variance_of(x, y, kernel):
    """Sutherland et al. 2017, Appendix A, by sums over indices that differ where the expectation's variables do."""
    xx, yy, xy = grams(x, y, kernel)
    n = len(x)
    triples = list(itertools.permutations(range(n), 3))
    pairs = list(itertools.permutations(range(n), 2))
    zeta1 = zeta2 = 0.0
    for own, cross in ((xx, xy), (yy, xy.T)):
        mean, between = np.mean([own[i, j] for i, j in pairs]), cross.mean()
        zeta1 += np.mean([own[i, j] * own[i, q] for i, j, q in triples]) - mean**2
        zeta1 += np.mean([cross[i, j] * cross[i, q] for i in range(n) for j, q in pairs]) - between**2
        mixed = np.mean([own[i, j] * cross[i, q] for i, j in pairs for q in range(n)]) - mean * between
        zeta1 -= 2 * mixed
        zeta2 += np.mean([own[i, j] ** 2 for i, j in pairs]) - mean**2
        zeta2 += (cross**2).mean() - between**2 - 4 * mixed
    return 4 * (n - 2) / (n * (n - 1)) * zeta1 + 2 / (n * (n - 1)) * zeta2


@each_backend
@each_kernel
@pytest.mark.parametrize("n", [3, 8])
def test_the_variance_follows_its_expectations(n, kernel, backend):
    x, y = draw(n, n)
    estimate, variance = K.mmd2_variance(x, y, kernel, backend)
    assert estimate == pytest.approx(K.mmd2(x, y, kernel, "numpy"), rel=1e-9)
    assert variance == pytest.approx(variance_of(x, y, kernel), rel=1e-8)


def test_the_variance_is_that_of_many_draws():
    # Only where the distributions differ: for equal ones the squares of means take most of the estimate away.
    draws = np.random.default_rng(0).standard_normal((800, 2, 60, 2)) + np.array([0.0, 1.5])[:, None, None]
    found = np.array([K.mmd2_variance(x, y, K.RBF(1.5)) for x, y in draws])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].var(), rel=0.15)


def test_the_variance_needs_samples_of_one_size():
    x, y = draw(5, 6)
    with pytest.raises(OptionError, match="one size, got 5 and 6"):
        K.mmd2_variance(x, y)
    with pytest.raises(OptionError, match="at least 3 rows"):
        K.mmd2_variance(x[:2], y[:2])


@each_backend
def test_the_permutation_test_tries_permutations(backend, monkeypatch):
    x, y = draw(2, 3, shift=3.0)
    z = np.concatenate([x, y])
    splits = [(list(first), [i for i in range(5) if i not in first]) for first in itertools.combinations(range(5), 2)]
    kernel = K.RBF().resolve(z)
    values = [mmd2_of(z[first], z[second], kernel, True) for first, second in splits]
    exact = np.mean(np.array(values) >= values[0] - 1e-12)
    for dtype in (np.float64, np.float32):
        found = K.permutation_test(x.astype(dtype), y.astype(dtype), kernel, backend, permutations=4000)
        assert found.statistic == pytest.approx(values[0], rel=1e-5)
        assert found.p_value == pytest.approx(exact, abs=0.03)
        assert found.kernel == kernel
    with monkeypatch.context() as patch:  # the blocks of permutations
        patch.setattr(permutation, "_WEIGHTS", 5 * 700)
        assert K.permutation_test(x.astype(dtype), y.astype(dtype), kernel, backend, permutations=4000) == found
    tensors = [torch.from_numpy(rows.astype(np.float32)).requires_grad_() for rows in (x, y)]
    of_tensors = K.permutation_test(*tensors, kernel, backend, permutations=4000)
    assert of_tensors.p_value == found.p_value and type(of_tensors.statistic) is float


@each_backend
@pytest.mark.parametrize("seed", range(4))
def test_exchanged_samples_count_as_a_tie(seed, backend):
    x, y = draw(3, 3, seed=seed, shift=9.0)
    for dtype in (np.float64, np.float32):  # 2 of the 20 splits have the largest value, but for rounding
        found = K.permutation_test(x.astype(dtype), y.astype(dtype), backend=backend, permutations=2000)
        assert found.p_value == pytest.approx(0.1, abs=0.02)


def test_the_p_value_is_uniform_without_and_small_with_a_difference():
    p_values = [
        K.permutation_test(*draw(12, 9, seed=seed, shift=0), permutations=99, seed=seed).p_value for seed in range(300)
    ]
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert min(p_values) >= 0.01 and max(p_values) <= 1
    assert K.permutation_test(*draw(40, 30, shift=1), permutations=199).p_value == 1 / 200


def test_seeds_make_permutations():
    x, y = draw(15, 15, shift=0.2)
    assert K.permutation_test(x, y, seed=3) == K.permutation_test(x, y, seed=3)
    assert len({K.permutation_test(x, y, permutations=200, seed=seed).p_value for seed in range(5)}) > 1
    for permutations in (0, 1.5, True):
        with pytest.raises(OptionError, match="permutations: expected a whole number of at least 1"):
            K.permutation_test(x, y, permutations=permutations)


@each_backend
@each_kernel
def test_the_witness_follows_the_definition(kernel, backend):
    x, y = draw(7, 9)
    z = draw(6, 0, seed=1)[0]
    spec = dataclasses.asdict(kernel.resolve(np.concatenate([x, y])))
    expected = oracle.gram(z, x, spec).mean(1) - oracle.gram(z, y, spec).mean(1)
    np.testing.assert_allclose(K.witness(z, x, y, kernel, backend), expected, rtol=1e-9, atol=1e-12)


@each_kernel
def test_the_gradient_of_the_witness_matches_finite_differences(kernel):
    x, y = draw(7, 9)
    z = draw(4, 0, seed=1)[0]
    step = 1e-5
    expected = np.empty_like(z)
    for i, j in np.ndindex(*z.shape):
        up, down = z.copy(), z.copy()
        up[i, j] += step
        down[i, j] -= step
        difference = K.witness(up, x, y, kernel, "numpy") - K.witness(down, x, y, kernel, "numpy")
        expected[i, j] = difference[i] / (2 * step)
    found = K.witness_gradient(z, x, y, kernel)
    assert isinstance(found, np.ndarray) and found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    tensors = [torch.from_numpy(rows).float() for rows in (z, x, y)]
    with torch.no_grad():
        of_tensors = K.witness_gradient(*tensors, kernel)
    assert of_tensors.dtype == torch.float32 and not of_tensors.requires_grad
    np.testing.assert_allclose(of_tensors, expected, rtol=1e-3, atol=1e-4)
    assert not tensors[0].requires_grad


def test_the_gradient_of_the_witness_is_finite_at_the_samples():
    x, y = draw(3, 4)
    for kernel in (K.Distance(), K.Exponential(), K.Laplacian(), K.Cosine()):
        assert np.isfinite(K.witness_gradient(np.concatenate([x, 0 * y]), x, y, kernel)).all()
    assert K.witness_gradient(x[:0], x, y).shape == (0, 3)


@each_backend
def test_rows_that_are_not_finite_show(backend):
    x, y = draw(4, 4)
    y[2, 1] = np.inf
    kernel = K.RBF(1.0)
    assert np.isnan(K.mmd2(x, y, kernel, backend)) and np.isnan(K.energy_distance(x, y, backend))
    assert np.isnan(K.mmd2_variance(x, y, kernel, backend)).all()
    found = K.permutation_test(x, y, kernel, backend, permutations=9)
    assert np.isnan([found.statistic, found.p_value]).all()
    assert np.isnan(K.witness(y, x, x, kernel, backend)).tolist() == [False, False, True, False]
    for estimate in (K.mmd2, K.mmd2_variance, K.permutation_test):
        with pytest.raises(OptionError, match="not finite"):
            estimate(x, y, "rbf", backend)


@each_backend
def test_unfit_samples_are_refused(backend):
    x, y = draw(4, 4)
    for estimate in (K.mmd2, K.mmd2_variance, K.permutation_test):
        with pytest.raises(OptionError, match="number of features"):
            estimate(x, y[:, :2], "rbf", backend)
        with pytest.raises(OptionError, match="at least"):
            estimate(x, y[:1], "rbf", backend)
        with pytest.raises(OptionError, match="one kind"):
            estimate(x, torch.from_numpy(y), "rbf", backend)
    with pytest.raises(OptionError, match="y must have at least 1 rows"):
        K.energy_distance(x, y[:0], backend)
    for call in (K.witness, K.witness_gradient):
        with pytest.raises(OptionError, match="z and x must have the same number of features, got 2 and 3"):
            call(x[:, :2], x, y)
        with pytest.raises(OptionError, match="y must have at least 1 rows"):
            call(x, x, y[:0])
