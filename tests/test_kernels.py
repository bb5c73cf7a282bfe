"""The public reductions, in every backend, against oracles in extended precision."""

from __future__ import annotations

import dataclasses

import kernel_oracle as oracle
import numpy as np
import pytest
import torch

from dap import kernels as K
from dap.errors import OptionError

BACKENDS = ["numpy", "torch", "rust"]
KERNELS = [
    K.Linear(), K.Cosine(), K.Polynomial(2, 1.0), K.Polynomial(3, 0.5), K.RBF("median"), K.RBF(0.8),
    K.Laplacian("mean"), K.Exponential(2.0), K.InverseMultiquadric(1.5), K.RationalQuadratic(2.0, "median"),
    K.Matern(1.5, "median"), K.Matern(2.5, 3.0), K.Distance(), K.RBF([0.5, 2.0, 8.0]),
    K.Sum([K.Linear(), K.Laplacian(5.0)]),
]  # fmt: skip
SHAPES = [
    (1, 1, 1), (3, 5, 7), (17, 33, 16), (5, 300, 2), (260, 140, 3), (7, 9, 5001), (2, 3, 0), (0, 4, 3), (4, 0, 3),
]  # fmt: skip
TOLERANCE = {"float64": 1e-12, "float32": 5e-6}
"""Relative: of a sum to the sum of its terms' sizes, of a mean of distances to itself."""

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=str)


def draw(n, m, d, seed=0, dtype=np.float64):
    random = np.random.default_rng(seed)
    return tuple(random.standard_normal((rows, d)).astype(dtype) for rows in (n, m))


def sizes(x, y, spec):
    """What the rounding of k(x_i, y_j) is measured against, with shape (n, m)."""
    match spec["name"]:
        case "sum":
            return sum(sizes(x, y, part) for part in spec["kernels"])
        case "linear" | "cosine" | "polynomial":  # a sum of products may cancel
            return oracle.gram(np.abs(x), np.abs(y), spec)
        case "distance":
            return oracle.euclidean(x, 0 * x[:1]) + oracle.euclidean(0 * y[:1], y)
    values = oracle.gram(x, y, spec)
    return values * (1 - np.log(np.maximum(values, 1e-300)))  # exp turns a relative error into |argument| times as much


def close(found, expected, size, tolerance):
    found = np.asarray(found, np.float64)
    assert found.shape == expected.shape
    assert (np.abs(found - expected) <= tolerance * size + (1e-300 if tolerance < 1e-10 else 1e-37)).all()  # underflow


def check_sums(x, y, kernel, backend, tolerance, exact_x=None, exact_y=None):
    """gram, row_sums with and without weights, and row_means, of arrays or tensors whose values the exact ones are."""
    exact_x, exact_y = (x, y) if exact_x is None else (exact_x, exact_y)
    spec = dataclasses.asdict(kernel.resolve(y))
    values = oracle.gram(exact_x, exact_y, spec)
    size = np.zeros(values.shape) if 0 in values.shape else sizes(exact_x, exact_y, spec)
    weights = np.random.default_rng(9).standard_normal((len(y), 3))
    given = torch.from_numpy(weights) if isinstance(y, torch.Tensor) else weights
    close(K.gram(x, y, kernel, backend), values, size, tolerance)
    close(K.row_sums(x, y, kernel, backend), values.sum(1), size.sum(1), tolerance)
    close(K.row_sums(x, y, kernel, backend, weights=given), values @ weights, size @ np.abs(weights), tolerance)
    if len(y):
        close(K.row_means(x, y, kernel, backend), values.mean(1), size.mean(1), tolerance)


@each_backend
@each_kernel
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reductions_follow_the_definition(shape, kernel, backend):
    for dtype in (np.float64, np.float32):
        x, y = draw(*shape, dtype=dtype)
        if shape[2] and min(shape):
            y[-1] = x[0]  # a tie
        tolerance = TOLERANCE[np.dtype(dtype).name]
        check_sums(x, y, kernel, backend, tolerance)
        if shape[1]:
            means = K.mean_distance(x, y, kernel, backend)
            assert means.dtype == np.float64
            expected = oracle.distance(x, y, dataclasses.asdict(kernel.resolve(y))).mean(1)
            np.testing.assert_allclose(means, expected, rtol=tolerance, atol=1e-15)


