"""The reductions on the CPU in Rust: float32 in, float64 out, all cores, stopped by Ctrl-C."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

import dap._core as _core
from dap.kernels.arrays import to_numpy
from dap.kernels.linear import Linear
from dap.kernels.rbf import RBF


def mean_distance(x: Any, y: Any, kernel: Linear | RBF) -> npt.NDArray[np.float64]:
    """(1/m) Σ_j D(x_i, y_j) with shape (n,)."""
    return _core.mean_distance(to_numpy(x, np.float32), to_numpy(y, np.float32), kernel.name, _bandwidth(kernel))


def row_sums(x: Any, y: Any, kernel: Linear | RBF) -> npt.NDArray[np.float64]:
    """Σ_j k(x_i, y_j) with shape (n,)."""
    return _core.row_sums(to_numpy(x, np.float32), to_numpy(y, np.float32), kernel.name, _bandwidth(kernel))


def _bandwidth(kernel: Linear | RBF) -> float | None:
    return float(kernel.bandwidth) if isinstance(kernel, RBF) else None
