"""The arguments of the public reductions: memory, out, what is refused, and the choice of the backend."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import kernel_oracle as oracle
import numpy as np
import pytest
import torch

from dap import kernels as K
from dap.config import to_json
from dap.errors import OptionError
from dap.kernels import backend_choice, checks
from dap.kernels.backend_base import Backend
from dap.kernels.backend_numpy import NumpyBackend
from dap.kernels.backend_rust import RustBackend
from dap.kernels.backend_torch import TorchBackend
from dap.kernels.base import KERNELS
from dap.methods import DAP

BACKENDS = ["numpy", "torch", "rust"]

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def draw(n, m, d, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((n, d)), random.standard_normal((m, d))


def test_nearest_finds_the_bad_row_in_any_part(monkeypatch):
    monkeypatch.setattr(checks, "_FINITE_BLOCK", 7)  # 3 rows of 2
    for bad in range(8):
        for kind in (np.array, torch.tensor):
            x = kind([[0.0, 0.0]] * 8)
            x[bad, 1] = np.inf
            with pytest.raises(OptionError, match=f"row {bad} holds"):
                K.nearest(x)


def layouts(rows, folder, name):
    """The same numbers in other memory."""
    read_only = rows.copy()
    read_only.flags.writeable = False
    wide = np.zeros((2 * len(rows), 3 * rows.shape[1]), rows.dtype)
    wide[::-2, ::3] = rows
    mapped = np.memmap(folder / name, rows.dtype, "w+", shape=rows.shape)
    mapped[:] = rows
    mapped.flush()
    return {
        "read-only": read_only,
        "strided": wide[::-2, ::3],
        "Fortran": np.asfortranarray(rows),
        "memory-mapped": np.memmap(folder / name, rows.dtype, "r", shape=rows.shape),
        "big-endian": rows.astype(rows.dtype.newbyteorder(">")),
    }


@each_backend
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_the_layout_in_memory_does_not_matter(dtype, backend, tmp_path):
    x, y = (np.round(4 * rows).astype(dtype) for rows in draw(7, 12, 10))
    both = zip(layouts(x, tmp_path, "x").items(), layouts(y, tmp_path, "y").values(), strict=True)
    kernel = K.Sum([K.RBF(9.0), K.Laplacian(9.0), K.Linear()])
    for (layout, other_x), other_y in both:
        for reduction in (K.gram, K.row_sums, K.mean_distance):
            expected = reduction(x, y, kernel, backend)
            np.testing.assert_allclose(
                reduction(other_x, other_y, kernel, backend), expected, rtol=1e-6, err_msg=layout
            )
        np.testing.assert_array_equal(K.nearest(other_x, other_y, 3, backend=backend)[1], K.nearest(x, y, 3)[1])
        weights = np.asfortranarray(draw(12, 0, 4)[0])[::-1]
        expected = K.row_sums(x, y, kernel, backend, weights=weights.copy())
        np.testing.assert_allclose(K.row_sums(x, y, kernel, backend, weights=weights), expected, 1e-6, 2e-4)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_may_be_strided(dtype, backend):
    x, y = (torch.from_numpy(rows).to(dtype) for rows in draw(8, 9, 12))
    x, y = x[::2, ::3], y.T[:4].T
    expected = K.row_sums(x.clone(), y.clone(), "rbf", backend)
    np.testing.assert_allclose(K.row_sums(x, y, "rbf", backend), expected, rtol=1e-5)


@each_backend
@pytest.mark.parametrize(("dtype", "result"), [("float16", "float32"), ("float32", "float32"), ("int64", "float64")])
def test_gram_writes_into_out(dtype, result, backend, tmp_path):
    x, y = (np.round(4 * rows).astype(dtype) for rows in draw(5, 7, 6))
    expected = K.gram(x, y, "laplacian", backend)
    out = np.memmap(tmp_path / "gram", result, "w+", shape=(5, 7))
    assert K.gram(x, y, "laplacian", backend, out=out) is out
    np.testing.assert_allclose(np.fromfile(tmp_path / "gram", result).reshape(5, 7), expected, rtol=1e-6)
    tensor = torch.zeros(5, 5, dtype=getattr(torch, result))
    assert K.gram(torch.from_numpy(x), None, "laplacian", backend, out=tensor) is tensor
    np.testing.assert_allclose(tensor, K.gram(x, None, "laplacian", backend), rtol=1e-6)


@each_backend
def test_an_unfit_out_is_refused(backend):
    x, y = draw(5, 7, 3)
    read_only = np.zeros((5, 7))
    read_only.flags.writeable = False
    for out, message in [
        (np.zeros((7, 5)), r"shape \(5, 7\)"),
        (np.zeros((5, 7), np.float32), "C-contiguous float64"),
        (np.zeros((7, 5)).T, "non-contiguous"),
        (read_only, "read-only"),
        (torch.zeros(5, 7), "one kind"),
        ([[0.0] * 7] * 5, "out must be a numpy array"),
    ]:
        with pytest.raises(OptionError, match=message):
            K.gram(x, y, backend=backend, out=out)
    leaf = torch.zeros(5, 3, requires_grad=True)
    with pytest.raises(OptionError, match="no gradient"):
        K.gram(leaf, leaf, backend=backend, out=torch.zeros(5, 5))


@each_backend
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "number of features, got 3 and 4"),
        (np.zeros(3), np.zeros((2, 3)), r"x must have 2 dimensions.*\(3,\)"),
        (np.zeros((2, 3)), torch.zeros(2, 3), "one kind"),
        (np.zeros((2, 3)), [[0.0] * 3], "y must be a numpy array or a torch tensor, got list"),
        (np.zeros((2, 3), complex), np.zeros((2, 3)), "real numbers"),
        (np.zeros((2, 3), object), None, "real numbers"),
        (np.zeros((2, 3), "U3"), None, "real numbers"),
        (np.zeros((2, 3), "M8[s]"), None, "real numbers"),
        (np.zeros((2, 3), np.longdouble), None, "real numbers"),
        (torch.zeros(2, 3, dtype=torch.complex64), torch.zeros(2, 3), "real numbers"),
        (torch.zeros(2, 3).to(torch.float8_e4m3fn), None, "real numbers"),
        (torch.zeros(2, 3), torch.zeros(2, 3, device="meta"), "one device"),
    ],
)
def test_unfit_rows_are_refused(x, y, message, backend):
    for call in (K.gram, K.row_sums, K.row_means, K.mean_distance, K.explain):
        with pytest.raises(OptionError, match=message):
            call(x, y, backend=backend)
    with pytest.raises(OptionError, match=message):
        K.nearest(x, y, 1, backend=backend)


@each_backend
def test_unfit_arguments_are_refused(backend):
    x = np.zeros((4, 3))
    for reduction in (K.mean_distance, K.row_means):
        with pytest.raises(OptionError, match="y has no rows"):
            reduction(x, x[:0], backend=backend)
        with pytest.raises(OptionError, match="x has no rows"):
            reduction(x[:0], backend=backend)
    for k in (0, 5, True, 1.0, "1"):
        with pytest.raises(OptionError, match="k: expected a whole number from 1 to 4"):
            K.nearest(x, k=k, backend=backend)
    for weights, message in [
        (np.zeros(4), "weights must have 2 dimensions"),
        (np.zeros((3, 2)), "one row for each of the 4 rows of y, got 3"),
        (np.zeros((4, 2), complex), "real numbers"),
        (torch.zeros(4, 2), "one kind"),
    ]:
        with pytest.raises(OptionError, match=message):
            K.row_sums(x, weights=weights, backend=backend)
    with pytest.raises(OptionError, match="unknown kernel 'rbff'; did you mean 'rbf'"):
        K.gram(x, kernel="rbff", backend=backend)
    for kernel in (K.RBF, 3, None):
        with pytest.raises(OptionError, match="kernel: expected a name, a kernel or"):
            K.gram(x, kernel=kernel, backend=backend)
    with pytest.raises(OptionError, match="not finite"):
        K.row_sums(x, np.full((3, 3), np.nan), "rbf", backend)


@each_backend
def test_bandwidth_rules_look_at_y(backend):
    x, y = draw(3, 20, 4)
    for reduction in (K.gram, K.row_sums, K.row_means, K.mean_distance):
        resolved = reduction(x, y, K.Matern().resolve(y), backend)
        np.testing.assert_array_equal(reduction(x, y, "matern", backend), resolved)
        np.testing.assert_array_equal(
            reduction(y, None, "matern", backend), reduction(y, None, K.Matern().resolve(y), backend)
        )
    np.testing.assert_array_equal(
        K.nearest(x, y, 2, "rbf", backend)[0], K.nearest(x, y, 2, K.RBF().resolve(y), backend)[0]
    )


@dataclass(frozen=True)
class Foreign(K.Kernel):
    """A kernel of the user's own, 4 x·y, which Rust does not know."""

    name: str = "foreign"

    def resolve(self, y):
        return self

    def value(self, pairs):
        return 4 * pairs.dot

    def squared_distance(self, pairs):
        return 4 * pairs.squared