@each_backend
@each_kernel
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_tensors_of_every_dtype_come_back_in_the_dtype_of_the_computation(dtype, kernel, backend):
    x, y = (torch.from_numpy(rows).to(dtype) for rows in draw(9, 21, 13))
    computed = torch.float64 if dtype == torch.float64 else torch.float32
    exact = x.double().numpy(), y.double().numpy()
    check_sums(x, y, kernel, backend, TOLERANCE[str(computed)[6:]], *exact)
    spec = dataclasses.asdict(kernel.resolve(y))
    expected = oracle.distance(*exact, spec).mean(1)
    means = K.mean_distance(x, y, kernel, backend)
    np.testing.assert_allclose(means, expected, rtol=TOLERANCE[str(computed)[6:]])
    values, indices = K.nearest(x, y, 2, kernel, backend)
    results = [K.gram(x, y, kernel, backend), K.row_sums(x, y, kernel, backend), means, values]
    assert {result.dtype for result in results} == {computed} and indices.dtype == torch.int64


@each_backend
@pytest.mark.parametrize(
    "dtypes", [("float16", "float32"), ("float32", "float64"), ("int8", "float16"), ("bool", "<i4")]
)
def test_two_dtypes_are_computed_with_in_the_wider_class(dtypes, backend):
    x, y = (np.round(3 * rows).astype(dtype) for rows, dtype in zip(draw(4, 6, 8), dtypes, strict=True))
    tolerance = TOLERANCE["float32" if dtypes == ("float16", "float32") else "float64"]
    exact = x.astype(np.float64), y.astype(np.float64)
    check_sums(x, y, K.RBF(3.0), backend, tolerance, *exact)
    check_sums(torch.from_numpy(x), torch.from_numpy(y), K.RBF(3.0), backend, tolerance, *exact)


@each_backend
@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if kernel.name != "cosine"], ids=str)
def test_a_common_offset_costs_no_digits(kernel, backend):
    x, y = (rows.astype(np.float32) for rows in (rows + 1e4 for rows in draw(6, 40, 50)))
    # The oracle gets the same float32 rows, moved back exactly, so that its own definition does not cancel.
    near_x, near_y = (rows.astype(np.float64) - 1e4 for rows in (x, y))
    resolved = kernel.resolve(near_y)
    spec = dataclasses.asdict(resolved)
    if kernel.name in ("linear", "distance"):  # their distances, not their values, depend on differences alone
        means = K.mean_distance(x, y, resolved, backend)
        np.testing.assert_allclose(means, oracle.distance(near_x, near_y, spec).mean(1), rtol=5e-6)
    elif "linear" not in str(kernel) and kernel.name != "polynomial":
        sums = K.row_sums(x, y, resolved, backend)
        close(sums, oracle.gram(near_x, near_y, spec).sum(1), sizes(near_x, near_y, spec).sum(1), 5e-6)
        means = K.mean_distance(x, y, resolved, backend)
        np.testing.assert_allclose(means, oracle.distance(near_x, near_y, spec).mean(1), rtol=5e-6)


@each_backend
@each_kernel
def test_y_none_is_x_itself(kernel, backend):
    x = draw(67, 0, 9, dtype=np.float32)[0]
    kernel = kernel.resolve(x)
    size = sizes(x, x, dataclasses.asdict(kernel))
    weights = draw(67, 0, 2)[0]
    close(K.gram(x, None, kernel, backend), K.gram(x, x, kernel, backend), size, 5e-6)
    close(K.row_sums(x, None, kernel, backend), K.row_sums(x, x, kernel, backend), size.sum(1), 5e-6)
    close(K.row_means(x, None, kernel, backend), K.row_means(x, x, kernel, backend), size.mean(1), 5e-6)
    both = [K.row_sums(x, y, kernel, backend, weights=weights) for y in (None, x)]
    close(*both, size @ np.abs(weights), 5e-6)
    means = K.mean_distance(x, None, kernel, backend)
    np.testing.assert_allclose(means, K.mean_distance(x, x, kernel, backend), rtol=5e-6)
    for alone, given in zip(K.nearest(x, None, 3, kernel, backend), K.nearest(x, x, 3, kernel, backend), strict=True):
        np.testing.assert_allclose(alone, given, rtol=5e-6)


