"""The torch backend: differentiable in x and y, on any device, in float32 or float64, block by block.

Memory beyond the inputs and the result is that of one block of pairs. The backward pass needs no more, since it
computes each block a second time.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from dap.kernels import torch_pairs
from dap.kernels.arrays import Array, is_double, is_tensor
from dap.kernels.backend_base import Backend
from dap.kernels.base import Kernel
from dap.kernels.pairs import DiagonalPairs, Functions
from dap.kernels.torch_pairs import Blocks, TorchPairs, exact_where, norms_of
from dap.kernels.torch_product import product

__all__ = ["TORCH", "TorchBackend"]

_SLACK = 1e-4
"""More than the relative error of a squared distance by the product."""


class TorchBackend(Backend[Tensor]):
    """The reductions in torch; :class:`Backend` documents the methods."""

    def gram(self, x: Array, y: Array | None, kernel: Kernel, out: Array | None = None) -> Array:
        """Return k(x_i, y_j); written into ``out``, without a gradient, if that is given."""
        blocks = _blocks(x, y)
        if out is None:
            rows = [torch.cat([blocks.reduce(kernel.value, i, j) for j in blocks.columns], 1) for i in blocks.rows]
            return torch.cat(rows)
        with torch.no_grad():
            for i in blocks.rows:
                for j in blocks.columns:
                    block = blocks.reduce(kernel.value, i, j)
                    if is_tensor(out):
                        out[i, j] = block
                    else:
                        out[i, j] = block.cpu().numpy()
        return out

    def row_sums(self, x: Array, y: Array | None, kernel: Kernel, weights: Array | None = None) -> Tensor:
        """Return Σ_j k(x_i, y_j), or k(x, y)·W."""
        if weights is None:
            return _blocks(x, y).sum(lambda pairs: kernel.value(pairs).sum(1))
        return _blocks(x, y).sum(lambda pairs, part: product(kernel.value(pairs), part.T), weights)

    def mean_distance(self, x: Array, y: Array | None, kernel: Kernel, weights: Array | None = None) -> Tensor:
        """Return the mean, or the weighted sum, of D(x_i, y_j)."""
        return torch_pairs.mean_distance(_blocks(x, y), kernel, weights)

    def pair_sums(self, x: Array, y: Array | None, kernel: Kernel) -> tuple[Tensor, Tensor, Tensor]:
        """Return the sums of rows and of columns, and the sum of squares, 0-dimensional."""

        def sums(pairs: TorchPairs) -> tuple[Tensor, Tensor, Tensor]:
            values = kernel.value(pairs)
            return values.sum(1), values.sum(0), values.square().sum()

        blocks = _blocks(x, y)
        parts = [[blocks.reduce(sums, i, j) for j in blocks.columns] for i in blocks.rows]
        rows = torch.cat([_total([part[0] for part in row]) for row in parts])
        columns = torch.cat([_total([part[1] for part in column]) for column in zip(*parts, strict=True)])
        return rows, columns, _total([part[2] for row in parts for part in row])

    @torch.no_grad()
    def nearest(self, x: Array, y: Array | None, kernel: Kernel | None, k: int) -> tuple[Tensor, Tensor]:
        """Return the k nearest rows of y for each row of x.

        Distances are computed from differences before they are compared, so equal rows of y are equally far in every
        block. Values of a kernel are compared as they are: those of equal rows may differ by rounding between blocks.
        """

        def scores(pairs: TorchPairs) -> Tensor:
            if kernel is not None:
                return -kernel.value(pairs)
            last = pairs.squared.topk(min(k, pairs.squared.shape[1]), largest=False).values.amax(1, keepdim=True)
            contenders = pairs.squared <= last * (1 + _SLACK)
            return exact_where(contenders, pairs.squared, pairs.x, pairs.y).sqrt()

        blocks, all_values, all_indices = _blocks(x, y), [], []
        for i in blocks.rows:
            best, indices = [], []
            for j in blocks.columns:
                part = blocks.reduce(scores, i, j)
                best.append(part)
                indices.append(torch.arange(j.start, j.start + part.shape[1], device=part.device).expand(part.shape))
                values, order = _smallest(torch.cat(best, 1), k)
                best, indices = [values], [torch.cat(indices, 1).gather(1, order)]
            all_values.append(best[0] if kernel is None else -best[0])
            all_indices.append(indices[0])
        return torch.cat(all_values), torch.cat(all_indices)

    def diagonal(self, x: Array, kernel: Kernel) -> Tensor:
        """Return k(x_i, x_i)."""
        blocks = _blocks(x, None)

        def values(part: slice) -> Tensor:
            rows = blocks.prepare(x[part])
            functions = cast("Functions[Tensor]", torch)
            return kernel.value(DiagonalPairs(functions, rows.square().sum(1, keepdim=True), norms_of(rows)))[:, 0]

        return torch.cat([values(part) for part in blocks.rows])


TORCH = TorchBackend()


def _blocks(x: Array, y: Array | None) -> Blocks:
    y = x if y is None else y
    return Blocks(x, y, torch.float64 if is_double(x, y) else torch.float32)


def _total(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _smallest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest of each row, or all, ascending; the first of equal ones, which torch.topk does not do."""
    k = min(k, scores.shape[1])
    columns = scores.topk(k, largest=False, sorted=False).indices.sort(1).values
    values, order = scores.gather(1, columns).sort(dim=1, stable=True)
    columns = columns.gather(1, order)
    tied = (scores <= values[:, -1:]).sum(1) > k
    if tied.any():
        all_values, all_columns = scores[tied].sort(dim=1, stable=True)
        values[tied], columns[tied] = all_values[:, :k], all_columns[:, :k]
    return values, columns
