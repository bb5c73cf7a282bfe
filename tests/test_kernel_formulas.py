"""Every kernel and the numpy and torch backends against the oracle of kernel_oracle.py."""

from __future__ import annotations

import dataclasses
import itertools

import kernel_oracle as oracle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tested_kernels import DTYPES, SHAPES, draw, every_kernel

from dap.kernels import torch_pairs
from dap.kernels.backend_numpy import NUMPY
from dap.kernels.backend_torch import TORCH
from dap.kernels.distance import Distance
from dap.kernels.laplacian import Laplacian
from dap.kernels.linear import Linear
from dap.kernels.matern import Matern
from dap.kernels.rbf import RBF


@pytest.fixture(params=["numpy", "torch", "torch by products"])
def backend(request, monkeypatch):
    if request.param == "torch by products":  # as for large rows
        monkeypatch.setattr(torch_pairs, "_SMALL", -1)
        monkeypatch.setattr(torch_pairs, "_GATHERED", 40)
    return NUMPY if request.param == "numpy" else TORCH


def sizes(x, y, kernel):
    """√(k(x_i, x_i) k(y_j, y_j)), which bounds |k(x_i, y_j)|, or the sum of its terms: what errors are measured by."""
    spec = dataclasses.asdict(kernel)
    if kernel == Distance():
        return (oracle.diagonal(x, spec)[:, None] + oracle.diagonal(y, spec)) / 2
    # A power multiplies the relative error of what it is taken of.
    return getattr(kernel, "degree", 1) * np.sqrt(np.outer(oracle.diagonal(x, spec), oracle.diagonal(y, spec)))


def epsilon(backend, dtype):
    return 1e-12 if backend is NUMPY or dtype == torch.float64 else 3e-6


def check(got, expected, error):
    got = np.asarray(got)
    assert got.shape == expected.shape
    assert (abs(got - expected) <= error).all(), abs(got - expected).max()


@pytest.mark.parametrize("offset", [0.0, 1e4])
@every_kernel
def test_values_follow_the_definition(kernel, offset, backend):
    spec = dataclasses.asdict(kernel)
    for shape, dtype in itertools.product(SHAPES, DTYPES):
        x, y = draw(*shape, dtype, offset)
        got = backend.gram(x, y, kernel)
        result = torch.float64 if dtype == torch.float64 else torch.float32
        assert got.dtype == (np.float64 if backend is NUMPY else result)
        x, y = x.double(), y.double()
        check(got, oracle.gram(x, y, spec), epsilon(backend, dtype) * sizes(x, y, kernel) + 1e-300)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@every_kernel
def test_distances_follow_the_definition(kernel, offset, backend):
    spec = dataclasses.asdict(kernel)
    for dtype in DTYPES:
        x, y = draw(6, 9, 20, dtype, offset)
        got = np.stack([np.asarray(backend.mean_distance(x, row[None], kernel)) for row in y], 1)
        assert (got[[0, 1], [1, 2]] == 0).all()  # the equal rows
        x, y = x.double(), y.double()
        expected = oracle.distance(x, y, spec)
        # Relative where the kernel looks at differences; in float64 the oracle's own precision is the limit.
        error = 3e-6 * expected if epsilon(backend, dtype) > 1e-9 else 1e-9 * expected
        if kernel.name in ("cosine", "polynomial", "sum"):
            error = error + epsilon(backend, dtype) * np.sqrt(sizes(x, y, kernel))
        check(got, expected, error + 1e-9 * np.sqrt(sizes(x, y, kernel)))


