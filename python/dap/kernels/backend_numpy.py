"""The reductions in numpy: the definition in float64, one row of x at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dap.kernels.arrays import to_numpy
from dap.kernels.base import Kernel, Pairs


@dataclass(frozen=True)
class NumpyPairs:
    """The pairs of one row of x, shape (1, d), and the rows of y, shape (m, d)."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    xp: Any = np

    @property
    def dot(self) -> npt.NDArray[np.float64]:
        """x·y_j with shape (1, m)."""
        return self.x @ self.y.T

    @property
    def squared(self) -> npt.NDArray[np.float64]:
        """‖x − y_j‖² with shape (1, m)."""
        squared: npt.NDArray[np.float64] = np.square(self.x - self.y).sum(axis=1, keepdims=True).T
        return squared


def mean_distance(x: Any, y: Any, kernel: Kernel) -> npt.NDArray[np.float64]:
    """(1/m) Σ_j D(x_i, y_j) with shape (n,)."""
    return _over_rows(x, y, lambda pairs: np.sqrt(np.maximum(kernel.squared_distance(pairs), 0.0)).mean())


def row_sums(x: Any, y: Any, kernel: Kernel) -> npt.NDArray[np.float64]:
    """Σ_j k(x_i, y_j) with shape (n,)."""
    return _over_rows(x, y, lambda pairs: kernel.value(pairs).sum())


def _over_rows(x: Any, y: Any, reduce: Callable[[Pairs], Any]) -> npt.NDArray[np.float64]:
    x, y = to_numpy(x, np.float64), to_numpy(y, np.float64)
    return np.array([reduce(NumpyPairs(row[None], y)) for row in x], dtype=np.float64)
