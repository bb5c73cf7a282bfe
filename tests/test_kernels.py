"""Kernels and their reductions against float64 oracles written from the definition, for every backend."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from dap.errors import OptionError
from dap.kernels import RBF, Linear, by_name, list_kernels, mean_distance, row_sums
from dap.kernels.backend_numpy import NumpyPairs

KERNELS = [Linear(), RBF(bandwidth=0.8), RBF(bandwidth=30.0)]
BACKENDS = ["torch", "rust", "numpy"]
SHAPES = [(1, 1, 1), (3, 5, 7), (17, 33, 16), (5, 1100, 2), (21, 9, 9001), (2, 3, 0), (0, 4, 3)]


def gram(x, y, kernel):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if kernel.name == "linear":
        return np.einsum("id,jd->ij", x, y)
    return np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / (2 * kernel.bandwidth**2))


def distances(x, y, kernel):
    """√(k(x,x) + k(y,y) − 2 k(x,y)), term by term."""
    own = [np.array([gram(row[None], row[None], kernel)[0, 0] for row in rows]) for rows in (x, y)]
    return np.sqrt(np.maximum(own[0][:, None] + own[1][None] - 2 * gram(x, y, kernel), 0))


def draw(n, m, d, seed=0, offset=0.0):
    random = np.random.default_rng(seed)
    return tuple((random.standard_normal((rows, d)) + offset).astype(np.float32) for rows in (n, m))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reductions_follow_the_definition(shape, kernel, backend):
    x, y = draw(*shape)
    means, sums = mean_distance(x, y, kernel, backend), row_sums(x, y, kernel, backend)
    assert means.dtype == sums.dtype == np.float64 and means.shape == sums.shape == (shape[0],)
    np.testing.assert_allclose(means, distances(x, y, kernel).mean(1), rtol=3e-6, atol=1e-7)
    values = gram(x, y, kernel)
    if kernel.name == "linear":  # a sum of products may cancel: its error is measured against their sizes
        sizes = gram(np.abs(x), np.abs(y), kernel).sum(1)
    else:  # exp turns the relative error of its argument into (1 + |argument|) times as much
        sizes = (values * (1 - np.log(np.maximum(values, 1e-300)))).sum(1)
    assert (np.abs(sums - values.sum(1)) <= 3e-6 * sizes + 1e-12).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_a_common_offset_costs_no_digits(kernel, backend):
    x, y = draw(6, 40, 50, offset=1e4)
    # The oracle gets the same float32 rows, moved back exactly, so that its own definition does not cancel.
    near = [np.asarray(rows, np.float64) - 1e4 for rows in (x, y)]
    np.testing.assert_allclose(mean_distance(x, y, kernel, backend), distances(*near, kernel).mean(1), rtol=3e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_distance_is_a_pseudometric(kernel, backend):
    rows = draw(7, 1, 33)[0]
    rows[3] = rows[0]  # a tie

    def distance(a, b):
        return mean_distance(rows[a : a + 1], rows[b : b + 1], kernel, backend)[0]

    table = np.array([[distance(a, b) for b in range(7)] for a in range(7)])
    assert (np.diag(table) == 0).all() and table[0, 3] == 0
    np.testing.assert_array_equal(table, table.T)
    off = ~np.eye(7, dtype=bool)
    off[0, 3] = off[3, 0] = False
    assert (table[off] > 0).all()
    assert (table[:, None, :] <= (table[:, :, None] + table[None]) + 1e-6).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_parts_of_y_merge_into_the_whole(kernel, backend):
    x, y = draw(5, 90, 20)
    parts = y[:13], y[13:50], y[50:]
    sums = sum(row_sums(x, part, kernel, backend) for part in parts)
    np.testing.assert_allclose(sums, row_sums(x, y, kernel, backend), rtol=1e-5, atol=1e-4)
    means = sum(len(part) * mean_distance(x, part, kernel, backend) for part in parts) / 90
    np.testing.assert_allclose(means, mean_distance(x, y, kernel, backend), rtol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("reduction", [mean_distance, row_sums])
def test_gradients_match_finite_differences(reduction, kernel):
    x, y = (torch.from_numpy(rows).double().requires_grad_() for rows in draw(4, 6, 5))
    assert torch.autograd.gradcheck(lambda x, y: reduction(x, y, kernel), (x, y))


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_the_gradient_at_coinciding_points_is_that_of_the_others(kernel):
    x, y = (torch.from_numpy(rows).double() for rows in draw(2, 3, 5))
    y[1] = x[0]
    alone = x[:1].clone().requires_grad_()
    mean_distance(alone, x[:1], kernel).sum().backward()
    assert (alone.grad == 0).all()
    with_tie, without = (x[:1].clone().requires_grad_() for _ in range(2))
    (3 * mean_distance(with_tie, y, kernel).sum()).backward()
    (2 * mean_distance(without, y[[0, 2]], kernel).sum()).backward()
    torch.testing.assert_close(with_tie.grad, without.grad)
    assert (with_tie.grad != 0).any()


def test_the_gradient_at_distance_zero_is_zero_for_any_kernel():
    class Dot(Linear):
        def squared_distance(self, pairs):
            return pairs.dot  # zero for the first row without a gradient of zero, below zero for the second

    x = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 4.0]], requires_grad=True)
    distances = mean_distance(x, torch.tensor([[0.0, 1.0]]), Dot(), backend="torch")
    distances.sum().backward()
    assert distances.tolist() == [0.0, 0.0, 2.0]
    assert x.grad.tolist() == [[0.0, 0.0], [0.0, 0.0], [0.0, 0.25]]


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_shows_in_its_row_only(kernel, backend):
    x, y = draw(3, 4, 20)
    x[1, 7] = np.nan
    for reduction in (mean_distance, row_sums):
        assert np.isnan(reduction(x, y, kernel, backend)).tolist() == [False, True, False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_tensors_come_back_as_tensors(backend):
    x, y = draw(3, 4, 6)
    expected = mean_distance(x, y, backend="numpy")
    for dtype, result, tolerance in [
        (torch.float32, torch.float32, 1e-6),
        (torch.float64, torch.float64, 1e-6),
        (torch.bfloat16, torch.float32, 2e-2),
        (torch.float16, torch.float32, 2e-3),
    ]:
        got = mean_distance(torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype), backend=backend)
        assert got.dtype == result
        np.testing.assert_allclose(got.numpy(), expected, rtol=tolerance)


def test_auto_takes_torch_for_a_gradient_and_else_rust():
    x, y = (torch.from_numpy(rows) for rows in draw(3, 40, 300))
    leaf = x.clone().requires_grad_()
    assert mean_distance(leaf, y).requires_grad
    with torch.no_grad():
        assert torch.equal(mean_distance(leaf, y), mean_distance(x, y, backend="rust"))
    assert torch.equal(mean_distance(x, y), mean_distance(x, y, backend="rust"))
    for backend in ("rust", "numpy"):
        with pytest.raises(OptionError, match="no gradient"):
            mean_distance(leaf, y, backend=backend)


def test_a_large_torch_call_is_done_in_blocks(monkeypatch):
    from dap.kernels import backend_torch

    x, y = (torch.from_numpy(rows) for rows in draw(7, 5, 3))
    whole = mean_distance(x, y, backend="torch")
    sizes = []
    kernel = Linear()
    original = Linear.squared_distance
    monkeypatch.setattr(Linear, "squared_distance", lambda self, p: sizes.append(len(p.x)) or original(self, p))
    monkeypatch.setattr(backend_torch, "_BLOCK_PAIRS", 10)
    assert torch.equal(mean_distance(x, y, kernel, backend="torch"), whole)
    assert sizes == [2, 2, 2, 1]


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_median_is_that_of_the_distinct_pairs(kind):
    y = draw(1, 41, 9, offset=100.0)[1]
    pairs = [np.linalg.norm(y[i].astype(float) - y[j]) for i in range(41) for j in range(i)]
    assert RBF().resolve(kind(y)).bandwidth == pytest.approx(np.median(pairs), rel=1e-9)


def test_the_median_looks_at_a_thousand_rows_and_is_never_zero():
    y = np.concatenate([np.tile([[0.0], [2.0]], (500, 1)), np.full((9, 1), 1e6)])
    assert RBF().resolve(y).bandwidth == 2.0
    assert RBF().resolve(np.full((9, 4), 0.1)).bandwidth == 1.0
    mostly_equal = np.repeat(np.random.default_rng(0).standard_normal((2, 57)), [1, 9], axis=0)
    assert RBF().resolve(mostly_equal).bandwidth == 1.0
    assert RBF().resolve(np.ones((1, 4))).bandwidth == 1.0
    with pytest.raises(OptionError, match="not finite"):
        RBF().resolve(np.full((3, 1), np.nan))


def test_mean_distance_resolves_the_median_from_y():
    x, y = draw(3, 20, 4)
    np.testing.assert_array_equal(mean_distance(x, y, RBF()), mean_distance(x, y, RBF().resolve(y)))
    with pytest.raises(OptionError, match="resolve"):
        RBF().value(NumpyPairs(x[:1], y))


def test_kernels_have_names_and_survive_json():
    assert list_kernels() == ["linear", "rbf"]
    for kernel in [*KERNELS, RBF()]:
        options = json.loads(json.dumps(dataclasses.asdict(kernel)))
        assert by_name(options.pop("name"), **options) == kernel
    with pytest.raises(OptionError, match="did you mean 'rbf'"):
        by_name("rbff")
    with pytest.raises(OptionError, match="'bandwith'; did you mean 'bandwidth'"):
        by_name("rbf", bandwith=1.0)


@pytest.mark.parametrize("bandwidth", [0, -1.0, float("nan"), float("inf"), "mean", None, True])
def test_a_bad_bandwidth_is_refused(bandwidth):
    with pytest.raises(OptionError, match="bandwidth"):
        RBF(bandwidth=bandwidth)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "number of features, got 3 and 4"),
        (np.zeros(3), np.zeros((2, 3)), r"x must have 2 dimensions.*\(3,\)"),
        (np.zeros((2, 3)), torch.zeros(2, 3), "one kind"),
        (np.zeros((2, 3)), [[0.0] * 3], "y must be a numpy array or a torch tensor, got list"),
        (np.zeros((2, 3), complex), np.zeros((2, 3)), "real numbers"),
        (torch.zeros(2, 3, dtype=torch.complex64), torch.zeros(2, 3), "real numbers"),
        (torch.zeros(2, 3), torch.zeros(2, 3, device="meta"), "one device"),
        (np.zeros((2, 3)), np.zeros((0, 3)), "y has no rows"),
    ],
)
def test_bad_rows_are_refused(x, y, message):
    with pytest.raises(OptionError, match=message):
        mean_distance(x, y)


def test_bad_backends_are_refused():
    x = np.zeros((2, 3))
    with pytest.raises(OptionError, match="unknown backend 'rusty'; did you mean 'rust'"):
        mean_distance(x, x, backend="rusty")

    class Other(Linear):
        def squared_distance(self, pairs):
            return 4 * pairs.squared

    class Foreign:
        name = "foreign"
        resolve = Linear.resolve
        value = Linear.value
        squared_distance = Other.squared_distance

    with pytest.raises(OptionError, match="no kernel 'foreign'"):
        mean_distance(x, x, Foreign(), backend="rust")
    y = x + 1
    assert mean_distance(x, y, Foreign()) == pytest.approx(2 * 3**0.5)
    assert mean_distance(torch.from_numpy(x), torch.from_numpy(y), Foreign())[0] == pytest.approx(2 * 3**0.5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_may_be_strided_read_only_or_integers(backend):
    x, y = draw(4, 6, 8)
    expected = mean_distance(np.ascontiguousarray(x[:, ::2]), np.ascontiguousarray(y[::-1, ::2]), backend=backend)
    np.testing.assert_allclose(mean_distance(x[:, ::2], y[::-1, ::2], backend=backend), expected, rtol=1e-6)
    x.flags.writeable = False
    assert mean_distance(x, y, backend=backend).shape == (4,)
    whole = np.array([[0, 0], [3, 4]])
    np.testing.assert_array_equal(mean_distance(whole, whole, backend=backend), [2.5, 2.5])


def test_numpy_users_do_not_import_torch():
    code = (
        "import sys, numpy as np; from dap.kernels import RBF, mean_distance\n"
        "mean_distance(np.ones((2, 3)), np.ones((2, 3)), RBF()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
