"""Every kernel and the numpy and torch backends against the oracle of kernel_oracle.py."""

from __future__ import annotations

import dataclasses
import itertools
import json

import kernel_oracle as oracle
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dap.errors import OptionError
from dap.kernels import by_name, list_kernels, torch_pairs, torch_product
from dap.kernels.backend_numpy import NUMPY
from dap.kernels.backend_torch import TORCH
from dap.kernels.cosine import Cosine
from dap.kernels.distance import Distance
from dap.kernels.exponential import Exponential
from dap.kernels.inverse_multiquadric import InverseMultiquadric
from dap.kernels.laplacian import Laplacian
from dap.kernels.linear import Linear
from dap.kernels.matern import Matern
from dap.kernels.polynomial import Polynomial
from dap.kernels.rational_quadratic import RationalQuadratic
from dap.kernels.rbf import RBF
from dap.kernels.sum import Sum

KERNELS = [
    Linear(), Cosine(), Polynomial(), Polynomial(3, 0.5), Polynomial(1, 0), RBF(1.5), RBF(40.0), Laplacian(6.0),
    Exponential(2.0), InverseMultiquadric(0.7), RationalQuadratic(0.8, 1.5), Matern(1.5, 9.0), Matern(2.5, 9.0),
    Distance(), Sum((RBF(1.0), RBF(3.0), Linear())),
]  # fmt: skip
STATIONARY = [kernel for kernel in KERNELS if kernel.name not in ("linear", "cosine", "polynomial", "distance", "sum")]
SHAPES = [(0, 3, 2), (3, 0, 2), (1, 1, 1), (2, 3, 0), (17, 33, 5), (5, 130, 64), (3, 5, 701)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=str)


@pytest.fixture(params=["numpy", "torch", "torch by products"])
def backend(request, monkeypatch):
    if request.param == "torch by products":  # as for large rows
        monkeypatch.setattr(torch_pairs, "_SMALL", -1)
        monkeypatch.setattr(torch_pairs, "_GATHERED", 40)
    return NUMPY if request.param == "numpy" else TORCH


def draw(n, m, d, dtype=torch.float64, offset=0.0, seed=0):
    """Rows of which some are zero, some of y equal to one of x, and some near one."""
    random = np.random.default_rng(seed)
    x, y = (torch.from_numpy(random.standard_normal((rows, d)) + offset).to(dtype) for rows in (n, m))
    if n > 2 and m > 2:
        x[0] = y[1] = 0
        y[2], y[0] = x[1], x[2] + 1e-3
    return x, y


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


# Gradients: torch.


@pytest.fixture(params=["small", "products", "blocks"])
def form(request, monkeypatch):
    if request.param != "small":
        monkeypatch.setattr(torch_pairs, "_SMALL", -1)
    if request.param == "blocks":
        monkeypatch.setattr(torch_pairs, "_SIDE", 2)


@pytest.mark.parametrize("small", [-1, 1 << 22])
@every_kernel
def test_gradients_match_finite_differences(kernel, small, monkeypatch):
    monkeypatch.setattr(torch_pairs, "_SMALL", small)
    x, y = draw(2, 3, 3)  # no ties, where a norm has no derivative
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 2)))
    inputs = tuple(each.requires_grad_() for each in (x, y, weights))

    def reductions(x, y, weights):
        sums = TORCH.row_sums(x, y, kernel), TORCH.row_sums(x, y, kernel, weights)
        more = TORCH.mean_distance(x, y, kernel), TORCH.diagonal(x, kernel)
        return (*sums, *more, TORCH.gram(x, y, kernel), *TORCH.pair_sums(x, y, kernel))

    assert torch.autograd.gradcheck(reductions, inputs)
    assert torch.autograd.gradcheck(lambda x: TORCH.gram(x, None, kernel), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@every_kernel
def test_gradients_are_finite_at_ties_and_zeros(kernel, dtype, form):
    x, y = (rows.requires_grad_() for rows in draw(5, 40, 4, dtype))
    TORCH.mean_distance(x, y, kernel).sum().backward()
    TORCH.gram(x, None, kernel).sum().backward()
    TORCH.gram(x, y, kernel).square().sum().backward()
    assert x.grad.isfinite().all() and y.grad.isfinite().all()


def test_gradients_are_finite_far_away(form):
    for kernel in STATIONARY:
        x = torch.full((1, 2), 1e6, requires_grad=True)
        TORCH.mean_distance(x, torch.zeros(3, 2), kernel).sum().backward()
        assert x.grad.isfinite().all()


def test_the_gradient_at_distance_zero_is_zero_for_any_kernel():
    @dataclasses.dataclass(frozen=True)
    class Dot(Linear):
        def squared_distance(self, pairs):
            return pairs.dot  # zero for the first row without a gradient of zero, below zero for the second

    x = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 4.0]], requires_grad=True)
    distances = TORCH.mean_distance(x, torch.tensor([[0.0, 1.0]]), Dot())
    distances.sum().backward()
    assert distances.tolist() == [0.0, 0.0, 2.0]
    assert x.grad.tolist() == [[0.0, 0.0], [0.0, 0.0], [0.0, 0.25]]