@every_kernel
def test_distances_of_near_points_do_not_cancel(kernel, backend):
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    direction = torch.tensor([[1.0, -0.25]], dtype=torch.float64)
    near, far = (float(backend.mean_distance(x, x + step * direction, kernel)[0]) for step in (2**-20, 2**-19))
    root = kernel.name in ("laplacian", "exponential", "distance")
    assert far / near == pytest.approx(2**0.5 if root else 2, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_kernel
def test_reductions_follow_the_definition(kernel, dtype, backend, monkeypatch):
    monkeypatch.setattr(torch_pairs, "_SIDE", 8)
    x, y = draw(19, 33, 6, dtype)
    weights = torch.from_numpy(np.random.default_rng(1).standard_normal((33, 3)))
    spec, error = dataclasses.asdict(kernel), 2 * epsilon(backend, dtype) * sizes(x, y, kernel)
    values, distances = oracle.gram(x, y, spec), oracle.distance(x, y, spec)
    check(backend.row_sums(x, y, kernel), values.sum(1), error.sum(1))
    check(backend.row_sums(x, y, kernel, weights), values @ weights.numpy(), error @ abs(weights.numpy()))
    distance_error = 2 * np.sqrt(sizes(x, y, kernel)) * max(epsilon(backend, dtype), 1e-9) + 3e-6 * distances
    check(backend.mean_distance(x, y, kernel), distances.mean(1), distance_error.mean(1))
    rows, columns, squares = backend.pair_sums(x, y, kernel)
    check(rows, values.sum(1), error.sum(1))
    check(columns, values.sum(0), error.sum(0))
    check(squares, np.square(values).sum(), 2 * (error * sizes(x, y, kernel)).sum())
    check(
        backend.diagonal(x, kernel),
        oracle.diagonal(x, spec),
        np.diag(2 * epsilon(backend, dtype) * sizes(x, x, kernel)),
    )


@every_kernel
def test_y_is_x_where_it_is_none(kernel, backend):
    x, _ = draw(9, 3, 4)
    for function in (backend.gram, backend.row_sums, backend.mean_distance):
        np.testing.assert_array_equal(function(x, None, kernel), function(x, x, kernel))
    for got, expected in zip(backend.pair_sums(x, None, kernel), backend.pair_sums(x, x, kernel), strict=True):
        np.testing.assert_array_equal(got, expected)
    for got, expected in zip(backend.nearest(x, None, kernel, 3), backend.nearest(x, x, kernel, 3), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_no_rows_make_empty_results(backend):
    x, y = torch.zeros(0, 3), torch.ones(4, 3)
    assert backend.row_sums(x, y, Linear()).shape == (0,)
    assert backend.row_sums(x, y, Linear(), torch.ones(4, 2)).shape == (0, 2)
    np.testing.assert_array_equal(backend.row_sums(y, x, Linear(), torch.ones(0, 2)), np.zeros((4, 2)))
    assert backend.mean_distance(x, y, RBF(1.0)).shape == backend.diagonal(x, RBF(1.0)).shape == (0,)
    rows, columns, squares = backend.pair_sums(y, x, RBF(1.0))
    assert (np.asarray(rows).tolist(), columns.shape, float(squares)) == ([0.0] * 4, (0,), 0.0)
    assert [part.shape for part in backend.nearest(x, y, None, 2)] == [(0, 2), (0, 2)]


@pytest.mark.parametrize("kernel", [None, Linear(), RBF(2.0), Laplacian(3.0)], ids=str)
def test_nearest_takes_the_lowest_of_equal_rows(kernel, backend, monkeypatch):
    monkeypatch.setattr(torch_pairs, "_SIDE", 8)
    random = np.random.default_rng(0)
    x, y = (random.integers(-2, 3, (rows, 3)).astype(np.float32) for rows in (20, 50))  # exact, many ties
    monkeypatch.setattr(torch_pairs, "_SMALL", 1 << 22)
    spec = kernel and dataclasses.asdict(kernel)
    scores = oracle.euclidean(x, y) if kernel is None else -oracle.gram(x, y, spec).astype(np.float32)
    order = np.argsort(scores, axis=1, kind="stable")
    for k in (1, 7, 50):
        values, indices = backend.nearest(x, y, kernel, k)
        assert np.asarray(indices).dtype == np.int64
        np.testing.assert_array_equal(indices, order[:, :k])
        expected = np.take_along_axis(abs(scores), order[:, :k], 1)
        np.testing.assert_allclose(values if kernel is None else abs(np.asarray(values)), expected, rtol=1e-6)


def test_nearest_finds_the_nearest_by_products(backend):
    x, y = draw(30, 200, 16, torch.float32)
    values, indices = backend.nearest(x, y, None, 5)
    order = np.argsort(oracle.euclidean(x, y), axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(values, np.take_along_axis(oracle.euclidean(x, y), order, 1), rtol=1e-6)


def test_equal_rows_are_equally_far_in_every_block(backend, monkeypatch):
    monkeypatch.setattr(torch_pairs, "_SIDE", 64)
    x, y = draw(30, 50, 24, torch.float32, offset=3.0)
    values, indices = backend.nearest(x, torch.cat([y, y.flip(0), y]), None, 6)
    values, indices = (np.asarray(part).reshape(30, 2, 3) for part in (values, indices))
    assert (values == values[:, :, :1]).all() and (np.diff(indices) > 0).all()
    np.testing.assert_array_equal(indices[:, :, 1], 99 - indices[:, :, 0])


@every_kernel
def test_a_row_that_is_not_finite_counts_as_nan(kernel, backend):
    spec = dataclasses.asdict(kernel)
    for bad in (np.nan, np.inf, -np.inf):
        x, y = draw(4, 6, 5)
        x[2, 3] = bad
        got = np.asarray(backend.gram(x, y, kernel))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(oracle.gram(x, y, spec)))
        for sums in (backend.row_sums, backend.mean_distance):
            assert np.isnan(np.asarray(sums(x, y, kernel))).tolist() == [False, False, True, False]
            assert np.isnan(np.asarray(sums(y, x, kernel))).all()
        assert np.isnan(np.asarray(backend.diagonal(x, kernel))).tolist() == [False, False, True, False]
        np.testing.assert_allclose(got[[0, 1, 3]], backend.gram(x[[0, 1, 3]], y, kernel), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["array", "memmap", "tensor"])
def test_gram_writes_into_out_block_by_block(kind, backend, monkeypatch, tmp_path):
    monkeypatch.setattr(torch_pairs, "_SIDE", 4)
    x, y = draw(6, 9, 3)
    if kind == "memmap":
        out = np.memmap(tmp_path / "gram", np.float64, "w+", shape=(6, 9))
    else:
        out = np.full((6, 9), np.nan) if kind == "array" or backend is NUMPY else torch.full((6, 9), torch.nan)
    assert backend.gram(x.requires_grad_(), y, Matern(2.5, 2.0), out) is out
    np.testing.assert_allclose(out, oracle.gram(x.detach(), y, dataclasses.asdict(Matern(2.5, 2.0))), rtol=1e-6)


def test_arrays_are_read_as_they_are(backend, tmp_path):
    x, y = (rows.numpy() for rows in draw(6, 9, 8, torch.float32))
    expected = np.asarray(backend.row_sums(x, y, RBF(2.0)))
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=x.shape)
    mapped[:] = x
    x.flags.writeable = False
    strided = np.repeat(y, 2, 1)[:, ::2]
    for first, second in [(mapped, y), (x, strided), (np.asfortranarray(x), y), (x.astype(">f4"), y)]:
        np.testing.assert_array_equal(np.asarray(backend.row_sums(first, second, RBF(2.0))), expected)
    whole = np.array([[0, 0], [3, 4]])
    assert np.asarray(backend.mean_distance(whole, whole, Linear())).tolist() == [2.5, 2.5]
    assert np.asarray(backend.row_sums(whole > 0, whole, Linear())).tolist() == [0.0, 7.0]


# What makes a kernel a kernel.

rows = arrays(np.float64, st.tuples(st.integers(2, 7), st.integers(1, 4)), elements=st.floats(-4, 4, width=16))


@settings(max_examples=15, deadline=None, derandomize=True)
@every_kernel
@given(rows=rows)
def test_grams_are_positive_and_distances_metric(kernel, rows):
    for backend in (NUMPY, TORCH):
        gram = np.asarray(backend.gram(rows, None, kernel))
        np.testing.assert_allclose(gram, gram.T, rtol=1e-13, atol=1e-13)
        assert np.linalg.eigvalsh(gram).min() >= -1e-11 * max(1.0, abs(gram).max())
        table = np.stack([np.asarray(backend.mean_distance(rows, row[None], kernel)) for row in rows], 1)
        assert (table >= 0).all() and (np.diag(table) == 0).all()
        np.testing.assert_allclose(table, table.T, rtol=1e-12, atol=1e-12)
        assert (table[:, None] <= table[:, :, None] + table[None] + 1e-7 * max(1.0, table.max())).all()
