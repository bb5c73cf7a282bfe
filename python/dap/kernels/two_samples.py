"""The checks and the pooled rows of two samples, for all two-sample estimates."""

from __future__ import annotations

from typing import Any

import numpy as np

from dap.errors import OptionError
from dap.kernels.arrays import Array, Rows, is_double, is_tensor
from dap.kernels.backend_base import Backend
from dap.kernels.backend_choice import choose
from dap.kernels.base import Kernel, as_kernel
from dap.kernels.checks import check_rows

__all__ = ["check_samples", "pooled", "prepare", "stack"]

_POOLED_ROWS = 1000  # as many as a bandwidth rule uses


def check_samples(x: Array, y: Array, *, least: int) -> None:
    """Raise unless x and y are matrices of real numbers of one width and kind, with ``least`` rows or more each."""
    check_rows(x=x, y=y)
    for name, rows in (("x", x), ("y", y)):
        if len(rows) < least:
            raise OptionError(f"{name} must have at least {least} rows for this estimate, got {len(rows)}")


def prepare(x: Rows, y: Rows, kernel: Kernel | str, backend: str, *, least: int) -> tuple[Kernel, Backend[Any]]:
    """Check the samples, then return the kernel with its bandwidth from the pooled rows, and the backend."""
    check_samples(x, y, least=least)
    resolved = as_kernel(kernel).resolve(pooled(x, y))
    return resolved, choose(resolved, backend, x, y).load()


def pooled(x: Rows, y: Rows) -> Rows:
    """Return the rows of x and y together; of more than 1,000 rows, the 1,000 that bandwidth rules use."""
    n, total = len(x), len(x) + len(y)
    if total <= _POOLED_ROWS:
        return stack(x, y)
    rows = np.arange(_POOLED_ROWS) * total // _POOLED_ROWS
    return stack(x[rows[rows < n]], y[rows[rows >= n] - n])


def stack(x: Rows, y: Rows) -> Rows:
    """Return the rows of both, in float64 if the computation with both is in float64."""
    double = is_double(x, y)
    if not is_tensor(x):
        return np.concatenate([x, y], dtype=np.float64 if double else None)
    import torch

    return torch.cat([x.double(), y.double()] if double else [x, y])
