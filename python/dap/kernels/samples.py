"""Two samples as arguments: what is refused, and the rows that bandwidth rules look at."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from dap.errors import OptionError
from dap.kernels.arrays import check_rows, is_double, is_tensor
from dap.kernels.base import Kernel
from dap.kernels.choice import as_kernel, choose, module_of

__all__ = ["check_samples", "pooled", "prepare", "stack"]

_POOLED_ROWS = 1000  # as many as a heuristic looks at


def check_samples(x: Any, y: Any, *, least: int) -> None:
    """Refuses what is not two samples of at least that many rows each."""
    check_rows(x=x, y=y)
    for name, rows in (("x", x), ("y", y)):
        if len(rows) < least:
            raise OptionError(f"{name} must have at least {least} rows for this estimate, got {len(rows)}")


def prepare(x: Any, y: Any, kernel: Kernel | str, backend: str, *, least: int) -> tuple[Kernel, ModuleType]:
    """The kernel with numbers from the pooled rows, and the module of the backend; after the checks."""
    check_samples(x, y, least=least)
    resolved = as_kernel(kernel).resolve(pooled(x, y))
    return resolved, module_of(choose(resolved, backend, x, y))


def pooled(x: Any, y: Any) -> Any:
    """The rows of x and y together, or as many of them, evenly spaced, as bandwidth rules look at."""
    n, total = len(x), len(x) + len(y)
    if total <= _POOLED_ROWS:
        return stack(x, y)
    rows = np.arange(_POOLED_ROWS) * total // _POOLED_ROWS
    return stack(x[rows[rows < n]], y[rows[rows >= n] - n])


def stack(x: Any, y: Any) -> Any:
    """The rows of both, in a dtype that is computed with as theirs are."""
    double = is_double(x, y)
    if not is_tensor(x):
        return np.concatenate([x, y], dtype=np.float64 if double else None)
    import torch

    return torch.cat([x.double(), y.double()] if double else [x, y])
