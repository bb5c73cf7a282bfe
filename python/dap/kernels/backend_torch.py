"""The reductions in torch: differentiable in x and y, on any device, in float32 or float64, block by block.

y None means x itself. A row that holds NaN or infinity counts as a row of NaN. Memory beyond the inputs and the result
is that of one block of pairs, and so is that of the backward pass, which computes each block a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from dap.kernels.arrays import is_double, is_tensor
from dap.kernels.base import DiagonalPairs, Kernel
from dap.kernels.torch_pairs import TorchPairs, exact_where, norms_of, product, recomputed, root

_SIDE = 2048
"""Rows of x and of y in a block: 2^22 pairs, 16 MiB of float32."""

_SLACK = 1e-4
"""More than the relative error of a squared distance by the product."""


def gram(x: Any, y: Any, kernel: Kernel, out: Any = None) -> Any:
    """k(x_i, y_j) with shape (n, m); written into ``out``, without a gradient, if that is given."""
    blocks = _Blocks(x, y)
    if out is None:
        rows = [torch.cat([blocks.reduce(kernel.value, i, j) for j in blocks.columns], 1) for i in blocks.rows]
        return torch.cat(rows)
    with torch.no_grad():
        for i in blocks.rows:
            for j in blocks.columns:
                block = blocks.reduce(kernel.value, i, j)
                out[i, j] = block if is_tensor(out) else block.cpu().numpy()
    return out


def row_sums(x: Any, y: Any, kernel: Kernel, weights: Any = None) -> torch.Tensor:
    """Σ_j k(x_i, y_j) with shape (n,), or with weights of shape (m, C) k(x, y)·W with shape (n, C)."""
    blocks = _Blocks(x, y)
    if weights is None:
        return blocks.sum(lambda pairs: kernel.value(pairs).sum(1))
    return blocks.sum(lambda pairs, part: product(kernel.value(pairs), part.T), weights)


def mean_distance(x: Any, y: Any, kernel: Kernel, weights: Any = None) -> torch.Tensor:
    """(1/m) Σ_j D(x_i, y_j), or Σ_j w_j D(x_i, y_j), with shape (n,); the gradient of D is zero at D = 0."""
    if weights is not None:
        return _Blocks(x, y).sum(lambda pairs, part: root(kernel.squared_distance(pairs)) @ part, weights)
    sums = _Blocks(x, y).sum(lambda pairs: root(kernel.squared_distance(pairs)).sum(1))
    return sums / len(x if y is None else y)


def pair_sums(x: Any, y: Any, kernel: Kernel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Σ_j k(x_i, y_j) with shape (n,), Σ_i k(x_i, y_j) with shape (m,) and Σ_ij k(x_i, y_j)², 0-dimensional."""

    def sums(pairs: TorchPairs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        values = kernel.value(pairs)
        return values.sum(1), values.sum(0), values.square().sum()

    blocks = _Blocks(x, y)
    parts = [[blocks.reduce(sums, i, j) for j in blocks.columns] for i in blocks.rows]
    rows = torch.cat([_total(part[0] for part in row) for row in parts])
    columns = torch.cat([_total(part[1] for part in column) for column in zip(*parts, strict=True)])
    return rows, columns, _total(part[2] for row in parts for part in row)


@torch.no_grad()
def nearest(x: Any, y: Any, kernel: Kernel | None, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k smallest distances, or largest k(x_i, y_j), of each row and their j; of equal ones the lowest j.

    Distances are compared as the differences give them; equal rows of y are equally far in every block. Values of a
    kernel are compared as they were computed: in different blocks those of equal rows may differ by rounding.
    """

    def scores(pairs: TorchPairs) -> torch.Tensor:
        if kernel is not None:
            values: torch.Tensor = -kernel.value(pairs)
            return values
        last = pairs.squared.topk(min(k, pairs.squared.shape[1]), largest=False).values.amax(1, keepdim=True)
        contenders = pairs.squared <= last * (1 + _SLACK)
        return exact_where(contenders, pairs.squared, pairs.x, pairs.y).sqrt()

    blocks, found = _Blocks(x, y), []
    for i in blocks.rows:
        best, indices = [], []
        for j in blocks.columns:
            part = blocks.reduce(scores, i, j)
            best.append(part)
            indices.append(torch.arange(j.start, j.start + part.shape[1], device=part.device).expand(part.shape))
            values, order = _smallest(torch.cat(best, 1), k)
            best, indices = [values], [torch.cat(indices, 1).gather(1, order)]
        found.append((best[0] if kernel is None else -best[0], indices[0]))
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def diagonal(x: Any, kernel: Kernel) -> torch.Tensor:
    """k(x_i, x_i) with shape (n,)."""
    blocks = _Blocks(x, None)

    def values(part: slice) -> torch.Tensor:
        rows = blocks.prepare(x[part])
        found: torch.Tensor = kernel.value(DiagonalPairs(torch, rows.square().sum(1, keepdim=True), norms_of(rows)))
        return found[:, 0]

    return torch.cat([values(part) for part in blocks.rows])


class _Blocks:
    """The pairs of x and y in blocks; one block, of no pairs, where there are none."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, x if y is None else y
        self.dtype = torch.float64 if is_double(x, self.y) else torch.float32
        self.device = x.device if is_tensor(x) else torch.device("cpu")
        self.rows, self.columns = _slices(len(x)), _slices(len(self.y))

    def prepare(self, rows: Any) -> torch.Tensor:
        """A few rows as they are computed with."""
        converted = self.convert(rows)
        return converted.masked_fill(~converted.isfinite().all(1, keepdim=True), torch.nan)

    def convert(self, rows: Any) -> torch.Tensor:
        """A few rows in the dtype and on the device of the result."""
        if not is_tensor(rows):  # a copy: torch warns about arrays that it may not write to
            rows = torch.from_numpy(np.array(rows, np.float64 if self.dtype == torch.float64 else np.float32))
        converted: torch.Tensor = rows.to(self.device, self.dtype)
        return converted

    def reduce(self, function: Callable[..., Any], i: slice, j: slice, weights: Any = None) -> Any:
        """The function of a block of pairs; of several blocks none keeps its values for the backward pass."""
        inputs = (self.x[i], self.y[j], *(() if weights is None else (weights[j],)))

        def run(x: Any, y: Any, *weights: Any) -> Any:
            return function(TorchPairs(self.prepare(x), self.prepare(y)), *map(self.convert, weights))

        single = len(self.rows) * len(self.columns) == 1
        return run(*inputs) if single else recomputed(run, *inputs)

    def sum(self, function: Callable[..., torch.Tensor], weights: Any = None) -> torch.Tensor:
        """The function of each row's pairs, a sum over them, for all rows."""
        return torch.cat([_total(self.reduce(function, i, j, weights) for j in self.columns) for i in self.rows])


def _slices(rows: int) -> list[slice]:
    return [slice(start, start + _SIDE) for start in range(0, max(rows, 1), _SIDE)]


def _total(parts: Iterator[torch.Tensor]) -> torch.Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def _smallest(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k smallest of each row, or all, ascending; of equal ones the first, which torch.topk does not promise."""
    k = min(k, scores.shape[1])
    columns = scores.topk(k, largest=False, sorted=False).indices.sort(1).values
    values, order = scores.gather(1, columns).sort(dim=1, stable=True)
    columns = columns.gather(1, order)
    tied = (scores <= values[:, -1:]).sum(1) > k
    if tied.any():
        all_values, all_columns = scores[tied].sort(dim=1, stable=True)
        values[tied], columns[tied] = all_values[:, :k], all_columns[:, :k]
    return values, columns