@dataclass(frozen=True)
class Doubled(K.Linear):
    """A subclass may compute something else than its base, so that Rust does not know it."""

    value = Foreign.value


def test_auto_chooses_by_gradient_device_kernel_and_size(monkeypatch):
    x, y = (torch.from_numpy(rows) for rows in draw(3, 40, 30))
    leaf = x.clone().requires_grad_()
    assert K.explain(x, y).backend == K.explain(x.numpy(), y.numpy(), "matern").backend == "rust"
    assert str(K.explain(leaf, y)) == "The torch backend computes this: an argument needs a gradient."
    assert K.explain(y, leaf).backend == "torch"
    with torch.no_grad():
        assert K.explain(leaf, y).backend == "rust"
    assert "meta" in K.explain(x.to("meta")).reason and K.explain(x.to("meta")).backend == "torch"
    for kernel in (Foreign(), Doubled(), K.Sum([K.RBF(), Foreign()])):
        assert K.explain(x, y, kernel).backend == "torch"
        assert K.explain(x.numpy(), y.numpy(), kernel).backend == "numpy"
        with monkeypatch.context() as patch:
            patch.setattr(backend_choice, "SMALL", 3 * 40 * 30)
            assert K.explain(x.numpy(), y.numpy(), kernel).backend == "numpy"
            patch.setattr(backend_choice, "SMALL", 3 * 40 * 30 - 1)
            assert K.explain(x.numpy(), y.numpy(), kernel).backend == "torch"
    assert K.explain(x, y, backend="numpy") == K.Choice("numpy", "it was asked for")


