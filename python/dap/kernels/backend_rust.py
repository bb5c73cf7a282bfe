"""The reductions on the CPU in Rust, blocked and fused: all cores, stopped by Ctrl-C, the same bits for any threads.

Each function takes ``threads``, the number of threads, for those who measure; None takes all cores. float16, bfloat16,
float32 and float64 are read as they are stored, x and y each as it is; integers, which become float64, and rows that
are not C-contiguous are copied.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

import dap._core as _core
from dap.errors import OptionError
from dap.kernels import backend_numpy
from dap.kernels.arrays import dtype_name, is_double, to_numpy
from dap.kernels.base import Kernel
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

Array = npt.NDArray[Any]

_BUILT_IN = {
    Linear, Cosine, Polynomial, RBF, Laplacian, Exponential, InverseMultiquadric, RationalQuadratic, Matern, Distance,
}  # fmt: skip

_DIAGONAL_ROWS = 256
"""Rows whose float64 copies stay in the cache."""


def supports(kernel: Kernel) -> bool:
    """Whether the kernel has a compiled form. A subclass has none: it may compute something else."""
    if type(kernel) is Sum:
        return all(supports(part) for part in kernel.kernels)
    return type(kernel) in _BUILT_IN


def gram(x: Any, y: Any, kernel: Kernel, out: Array | None = None, threads: int | None = None) -> Array:
    """k(x_i, y_j) with shape (n, m), float32 or float64; ``out``, if given, is C-contiguous and of that dtype."""
    if out is None:
        out = np.empty((len(x), len(x if y is None else y)), np.float64 if is_double(x, y) else np.float32)
    _core.gram(*_packed(x, y), specification(kernel), out, threads)
    return out


def row_sums(x: Any, y: Any, kernel: Kernel, weights: Any = None, threads: int | None = None) -> Array:
    """Σ_j k(x_i, y_j) with shape (n,), or k(X, Y)·W with shape (n, C) for weights with shape (m, C)."""
    columns = None if weights is None else to_numpy(weights, np.float64)
    return _core.row_sums(*_packed(x, y), specification(kernel), columns, threads)


def mean_distance(x: Any, y: Any, kernel: Kernel, weights: Any = None, threads: int | None = None) -> Array:
    """(1/m) Σ_j D(x_i, y_j), or Σ_j w_j D(x_i, y_j) for weights with shape (m,), with shape (n,)."""
    shares = None if weights is None else to_numpy(weights, np.float64)
    return _core.mean_distance(*_packed(x, y), specification(kernel), shares, threads)


def pair_sums(x: Any, y: Any, kernel: Kernel, threads: int | None = None) -> tuple[Array, Array, float]:
    """Σ_j k(x_i, y_j) with shape (n,), Σ_i k(x_i, y_j) with shape (m,), and Σ_ij k(x_i, y_j)²."""
    return _core.pair_sums(*_packed(x, y), specification(kernel), threads)


def nearest(x: Any, y: Any, kernel: Kernel | None, k: int, threads: int | None = None) -> tuple[Array, Array]:
    """The k smallest Euclidean distances, or the k largest k(x_i, y_j), and their j, with shapes (n, k)."""
    return _core.nearest(*_packed(x, y), None if kernel is None else specification(kernel), k, threads)


def diagonal(x: Any, kernel: Kernel) -> Array:
    """k(x_i, x_i), float64 with shape (n,): in numpy, some rows at a time, since it costs nothing beside the rest."""
    starts = range(0, max(1, len(x)), _DIAGONAL_ROWS)
    return np.concatenate([backend_numpy.diagonal(x[start : start + _DIAGONAL_ROWS], kernel) for start in starts])


def specification(kernel: Kernel) -> list[tuple[str, list[float]]]:
    """The kernels that are summed, each as its name and its parameters in order."""
    if not supports(kernel):
        raise OptionError(f"the rust backend has no kernel {kernel.name!r}: use backend='torch' or 'numpy'")
    if isinstance(kernel, Sum):
        return [entry for part in kernel.kernels for entry in specification(part)]
    fields = [field.name for field in dataclasses.fields(kernel) if field.init]  # type: ignore[arg-type]
    return [(kernel.name, [float(getattr(kernel, name)) for name in fields])]


def _packed(x: Any, y: Any) -> tuple[Array, Array | None]:
    """Both as arrays that Rust reads."""
    return _stored(x), None if y is None else _stored(y)


def _stored(rows: Any) -> Array:
    dtype = "float64" if is_double(rows) else dtype_name(rows)
    if dtype != "bfloat16":
        return to_numpy(rows, dtype)
    import torch

    bits: Array = rows.detach().cpu().contiguous().view(torch.uint16).numpy()  # numpy has no bfloat16
    return bits