@each_backend
@each_kernel
def test_the_order_of_rows_and_the_cut_into_parts_do_not_matter(kernel, backend):
    x, y = draw(11, 90, 20, dtype=np.float32)
    kernel = kernel.resolve(y)
    sums, means = K.row_sums(x, y, kernel, backend), K.mean_distance(x, y, kernel, backend)
    size = sizes(x, y, dataclasses.asdict(kernel)).sum(1)
    parts = y[:13], y[13:50], y[50:]
    close(sum(K.row_sums(x, part, kernel, backend) for part in parts), sums, size, 5e-6)
    merged = sum(len(part) * K.mean_distance(x, part, kernel, backend) for part in parts) / 90
    np.testing.assert_allclose(merged, means, rtol=5e-6)
    rows, columns = (np.random.default_rng(1).permutation(count) for count in (11, 90))
    close(K.row_sums(x[rows], y[columns], kernel, backend), sums[rows], size[rows], 5e-6)
    np.testing.assert_allclose(K.mean_distance(x[rows], y[columns], kernel, backend), means[rows], rtol=5e-6)


@each_backend
@each_kernel
def test_the_distance_is_a_pseudometric_and_the_matrix_positive(kernel, backend):
    rows = draw(7, 0, 33, dtype=np.float32)[0]
    rows[3] = rows[0]  # a tie
    kernel = kernel.resolve(rows)
    table = np.array([K.mean_distance(rows, rows[i : i + 1], kernel, backend) for i in range(7)])
    assert (np.diag(table) == 0).all() and table[0, 3] == 0
    np.testing.assert_allclose(table, table.T, rtol=1e-6)
    off = ~np.eye(7, dtype=bool)
    off[0, 3] = off[3, 0] = False
    assert (table[off] > 0).all()
    assert (table[:, None, :] <= (table[:, :, None] + table[None]) * (1 + 1e-6)).all()
    eigenvalues = np.linalg.eigvalsh(K.gram(rows, None, kernel, backend))
    assert eigenvalues.min() > -1e-5 * eigenvalues.max()


