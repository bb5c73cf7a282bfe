"""Gradients of the torch backend: against finite differences, where there are none, and what they keep."""

from __future__ import annotations

import dataclasses

import kernel_oracle as oracle
import numpy as np
import pytest
import torch
from tested_kernels import STATIONARY, draw, every_kernel

from dap.kernels import torch_pairs, torch_product
from dap.kernels.backend_torch import TORCH
from dap.kernels.cosine import Cosine
from dap.kernels.distance import Distance
from dap.kernels.laplacian import Laplacian
from dap.kernels.linear import Linear
from dap.kernels.matern import Matern
from dap.kernels.polynomial import Polynomial


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
