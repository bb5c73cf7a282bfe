"""The base class of the backends: numpy, Rust and torch each compute the same reductions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from dap.kernels.arrays import Array
from dap.kernels.base import Kernel

if TYPE_CHECKING:
    import torch

__all__ = ["Backend", "Result"]

Result = TypeVar("Result", np.ndarray, "torch.Tensor")
"""The arrays that a backend returns."""


class Backend(ABC, Generic[Result]):
    """Reductions of k(x_i, y_j), for rows that were checked and kernels that were resolved.

    x has shape (n, d) and y shape (m, d); y None stands for x itself. A row that holds NaN or infinity counts as a row
    of NaN. A subclass that lacks a reduction cannot be made: Python raises TypeError with the missing name.
    """

    @abstractmethod
    def gram(self, x: Array, y: Array | None, kernel: Kernel, out: Array | None = None) -> Array:
        """Return k(x_i, y_j) with shape (n, m), written into ``out`` if that is given."""

    @abstractmethod
    def row_sums(self, x: Array, y: Array | None, kernel: Kernel, weights: Array | None = None) -> Result:
        """Return Σ_j k(x_i, y_j) with shape (n,), or k(x, y)·W with shape (n, C) for weights W with shape (m, C)."""

    @abstractmethod
    def mean_distance(self, x: Array, y: Array | None, kernel: Kernel, weights: Array | None = None) -> Result:
        """Return (1/m) Σ_j D(x_i, y_j), or Σ_j w_j D(x_i, y_j) for weights w with shape (m,); the shape is (n,)."""

    @abstractmethod
    def pair_sums(self, x: Array, y: Array | None, kernel: Kernel) -> tuple[Result, Result, float | Result]:
        """Return Σ_j k(x_i, y_j) with shape (n,), Σ_i k(x_i, y_j) with shape (m,) and the number Σ_ij k(x_i, y_j)²."""

    @abstractmethod
    def nearest(self, x: Array, y: Array | None, kernel: Kernel | None, k: int) -> tuple[Result, Result]:
        """Return the k nearest rows of y for each row of x, the lowest index first among equal ones.

        Without a kernel these are the k smallest Euclidean distances in ascending order, with a kernel the k largest
        values in descending order: values and their indices j, both with shape (n, k).
        """

    @abstractmethod
    def diagonal(self, x: Array, kernel: Kernel) -> Result:
        """Return k(x_i, x_i) with shape (n,)."""
