"""The reductions in numpy: the definition in float64, one row of x at a time.

y None means x itself. A row that holds NaN or infinity counts as a row of NaN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dap.kernels.arrays import to_numpy
from dap.kernels.base import DiagonalPairs, Kernel

Matrix: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NumpyPairs:
    """The pairs of one row of x, shape (1, d), and the rows of y, shape (m, d); see :class:`dap.kernels.base.Pairs`."""

    x: Matrix
    y: Matrix
    xp: Any = np

    @property
    def dot(self) -> Matrix:
        """x·y_j with shape (1, m)."""
        return self.x @ self.y.T

    @cached_property
    def squared(self) -> Matrix:
        """‖x − y_j‖² with shape (1, m)."""
        squared: Matrix = np.square(self.x - self.y).sum(axis=1)[None]
        return squared

    @property
    def distance(self) -> Matrix:
        """‖x − y_j‖ with shape (1, m)."""
        distance: Matrix = np.sqrt(self.squared)
        return distance

    @property
    def manhattan(self) -> Matrix:
        """‖x − y_j‖₁ with shape (1, m)."""
        manhattan: Matrix = np.abs(self.x - self.y).sum(axis=1)[None]
        return manhattan

    @property
    def x_norm(self) -> Matrix:
        """‖x‖ with shape (1, 1)."""
        return _norms(self.x)

    @property
    def y_norm(self) -> Matrix:
        """‖y_j‖ with shape (1, m)."""
        return _norms(self.y).T

    @cached_property
    def unit(self) -> NumpyPairs:
        """The pairs of the rows over their norms."""
        return NumpyPairs(*(rows / np.where(_norms(rows) == 0, 1.0, _norms(rows)) for rows in (self.x, self.y)))


def gram(x: Any, y: Any, kernel: Kernel, out: Any = None) -> Any:
    """k(x_i, y_j) with shape (n, m), written into ``out`` if that is given."""
    if out is None:
        out = np.empty((len(x), len(x if y is None else y)))
    for i, pairs in enumerate(_rows(x, y)):
        out[i] = kernel.value(pairs)[0]
    return out


def row_sums(x: Any, y: Any, kernel: Kernel, weights: Any = None) -> Matrix:
    """Σ_j k(x_i, y_j) with shape (n,), or with weights of shape (m, C) k(x, y)·W with shape (n, C)."""
    if weights is None:
        return np.array([kernel.value(pairs).sum() for pairs in _rows(x, y)], np.float64)
    weights = to_numpy(weights, np.float64)
    sums = [kernel.value(pairs)[0] @ weights for pairs in _rows(x, y)]
    return np.array(sums, np.float64).reshape(len(x), weights.shape[1])


def mean_distance(x: Any, y: Any, kernel: Kernel, weights: Any = None) -> Matrix:
    """(1/m) Σ_j D(x_i, y_j), or Σ_j w_j D(x_i, y_j) for weights with shape (m,), with shape (n,)."""
    count = len(x if y is None else y)
    shares = np.full(count, 1 / count) if weights is None else to_numpy(weights, np.float64)
    rows = [np.sqrt(np.maximum(kernel.squared_distance(p), 0.0))[0] @ shares for p in _rows(x, y)]
    return np.array(rows, np.float64)


def pair_sums(x: Any, y: Any, kernel: Kernel) -> tuple[Matrix, Matrix, np.float64]:
    """Σ_j k(x_i, y_j) with shape (n,), Σ_i k(x_i, y_j) with shape (m,) and Σ_ij k(x_i, y_j)²."""
    rows, columns, squares = np.zeros(len(x)), np.zeros(len(x if y is None else y)), np.float64(0.0)
    for i, pairs in enumerate(_rows(x, y)):
        values = kernel.value(pairs)[0]
        rows[i] = values.sum()
        columns += values
        squares += np.square(values).sum()
    return rows, columns, squares


def nearest(x: Any, y: Any, kernel: Kernel | None, k: int) -> tuple[Matrix, npt.NDArray[np.int64]]:
    """The k smallest distances, or largest k(x_i, y_j), of each row and their j; of equal ones the lowest j."""
    values, indices = np.empty((len(x), k)), np.empty((len(x), k), np.int64)
    for i, pairs in enumerate(_rows(x, y)):
        row = (pairs.distance if kernel is None else kernel.value(pairs))[0]
        indices[i] = np.argsort(row if kernel is None else -row, kind="stable")[:k]
        values[i] = row[indices[i]]
    return values, indices


def diagonal(x: Any, kernel: Kernel) -> Matrix:
    """k(x_i, x_i) with shape (n,)."""
    rows = to_numpy(x, np.float64)
    squared = np.einsum("ij,ij->i", rows, rows)[:, None]
    if not np.isfinite(squared).all():
        squared[~np.isfinite(rows).all(axis=1)] = np.nan
    values: Matrix = kernel.value(DiagonalPairs(np, squared, np.sqrt(squared)))[:, 0]
    return values


def _rows(x: Any, y: Any) -> Iterator[NumpyPairs]:
    x = _finite(x)
    y = x if y is None else _finite(y)
    return (NumpyPairs(row[None], y) for row in x)


def _finite(rows: Any) -> Matrix:
    rows = to_numpy(rows, np.float64)
    finite: Matrix = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, np.nan)
    return finite


def _norms(rows: Matrix) -> Matrix:
    norms: Matrix = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return norms