def test_the_choice_is_what_computes(monkeypatch):
    x = draw(3, 0, 4)[0]
    leaf = torch.from_numpy(x).requires_grad_()
    weights = torch.ones(3, 1, requires_grad=True)
    used = []
    for kind, name in ((NumpyBackend, "numpy"), (RustBackend, "rust"), (TorchBackend, "torch")):
        monkeypatch.setattr(kind, "row_sums", lambda *_, name=name: used.append(name) or np.zeros(3))
    for backend in BACKENDS:
        K.row_sums(x, backend=backend)
    K.row_sums(x)
    K.row_sums(leaf)
    K.row_sums(leaf.detach(), weights=weights)
    K.row_sums(x, kernel=Foreign())
    assert used == [*BACKENDS, "rust", "torch", "torch", "numpy"]


def test_backends_that_cannot_are_refused():
    x = np.zeros((2, 3))
    with pytest.raises(OptionError, match="unknown backend 'rusty'; did you mean 'rust'"):
        K.mean_distance(x, x, backend="rusty")
    for kernel in (Foreign(), Doubled(), K.Sum([Foreign()])):
        with pytest.raises(OptionError, match=f"the rust backend has no kernel '{kernel.name}'"):
            K.mean_distance(x, x, kernel, backend="rust")
    leaf = torch.zeros(2, 3, requires_grad=True)
    for backend in ("rust", "numpy"):
        with pytest.raises(OptionError, match="no gradient"):
            K.mean_distance(leaf, leaf, backend=backend)


