"""Pairs of rows (x_i, y_j): the products, distances and norms from which every kernel is computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["ArrayT", "DiagonalPairs", "Functions", "Pairs"]

ArrayT = TypeVar("ArrayT", npt.NDArray[np.float64], "torch.Tensor")
"""The arrays of a backend: of numpy or of torch."""


class Functions(Protocol[ArrayT]):
    """The functions of numpy and torch that kernels use; both modules have them under these names."""

    def exp(self, x: ArrayT, /) -> ArrayT:
        """Return e^x."""

    def expm1(self, x: ArrayT, /) -> ArrayT:
        """Return e^x − 1 without cancellation near zero."""

    def log1p(self, x: ArrayT, /) -> ArrayT:
        """Return ln(1 + x) without cancellation near zero."""

    def sqrt(self, x: ArrayT, /) -> ArrayT:
        """Return √x."""

    def clip(self, x: ArrayT, least: float | None, most: float | None, /) -> ArrayT:
        """Return x limited to [least, most]."""

    def where(self, condition: object, x: ArrayT | float, y: ArrayT | float, /) -> ArrayT:
        """Return x where the condition holds, y elsewhere."""


class Pairs(ABC, Generic[ArrayT]):
    """All pairs of rows (x_i, y_j) as a backend computes them: arrays with shape (n, m) unless stated.

    In torch every property is differentiable, with a gradient of zero where two points coincide or a vector is zero.
    """

    @property
    @abstractmethod
    def xp(self) -> Functions[ArrayT]:
        """The module numpy or torch, for ``exp``, ``expm1``, ``where`` and so on."""

    @property
    @abstractmethod
    def dot(self) -> ArrayT:
        """x_i·y_j."""

    @property
    @abstractmethod
    def squared(self) -> ArrayT:
        """‖x_i − y_j‖²; for near points it is computed from their difference."""

    @property
    @abstractmethod
    def distance(self) -> ArrayT:
        """‖x_i − y_j‖."""

    @property
    @abstractmethod
    def manhattan(self) -> ArrayT:
        """‖x_i − y_j‖₁."""

    @property
    @abstractmethod
    def x_norm(self) -> ArrayT:
        """‖x_i‖ with shape (n, 1)."""

    @property
    @abstractmethod
    def y_norm(self) -> ArrayT:
        """‖y_j‖ with shape (1, m)."""

    @property
    @abstractmethod
    def unit(self) -> Pairs[ArrayT]:
        """The pairs of the rows divided by their norms; a row of zeros stays zero."""


@dataclass(frozen=True)
class DiagonalPairs(Pairs[ArrayT]):
    """The pairs (x_i, x_i) of each row with itself, with shape (n, 1); every distance is zero.

    Attributes:
        functions: numpy or torch.
        squared_norm: ‖x_i‖² with shape (n, 1).
        norm: ‖x_i‖ with shape (n, 1).
    """

    functions: Functions[ArrayT]
    squared_norm: ArrayT
    norm: ArrayT

    @property
    def xp(self) -> Functions[ArrayT]:
        """The module numpy or torch."""
        return self.functions

    @property
    def dot(self) -> ArrayT:
        """‖x_i‖²."""
        return self.squared_norm

    @property
    def squared(self) -> ArrayT:
        """Zero; NaN for a row of NaN."""
        return self.xp.where(self.norm == self.norm, 0.0, self.norm)

    distance = manhattan = squared

    @property
    def x_norm(self) -> ArrayT:
        """‖x_i‖."""
        return self.norm

    y_norm = x_norm

    @property
    def unit(self) -> DiagonalPairs[ArrayT]:
        """Each row divided by its norm: its norm is 1, or 0 for a row of zeros."""
        ones = self.xp.where(self.norm > 0, 1.0, self.norm)
        return DiagonalPairs(self.xp, ones, ones)
