"""The reductions in torch: differentiable in x and y, on any device, in float32 or float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dap.kernels.arrays import is_tensor
from dap.kernels.base import Kernel, Pairs

_BLOCK_PAIRS = 1 << 26
"""Pairs whose values are held at once: 256 MiB of float32."""


@dataclass(frozen=True)
class TorchPairs:
    """The pairs of the rows of x, shape (n, d), and y, shape (m, d)."""

    x: torch.Tensor
    y: torch.Tensor
    xp: Any = torch

    @property
    def dot(self) -> torch.Tensor:
        """x_i·y_j with shape (n, m)."""
        return self.x @ self.y.T

    @property
    def squared(self) -> torch.Tensor:
        """‖x_i − y_j‖² with shape (n, m)."""
        # The form by matrix product is quicker, but it is off by √ε·‖x‖ at near points and under a common offset.
        return torch.cdist(self.x, self.y, compute_mode="donot_use_mm_for_euclid_dist").square()


def mean_distance(x: Any, y: Any, kernel: Kernel) -> torch.Tensor:
    """(1/m) Σ_j D(x_i, y_j) with shape (n,)."""
    return _over_blocks(x, y, lambda pairs: _root(kernel.squared_distance(pairs)).mean(1))


def row_sums(x: Any, y: Any, kernel: Kernel) -> torch.Tensor:
    """Σ_j k(x_i, y_j) with shape (n,)."""
    return _over_blocks(x, y, lambda pairs: kernel.value(pairs).sum(1))


def _over_blocks(x: Any, y: Any, reduce: Callable[[Pairs], torch.Tensor]) -> torch.Tensor:
    x, y = _tensor(x), _tensor(y)
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y = x.to(dtype), y.to(dtype)
    rows = max(1, _BLOCK_PAIRS // max(1, len(y)))
    return torch.cat([reduce(TorchPairs(block, y)) for block in x.split(rows)])


def _root(squared: torch.Tensor) -> torch.Tensor:
    """√max(squared, 0) whose gradient is zero, not infinite, at zero."""
    zero = squared <= 0
    return squared.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def _tensor(rows: Any) -> torch.Tensor:
    # A copy of an array: torch warns about those that it may not write to.
    return rows if is_tensor(rows) else torch.from_numpy(np.array(rows, order="C"))
