"""Pairs of rows in torch, differentiable in x and y, in blocks that bound the memory; the mean kernel distance.

Squared distances come from a matrix product. Its error, √ε‖x‖, is too large for near points and for rows with a common
offset. So the rows are centred first, and pairs that are still near are computed again from their differences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dap.kernels.pairs import Functions, Pairs
from dap.kernels.torch_product import product

if TYPE_CHECKING:
    from dap.kernels.arrays import Array
    from dap.kernels.base import Kernel

__all__ = ["Blocks", "TorchPairs", "exact_where", "mean_distance", "norms_of", "root"]

Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor, Tensor])

_SIDE = 2048
"""Rows of x and of y in a block: 2^22 pairs, 16 MiB of float32."""

_SMALL = 1 << 22
"""Pairs times features up to which the differences are quicker than the product and its corrections."""

_GATHERED = 1 << 22
"""Numbers in the rows that are gathered at once for the near pairs."""

_FUNCTIONS = cast("Functions[Tensor]", torch)


@dataclass(frozen=True)
class TorchPairs(Pairs[Tensor]):
    """The pairs of the rows of x, shape (n, d), and y, shape (m, d); see :class:`dap.kernels.Pairs`."""

    x: Tensor
    y: Tensor

    @property
    def xp(self) -> Functions[Tensor]:
        """The module torch."""
        return _FUNCTIONS

    @property
    def dot(self) -> Tensor:
        """x_i·y_j with shape (n, m)."""
        return product(self.x, self.y)

    @cached_property
    def squared(self) -> Tensor:
        """‖x_i − y_j‖² with shape (n, m)."""
        return self._differences.square() if self._small else _squared(self.x, self.y)

    @cached_property
    def distance(self) -> Tensor:
        """‖x_i − y_j‖ with shape (n, m)."""
        return self._differences if self._small else root(self.squared)

    @cached_property
    def manhattan(self) -> Tensor:
        """‖x_i − y_j‖₁ with shape (n, m)."""
        return torch.cdist(self.x, self.y, p=1.0)

    @cached_property
    def x_norm(self) -> Tensor:
        """‖x_i‖ with shape (n, 1)."""
        return norms_of(self.x)

    @cached_property
    def y_norm(self) -> Tensor:
        """‖y_j‖ with shape (1, m)."""
        return norms_of(self.y).T

    @cached_property
    def unit(self) -> TorchPairs:
        """The pairs of the rows divided by their norms."""
        return TorchPairs(*(_over(rows, norms) for rows, norms in ((self.x, self.x_norm), (self.y, self.y_norm.T))))

    @property
    def _small(self) -> bool:
        return len(self.x) * len(self.y) * self.x.shape[1] <= _SMALL

    @cached_property
    def _differences(self) -> Tensor:
        return _exact_distance(self.x, self.y)


def _squared(x: Tensor, y: Tensor) -> Tensor:
    """Return ‖x_i − y_j‖² by the product, and for near pairs by the differences."""
    with torch.no_grad():
        centre = y.nanmean(0).nan_to_num()
    x_centred, y_centred = x - centre, y - centre
    sizes = x_centred.square().sum(1)[:, None] + y_centred.square().sum(1)
    squared = (sizes - 2.0 * product(x_centred, y_centred)).clamp_min(0.0)
    near = squared < sizes / 32
    if 8 * near.sum() > near.numel():
        return _exact_distance(x, y).square()
    return exact_where(near, squared, x, y)


def exact_where(mask: Tensor, squared: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return ``squared`` with ‖x_i − y_j‖² computed again by the differences where ``mask`` is set; shapes (n, m)."""
    rows, columns = mask.nonzero(as_tuple=True)
    if not len(rows):
        return squared
    pairs = max(1, _GATHERED // max(1, x.shape[1]))
    pieces = zip(rows.split(pairs), columns.split(pairs), strict=True)
    exact = [_recomputed(_gathered, x, y, *piece) for piece in pieces]  # the differences of all would fill the memory
    return squared.index_put((rows, columns), torch.cat(exact))


def _gathered(x: Tensor, y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return (x[rows] - y[columns]).square().sum(1)


def _exact_distance(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _recomputed(function: Callable[..., Result], *inputs: Array) -> Result:
    """Return the function of the inputs; a backward pass computes it again, so that only the inputs are held."""
    if torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in inputs):
        result: Result = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
        return result
    return function(*inputs)


def root(squared: Tensor) -> Tensor:
    """Return √max(squared, 0), whose gradient at zero is taken as zero."""
    zero = squared <= 0
    return squared.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def norms_of(rows: Tensor) -> Tensor:
    """Return ‖x_i‖ with shape (n, 1)."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)  # its gradient at zero is zero
    return norms


def _over(rows: Tensor, norms: Tensor) -> Tensor:
    zero = norms == 0
    return (rows / norms.masked_fill(zero, 1.0)).masked_fill(zero, 0.0)


class Blocks:
    """The pairs of x and y in blocks of at most 2,048 × 2,048; one empty block if there are no pairs.

    Args:
        x: Shape (n, d): a tensor, or an array, of which each block is copied to a tensor.
        y: Shape (m, d).
        dtype: Of the computation; None for that of two tensors: float64 if one of them has it, else float32.
    """

    def __init__(self, x: Array, y: Array, dtype: torch.dtype | None = None) -> None:
        self.x, self.y = x, y
        self.dtype = dtype or (torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32)
        self.device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        self.rows, self.columns = _slices(len(x)), _slices(len(y))

    def prepare(self, rows: Array) -> Tensor:
        """Return some rows ready for the computation: a row that is not finite becomes a row of NaN."""
        converted = self.convert(rows)
        return converted.masked_fill(~converted.isfinite().all(1, keepdim=True), torch.nan)

    def convert(self, rows: Array) -> Tensor:
        """Return some rows in the dtype and on the device of the computation."""
        if not isinstance(rows, Tensor):  # a copy: torch warns about arrays that it may not write to
            rows = torch.from_numpy(np.array(rows, np.float64 if self.dtype == torch.float64 else np.float32))
        return rows.to(self.device, self.dtype)

    def reduce(self, function: Callable[..., Result], i: slice, j: slice, weights: Array | None = None) -> Result:
        """Return the function of one block; where there are several, a backward pass computes each of them again."""
        inputs = (self.x[i], self.y[j], *(() if weights is None else (weights[j],)))

        def run(x: Array, y: Array, *weights: Array) -> Result:
            return function(TorchPairs(self.prepare(x), self.prepare(y)), *map(self.convert, weights))

        single = len(self.rows) * len(self.columns) == 1
        return run(*inputs) if single else _recomputed(run, *inputs)

    def sum(self, function: Callable[..., Tensor], weights: Array | None = None) -> Tensor:
        """Return, for each row of x, the sum of the function over the blocks of its pairs."""
        rows = []
        for i in self.rows:
            total = self.reduce(function, i, self.columns[0], weights)
            for j in self.columns[1:]:
                total = total + self.reduce(function, i, j, weights)
            rows.append(total)
        return torch.cat(rows)


def _slices(rows: int) -> list[slice]:
    return [slice(start, start + _SIDE) for start in range(0, max(rows, 1), _SIDE)]


def mean_distance(blocks: Blocks, kernel: Kernel, weights: Array | None = None) -> Tensor:
    """Return the mean over y of D(x_i, y_j) = √(k(x_i,x_i) + k(y_j,y_j) − 2 k(x_i,y_j)), for each row of x.

    Args:
        blocks: The pairs of x, (n, d), and y, (m, d).
        kernel: A kernel with a number for each option.
        weights: w with shape (m,), for Σ_j w_j D(x_i, y_j); None for the mean.

    Returns:
        Shape (n,), differentiable in x, y and the weights; the gradient of D is taken as zero at D = 0.

    Example:
        >>> from dap.kernels import Linear
        >>> mean_distance(Blocks(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 1.0]])), Linear())
        tensor([3.])
    """
    if weights is not None:
        return blocks.sum(lambda pairs, part: root(kernel.squared_distance(pairs)) @ part, weights)
    return blocks.sum(lambda pairs: root(kernel.squared_distance(pairs)).sum(1)) / len(blocks.y)
