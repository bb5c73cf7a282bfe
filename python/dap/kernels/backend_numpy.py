"""The numpy backend: every reduction by its definition in float64, one row of x at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from dap.kernels.arrays import Array, to_numpy
from dap.kernels.backend_base import Backend
from dap.kernels.base import Kernel
from dap.kernels.pairs import DiagonalPairs, Functions, Pairs

__all__ = ["NUMPY", "NumpyBackend", "NumpyPairs"]

Matrix: TypeAlias = npt.NDArray[np.float64]

_FUNCTIONS = cast("Functions[Matrix]", np)


@dataclass(frozen=True)
class NumpyPairs(Pairs[Matrix]):
    """The pairs of one row of x, shape (1, d), and the rows of y, shape (m, d)."""

    x: Matrix
    y: Matrix

    @property
    def xp(self) -> Functions[Matrix]:
        """The module numpy."""
        return _FUNCTIONS

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
        """The pairs of the rows divided by their norms."""
        return NumpyPairs(*(rows / np.where(_norms(rows) == 0, 1.0, _norms(rows)) for rows in (self.x, self.y)))


class NumpyBackend(Backend[np.ndarray]):
    """The reductions by their definition; :class:`Backend` documents the methods."""

    def gram(self, x: Array, y: Array | None, kernel: Kernel, out: Array | None = None) -> Array:
        """Return k(x_i, y_j) with shape (n, m), written into ``out`` if that is given."""
        matrix = np.empty((len(x), len(x if y is None else y))) if out is None else cast(np.ndarray, out)
        for i, pairs in enumerate(_rows(x, y)):
            matrix[i] = kernel.value(pairs)[0]
        return matrix

    def row_sums(self, x: Array, y: Array | None, kernel: Kernel, weights: Array | None = None) -> np.ndarray:
        """Return Σ_j k(x_i, y_j), or k(x, y)·W."""
        if weights is None:
            return np.array([kernel.value(pairs).sum() for pairs in _rows(x, y)], np.float64)
        columns = to_numpy(weights, np.float64)
        sums = [kernel.value(pairs)[0] @ columns for pairs in _rows(x, y)]
        return np.array(sums, np.float64).reshape(len(x), columns.shape[1])

    def mean_distance(self, x: Array, y: Array | None, kernel: Kernel, weights: Array | None = None) -> np.ndarray:
        """Return the mean, or the weighted sum, of D(x_i, y_j)."""
        count = len(x if y is None else y)
        shares = np.full(count, 1 / count) if weights is None else to_numpy(weights, np.float64)
        rows = [np.sqrt(np.maximum(kernel.squared_distance(pairs), 0.0))[0] @ shares for pairs in _rows(x, y)]
        return np.array(rows, np.float64)

    def pair_sums(self, x: Array, y: Array | None, kernel: Kernel) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the sums of rows and of columns, and the sum of squares."""
        rows, columns, squares = np.zeros(len(x)), np.zeros(len(x if y is None else y)), np.float64(0.0)
        for i, pairs in enumerate(_rows(x, y)):
            values = kernel.value(pairs)[0]
            rows[i] = values.sum()
            columns += values
            squares += np.square(values).sum()
        return rows, columns, squares

    def nearest(self, x: Array, y: Array | None, kernel: Kernel | None, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the k nearest rows of y for each row of x."""
        values, indices = np.empty((len(x), k)), np.empty((len(x), k), np.int64)
        for i, pairs in enumerate(_rows(x, y)):
            row = (pairs.distance if kernel is None else kernel.value(pairs))[0]
            indices[i] = np.argsort(row if kernel is None else -row, kind="stable")[:k]
            values[i] = row[indices[i]]
        return values, indices

    def diagonal(self, x: Array, kernel: Kernel) -> np.ndarray:
        """Return k(x_i, x_i)."""
        rows = to_numpy(x, np.float64)
        squared = np.einsum("ij,ij->i", rows, rows)[:, None]
        if not np.isfinite(squared).all():
            squared[~np.isfinite(rows).all(axis=1)] = np.nan
        values: Matrix = kernel.value(DiagonalPairs(_FUNCTIONS, squared, np.sqrt(squared)))[:, 0]
        return values


NUMPY = NumpyBackend()


def _rows(x: Array, y: Array | None) -> Iterator[NumpyPairs]:
    rows = _finite(x)
    others = rows if y is None else _finite(y)
    return (NumpyPairs(row[None], others) for row in rows)


def _finite(array: Array) -> Matrix:
    rows = to_numpy(array, np.float64)
    finite: Matrix = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, np.nan)
    return finite


def _norms(rows: Matrix) -> Matrix:
    norms: Matrix = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return norms
