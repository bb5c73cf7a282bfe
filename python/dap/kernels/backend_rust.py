"""The Rust backend: the reductions on the CPU, blocked and fused; the same bits for any number of threads.

It uses all cores, and Ctrl-C stops it. float16, bfloat16, float32 and float64 are read as they are stored, x and y each
in its own dtype. Integers, which become float64, and rows that are not C-contiguous are copied.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import cast

import numpy as np

import dap._core as _core
from dap.errors import OptionError
from dap.kernels.arrays import Array, dtype_name, is_double, is_tensor, to_numpy
from dap.kernels.backend_base import Backend
from dap.kernels.backend_numpy import NUMPY
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
from dap.kernels.sum import Sum, parts_of

__all__ = ["RUST", "RustBackend", "specification", "supports"]

_BUILT_IN = {
    Linear, Cosine, Polynomial, RBF, Laplacian, Exponential, InverseMultiquadric, RationalQuadratic, Matern, Distance,
}  # fmt: skip

_DIAGONAL_ROWS = 256
"""Rows whose float64 copies stay in the cache."""


@dataclass(frozen=True)
class RustBackend(Backend[np.ndarray]):
    """The compiled reductions; :class:`Backend` documents the methods.

    Attributes:
        threads: The number of threads, for measurements; None for all cores.
    """

    threads: int | None = None

    def gram(self, x: Array, y: Array | None, kernel: Kernel, out: Array | None = None) -> Array:
        """Return k(x_i, y_j), float32 or float64; ``out`` is C-contiguous and of that dtype."""
        if out is None:
            out = np.empty((len(x), len(x if y is None else y)), np.float64 if is_double(x, y) else np.float32)
        _core.gram(*_stored(x, y), specification(kernel), cast(np.ndarray, out), self.threads)
        return out

    def row_sums(self, x: Array, y: Array | None, kernel: Kernel, weights: Array | None = None) -> np.ndarray:
        """Return Σ_j k(x_i, y_j), or k(x, y)·W, in float64."""
        columns = None if weights is None else to_numpy(weights, np.float64)
        return _core.row_sums(*_stored(x, y), specification(kernel), columns, self.threads)

    def mean_distance(self, x: Array, y: Array | None, kernel: Kernel, weights: Array | None = None) -> np.ndarray:
        """Return the mean, or the weighted sum, of D(x_i, y_j), in float64."""
        shares = None if weights is None else to_numpy(weights, np.float64)
        return _core.mean_distance(*_stored(x, y), specification(kernel), shares, self.threads)

    def pair_sums(self, x: Array, y: Array | None, kernel: Kernel) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the sums of rows and of columns, and the sum of squares, in float64."""
        return _core.pair_sums(*_stored(x, y), specification(kernel), self.threads)

    def nearest(self, x: Array, y: Array | None, kernel: Kernel | None, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest rows of y for each row of x."""
        return _core.nearest(*_stored(x, y), None if kernel is None else specification(kernel), k, self.threads)

    def diagonal(self, x: Array, kernel: Kernel) -> np.ndarray:
        """Return k(x_i, x_i), float64, computed by numpy: it takes little time compared with the reductions."""
        starts = range(0, max(1, len(x)), _DIAGONAL_ROWS)
        return np.concatenate([NUMPY.diagonal(x[start : start + _DIAGONAL_ROWS], kernel) for start in starts])


RUST = RustBackend()


def supports(kernel: Kernel) -> bool:
    """Return whether the kernel is compiled. A subclass of a kernel is not, since it may compute something else."""
    if type(kernel) is Sum:
        return all(supports(part) for part in kernel.kernels)
    return type(kernel) in _BUILT_IN


def specification(kernel: Kernel) -> list[tuple[str, list[float]]]:
    """Return the kernel in the form that Rust reads: name and options, in order, of each kernel of the sum.

    Raises:
        OptionError: The kernel is not compiled.

    Example:
        >>> specification(Matern(nu=2.5, bandwidth=3.0))
        [('matern', [2.5, 3.0])]
    """
    if not supports(kernel):
        raise OptionError(f"the rust backend has no kernel {kernel.name!r}: use backend='torch' or 'numpy'")
    return [
        (part.name, [float(getattr(part, field.name)) for field in dataclasses.fields(part) if field.init])
        for part in parts_of(kernel)
    ]


def _stored(x: Array, y: Array | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return x and y as arrays that Rust reads."""
    return _array(x), None if y is None else _array(y)


def _array(rows: Array) -> np.ndarray:
    if not is_tensor(rows) or dtype_name(rows) != "bfloat16":
        return to_numpy(rows, "float64" if is_double(rows) else dtype_name(rows))
    import torch

    bits: np.ndarray = rows.detach().cpu().contiguous().view(torch.uint16).numpy()  # numpy has no bfloat16
    return bits