@pytest.mark.parametrize("value", [0.0, 0.3])
@every_kernel
def test_the_distance_has_no_gradient_where_points_coincide(kernel, value, form):
    x = torch.full((3, 4), value, dtype=torch.float64, requires_grad=True)
    y = torch.full((3, 4), value, dtype=torch.float64)
    TORCH.mean_distance(x, y, kernel).sum().backward()
    assert (x.grad == 0).all()
    if kernel in STATIONARY:
        TORCH.row_sums(x, y, kernel).sum().backward()
        assert (x.grad == 0).all()


def test_the_gradient_at_a_row_of_zeros_is_zero(form):
    for kernel in (Cosine(), Distance()):
        x, y = torch.zeros(1, 3, requires_grad=True), torch.tensor([[1.0, 2.0, 3.0]])
        TORCH.gram(x, y, kernel).sum().backward()
        expected = torch.zeros(1, 3) if kernel == Cosine() else y / y.norm()  # that of −‖x − y‖ alone
        torch.testing.assert_close(x.grad, expected)


@every_kernel
def test_blocks_make_the_whole_with_its_gradient(kernel, monkeypatch):
    random = np.random.default_rng(0)

    def results():
        x, y = (rows.requires_grad_() for rows in draw(11, 13, 4))
        parts = [TORCH.row_sums(x, y, kernel), TORCH.mean_distance(x, y, kernel)]
        parts += [*TORCH.pair_sums(x, y, kernel), TORCH.gram(x, y, kernel)]
        torch.cat([part.flatten().cos() for part in parts]).sum().backward()
        return [*(part.detach() for part in parts), x.grad, y.grad]

    whole = results()
    monkeypatch.setattr(torch_pairs, "_SIDE", int(random.integers(2, 5)))
    for got, expected in zip(results(), whole, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def saved(function):
    """The result, and the bytes of the different pieces of memory that are kept for its backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    return result, sum(kept.values())


@pytest.mark.parametrize("reduce", ["row_sums", "mean_distance", "pair_sums"])
@pytest.mark.parametrize("kernel", [Cosine(), Polynomial(3), Laplacian(6.0), Matern(2.5, 9.0)], ids=str)
def test_the_backward_pass_keeps_the_rows_alone(kernel, reduce, monkeypatch):
    monkeypatch.setattr(torch_pairs, "_SIDE", 16)
    blocks = []
    original = torch_pairs.TorchPairs.__init__
    monkeypatch.setattr(
        torch_pairs.TorchPairs,
        "__init__",
        lambda self, x, y: (blocks.append(len(x) * len(y)), original(self, x, y))[1],
    )
    x, y = draw(96, 96, 2, torch.float32)
    result, kept = saved(lambda: getattr(TORCH, reduce)(x.requires_grad_(), y, kernel))
    assert kept <= 4 * (x.nbytes + y.nbytes) < 96 * 96  # far from 4 bytes a pair
    (result[2] if reduce == "pair_sums" else result.sum()).backward()
    assert x.grad.isfinite().all() and max(blocks) == 16 * 16


def test_a_common_offset_leaves_the_product_its_digits(monkeypatch):
    x, y = draw(20, 30, 16, torch.float32, offset=1e4)
    x[0], y[1] = x[1] + 1, y[2] + 1  # no row of zeros here
    monkeypatch.setattr(torch_pairs, "_SMALL", -1)
    monkeypatch.setattr(torch_pairs, "_exact_distance", None)  # not called: few pairs are near once they are centred
    np.testing.assert_allclose(torch_pairs.TorchPairs(x, y).distance, oracle.euclidean(x, y), rtol=1e-5)


def test_near_pairs_keep_the_rows_alone(monkeypatch):
    monkeypatch.setattr(torch_pairs, "_SMALL", -1)
    monkeypatch.setattr(torch_pairs, "_GATHERED", 640)
    x, y = draw(40, 40, 64, torch.float32, seed=2)
    y[:10] = x[10]
    y[10:] += 3
    x = x.requires_grad_()
    result, kept = saved(lambda: torch_pairs.TorchPairs(x, y).squared)
    assert kept < 12 * x.nbytes + 10 * result.nbytes
    result.sum().backward()
    torch.testing.assert_close(x.grad, 2 * (40 * x.detach() - y.sum(0)), rtol=1e-4, atol=1e-3)


def test_autocast_and_lower_precision_change_nothing(monkeypatch):
    matmul = torch.backends.cuda.matmul
    x, y = draw(50, 60, 2000, torch.float32)
    x.requires_grad_()
    expected = TORCH.mean_distance(x, y, Polynomial())
    (slope,) = torch.autograd.grad(expected.sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        got = TORCH.mean_distance(x, y, Polynomial())
        assert torch.equal(got, expected) and torch.equal(torch.autograd.grad(got.sum(), x)[0], slope)
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with pytest.raises(ZeroDivisionError), torch_product._full_precision("cpu"):
            assert matmul.fp32_precision == "ieee"
            raise ZeroDivisionError
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


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


# Options.


def test_kernels_have_names_and_survive_json():
    assert list_kernels() == sorted({kernel.name for kernel in KERNELS})
    heuristics = [RBF(), Laplacian("mean"), Exponential([1, 2.5]), Matern(nu=2.5), Sum([RBF(), Sum([Linear()])])]
    for kernel in [*KERNELS, *heuristics]:
        options = json.loads(json.dumps(dataclasses.asdict(kernel)))
        again = by_name(options.pop("name"), **options)
        assert again == kernel and hash(again) == hash(kernel)
    assert Sum([Sum([RBF(1.0), Linear()]), {"name": "cosine"}]).kernels == (RBF(1.0), Linear(), Cosine())


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", ["median", "mean"])
def test_heuristics_look_at_the_distinct_pairs(name, order, kind):
    y = draw(1, 41, 9, torch.float32, offset=100.0)[1].numpy()
    pairs = [np.linalg.norm(y[i].astype(float) - y[j], ord=order) for i in range(41) for j in range(i)]
    kernel = {1: Laplacian, 2: RBF}[order]
    assert kernel(name).resolve(kind(y)).bandwidth == pytest.approx(getattr(np, name)(pairs), rel=1e-9)


def test_heuristics_look_at_a_thousand_rows_and_are_never_zero():
    y = np.full((2999, 1), 1e6)
    seen = np.array([i * 2999 // 1000 for i in range(1000)])
    y[seen, 0] = np.random.default_rng(0).permutation(1000)
    assert RBF("mean").resolve(y).bandwidth == pytest.approx(1001 / 3)
    for kernel in (RBF, Laplacian):
        for empty in (np.full((9, 4), 0.1), np.ones((1, 4)), np.ones((0, 4)), np.ones((5, 0))):
            assert kernel().resolve(empty).bandwidth == kernel("mean").resolve(empty).bandwidth == 1.0
    for seed in range(30):  # the product leaves a rounding error between some of them
        mostly_equal = np.repeat(np.random.default_rng(seed).standard_normal((2, 57 + seed)), [1, 9], axis=0)
        assert RBF().resolve(mostly_equal).bandwidth == 1.0
    for bad in (np.nan, np.inf, 1e200):
        with pytest.raises(OptionError, match="not finite"):
            RBF().resolve(np.array([[0.0], [bad], [-bad]]))


def test_several_bandwidths_are_the_sum_of_the_kernels():
    y = np.ones((3, 2))
    assert RationalQuadratic(2.0, [1, 3]).resolve(y) == Sum((RationalQuadratic(2.0, 1.0), RationalQuadratic(2.0, 3.0)))
    assert Sum((RBF((1, 2)), RBF(), Linear())).resolve(y) == Sum((RBF(1.0), RBF(2.0), RBF(1.0), Linear()))
    for kernel in (RBF(), RBF([1.0, 2.0]), Laplacian("mean"), Matern()):
        with pytest.raises(OptionError, match=r"kernel.resolve\(y\)"):
            NUMPY.gram(y, y, kernel)


@pytest.mark.parametrize("kind", [RBF, Laplacian, Exponential, RationalQuadratic, Matern])
@pytest.mark.parametrize(
    "bandwidth", [0, -1.0, float("nan"), float("inf"), "modal", None, True, [], [1.0, 0], ["mean"]]
)
def test_a_bad_bandwidth_is_refused(bandwidth, kind):
    with pytest.raises(OptionError, match="bandwidth"):
        kind(bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("polynomial", {"degree": 0}, "degree: expected a whole number of at least 1, got 0"),
        ("polynomial", {"degree": 2.5}, "degree: expected a whole number"),
        ("polynomial", {"degree": True}, "degree: expected a whole number"),
        ("polynomial", {"c": -1.0}, "c: expected a number of at least 0"),
        ("polynomial", {"c": float("nan")}, "c: expected a number of at least 0, got nan"),
        ("inverse_multiquadric", {"c": 0.0}, "c: expected a number above 0"),
        ("rational_quadratic", {"alpha": -2}, "alpha: expected a number above 0"),
        ("matern", {"nu": 0.5}, "nu: expected 1.5 or 2.5, got 0.5"),
        ("sum", {"kernels": []}, "list of one kernel or more"),
        ("sum", {"kernels": Linear()}, "list of one kernel or more"),
        ("sum", {"kernels": [3]}, "kernel: expected a name, a kernel or .*, got 3"),
        ("sum", {"kernels": [{"bandwidth": 1.0}]}, "kernel: expected a name, a kernel or"),
        ("sum", {"kernels": [{"name": "rbff"}]}, "did you mean 'rbf'"),
        ("rbf", {"bandwith": 1.0}, "did you mean 'bandwidth'"),
    ],
)
def test_bad_options_are_refused(name, options, message):
    with pytest.raises(OptionError, match=message):
        by_name(name, **options)