def test_a_kernel_of_the_users_own_is_computed():
    x, y = draw(3, 5, 4)
    for rows in ((x, y), (torch.from_numpy(x), torch.from_numpy(y))):
        np.testing.assert_allclose(K.gram(*rows, Foreign()), 4 * x @ y.T, rtol=1e-12)
        np.testing.assert_allclose(K.gram(*rows, Doubled()), 4 * x @ y.T, rtol=1e-12)
        expected = 2 * oracle.euclidean(x, y).mean(1)
        np.testing.assert_allclose(K.mean_distance(*rows, Foreign()), expected, rtol=1e-12)


def test_a_method_with_any_kernel_survives_json():
    for kernel in (
        *map(K.by_name, set(K.list_kernels()) - {"sum"}),
        K.RBF([1.0, 2.0]),
        K.Sum([K.Linear(), K.Matern(2.5)]),
    ):
        method = DAP(kernel=kernel)
        options = json.loads(json.dumps(to_json(method)))
        assert options.pop("name") == "dap" and DAP(**options) == method


def test_users_of_arrays_import_no_torch():
    code = (
        "import sys, numpy as np; from dap import kernels as K\n"
        "x = np.eye(3); K.gram(x), K.row_sums(x, backend='numpy'), K.mmd2(x, x + 1), K.nearest(x)\n"
        "K.permutation_test(x, x + 1, permutations=9), K.witness(x, x, x + 1), K.explain(x)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("backend", ["numpy", "rust", "torch"])
@pytest.mark.parametrize(("dtype", "computed"), [("float16", "float32"), ("float32", "float32"), ("int32", "float64")])
def test_the_matrix_of_arrays_has_the_dtype_that_is_computed_in(dtype, computed, backend):
    assert K.gram(np.ones((2, 3), dtype), kernel="linear", backend=backend).dtype == computed


def test_a_kernel_without_what_it_needs_is_refused():
    with pytest.raises(OptionError, match="sum kernel needs kernels"):
        K.gram(np.zeros((2, 3)), kernel="sum")


PARTS = {"name": "mine", **{part: vars(Foreign)[part] for part in ("resolve", "value", "squared_distance")}}


@pytest.mark.parametrize("missing", PARTS)
def test_a_kernel_that_lacks_a_part_is_refused_when_it_is_made_and_when_it_is_registered(missing):
    parts = {part: value for part, value in PARTS.items() if part != missing}
    kind = dataclass(frozen=True)(type("Mine", (K.Kernel,), parts))
    for refused in (kind, lambda: KERNELS.register("mine")(kind)):
        with pytest.raises(OptionError, match=f"kernel Mine lacks {missing}$"):
            refused()
    assert "mine" not in KERNELS


def test_a_kernel_that_is_no_frozen_dataclass_is_refused():
    kind = type("Mine", (K.Kernel,), PARTS)
    for refused in (kind, lambda: KERNELS.register("mine")(kind)):
        with pytest.raises(OptionError, match=r"kernel Mine: write @dataclass\(frozen=True\) directly above the class"):
            refused()
    with pytest.raises(TypeError, match="non-frozen"):
        dataclass(type("Mine", (K.Kernel,), PARTS))
    with pytest.raises(OptionError, match="expected a subclass of Kernel"):
        KERNELS.register("mine")(type("Mine", (), PARTS))
    with pytest.raises(OptionError, match="kernel Mine lacks name: give the field a default"):
        dataclass(frozen=True)(type("Mine", (K.Kernel,), {**PARTS, "name": 3}))()


REDUCTIONS = ["gram", "row_sums", "mean_distance", "pair_sums", "nearest", "diagonal"]


@pytest.mark.parametrize("missing", REDUCTIONS)
def test_a_backend_that_lacks_a_reduction_cannot_be_made(missing):
    parts = {part: vars(NumpyBackend)[part] for part in REDUCTIONS if part != missing}
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        type("Mine", (Backend,), parts)()
    assert NumpyBackend() and RustBackend() and TorchBackend()