@each_backend
@pytest.mark.parametrize("kernel", [None, *KERNELS], ids=str)
def test_nearest_follows_the_definition(kernel, backend):
    for n, m, d, k in [(13, 29, 6, 5), (1, 1, 1, 1), (3, 1500, 8, 3), (4, 6, 3, 6), (0, 5, 2, 2)]:
        x, y = draw(n, m, d, seed=m)
        table = oracle.euclidean(x, y)
        if kernel is not None:
            table = -oracle.gram(x, y, dataclasses.asdict(kernel.resolve(y)))
        values, indices = K.nearest(x, y, k, kernel, backend)
        assert indices.dtype == np.int64 and values.shape == indices.shape == (n, k)
        expected = np.argsort(table, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(indices, expected)
        signed = values if kernel is None else -values
        np.testing.assert_allclose(signed, np.take_along_axis(table, expected, 1), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("rows", [1, 20])
def test_nearest_of_rows_whose_squares_overflow(rows):
    y = np.array([[3e19, 0], [-2e19, 1e19], [1e10, 1], [0, 0]], np.float32)
    x = np.repeat(np.array([[2.9e19, 0]], np.float32), rows, axis=0)
    exact = np.linalg.norm(x[:, None].astype(float) - y, axis=2)
    values, indices = K.nearest(x, y, 4, backend="rust")
    np.testing.assert_array_equal(indices, np.argsort(exact, axis=1, kind="stable"))
    np.testing.assert_allclose(values, np.sort(exact, axis=1), rtol=1e-6)


@each_backend
@pytest.mark.parametrize("kernel", [None, K.Linear(), K.RBF(2.0), K.Laplacian(3.0)], ids=str)
def test_nearest_gives_ties_to_the_lowest_index(kernel, backend):
    x, base = draw(5, 4, 3, dtype=np.float32)
    y = np.concatenate([base] * 40)[np.random.default_rng(0).permutation(160)]
    table = oracle.euclidean(x, y) if kernel is None else -oracle.gram(x, y, dataclasses.asdict(kernel))
    _, indices = K.nearest(x, y, 50, kernel, backend)
    np.testing.assert_array_equal(indices, np.argsort(table, axis=1, kind="stable")[:, :50])


@each_kernel
def test_gradients_match_finite_differences(kernel):
    x, y, weights = (torch.from_numpy(rows).requires_grad_() for rows in (*draw(3, 4, 5), draw(4, 0, 2)[0]))
    kernel = kernel.resolve(y)
    assert torch.autograd.gradcheck(lambda x, y: K.mean_distance(x, y, kernel), (x, y))
    assert torch.autograd.gradcheck(lambda x, y, w: K.row_sums(x, y, kernel, weights=w), (x, y, weights))
    assert torch.autograd.gradcheck(lambda x: K.row_means(x, None, kernel), (x,))


@each_kernel
def test_gradients_are_finite_where_points_coincide(kernel):
    x = torch.from_numpy(draw(4, 0, 5)[0])
    x[1], x[2] = x[0], 0
    kernel = kernel.resolve(x)
    for reduction in (K.row_sums, K.mean_distance):
        leaf = x.clone().requires_grad_()
        reduction(leaf, x.clone(), kernel).sum().backward()
        assert leaf.grad.isfinite().all()
    alone = x[:1].clone().requires_grad_()
    K.mean_distance(alone, x[:1].clone(), kernel).sum().backward()
    assert (alone.grad == 0).all()


@each_backend
@each_kernel
def test_a_row_that_is_not_finite_is_a_row_of_nan(kernel, backend):
    x, y = draw(4, 5, 20, dtype=np.float32)
    kernel = kernel.resolve(y)
    x[1, 7], x[2, 0], x[3, 19] = np.nan, np.inf, -np.inf
    rows = [False, True, True, True]
    assert np.isnan(K.gram(x, y, kernel, backend)).tolist() == [[row] * 5 for row in rows]
    for reduction in (K.row_sums, K.row_means, K.mean_distance):
        assert np.isnan(reduction(x, y, kernel, backend)).tolist() == rows
        assert np.isnan(reduction(y, x, kernel, backend)).all()
        assert np.isnan(reduction(x, None, kernel, backend)).all()
    symmetric = np.isnan(K.gram(x, None, kernel, backend))
    np.testing.assert_array_equal(symmetric, np.logical_or.outer(rows, rows))
    with pytest.raises(OptionError, match="x must be finite to be searched, row 1 holds NaN"):
        K.nearest(x, y, 1, kernel, backend)
    with pytest.raises(OptionError, match="y must be finite"):
        K.nearest(torch.from_numpy(y), torch.from_numpy(x).half(), 1, kernel, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_weighted_distances_follow_the_definition(kernel, backend):
    x, y = draw(9, 330, 5, dtype=np.float32)
    weights = np.random.default_rng(3).standard_normal(330)
    spec = dataclasses.asdict(kernel.resolve(y))
    distances = oracle.distance(x, y, spec)
    largest = np.sqrt(max(oracle.diagonal(rows, spec).max() for rows in (x, y)))
    allowed = 5e-6 * (distances + largest) @ np.abs(weights)
    found = K.mean_distance(x, y, kernel, backend, weights=weights)
    assert (np.abs(found - distances @ weights) <= allowed).all()


def test_weighted_distances_have_gradients_and_equal_shares_are_the_mean():
    x, y, weights = (torch.from_numpy(rows).requires_grad_() for rows in (*draw(3, 4, 5), draw(4, 0, 1)[0][:, 0]))
    assert torch.autograd.gradcheck(lambda x, y, w: K.mean_distance(x, y, weights=w), (x, y, weights))
    rows = draw(3, 4, 5)
    for backend in BACKENDS:
        shares = np.full(4, 0.25)
        np.testing.assert_allclose(
            K.mean_distance(*rows, backend=backend, weights=shares), K.mean_distance(*rows, backend=backend), 1e-12
        )
        for wrong in (np.zeros((4, 1)), np.zeros(3)):
            with pytest.raises(OptionError, match="weights must have"):
                K.mean_distance(*rows, backend=backend, weights=wrong)
