"""Pairs of rows in torch: what the kernels are computed from, differentiable in x and y.

Squared distances come from a matrix product of rows that are centred first, since the product is off by √ε‖x‖ at near
points and under a common offset; the pairs that are near for all that are computed again from their differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from dap.kernels.arrays import is_tensor

__all__ = ["TorchPairs", "exact_where", "norms_of", "product", "recomputed", "root"]

_SMALL = 1 << 22
"""Pairs times features up to which the differences are quicker than the product and its corrections."""

_GATHERED = 1 << 22
"""Numbers in the rows that are gathered at once for the near pairs."""


@dataclass(frozen=True)
class TorchPairs:
    """The pairs of the rows of x, shape (n, d), and y, shape (m, d); see :class:`dap.kernels.base.Pairs`."""

    x: torch.Tensor
    y: torch.Tensor
    xp: Any = torch

    @property
    def dot(self) -> torch.Tensor:
        """x_i·y_j with shape (n, m)."""
        return product(self.x, self.y)

    @cached_property
    def squared(self) -> torch.Tensor:
        """‖x_i − y_j‖² with shape (n, m)."""
        return self._differences.square() if self._small else _squared(self.x, self.y)

    @cached_property
    def distance(self) -> torch.Tensor:
        """‖x_i − y_j‖ with shape (n, m)."""
        return self._differences if self._small else root(self.squared)

    @cached_property
    def manhattan(self) -> torch.Tensor:
        """‖x_i − y_j‖₁ with shape (n, m)."""
        return torch.cdist(self.x, self.y, p=1.0)

    @cached_property
    def x_norm(self) -> torch.Tensor:
        """‖x_i‖ with shape (n, 1)."""
        return norms_of(self.x)

    @cached_property
    def y_norm(self) -> torch.Tensor:
        """‖y_j‖ with shape (1, m)."""
        return norms_of(self.y).T

    @cached_property
    def unit(self) -> TorchPairs:
        """The pairs of the rows over their norms."""
        return TorchPairs(*(_over(rows, norms) for rows, norms in ((self.x, self.x_norm), (self.y, self.y_norm.T))))

    @property
    def _small(self) -> bool:
        return len(self.x) * len(self.y) * self.x.shape[1] <= _SMALL

    @cached_property
    def _differences(self) -> torch.Tensor:
        return _exact_distance(self.x, self.y)


def _squared(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """‖x_i − y_j‖² by the product, for near pairs from the differences."""
    with torch.no_grad():
        centre = y.nanmean(0).nan_to_num()
    x_centred, y_centred = x - centre, y - centre
    sizes = x_centred.square().sum(1)[:, None] + y_centred.square().sum(1)
    squared = (sizes - 2.0 * product(x_centred, y_centred)).clamp_min(0.0)
    near = squared < sizes / 32
    if 8 * near.sum() > near.numel():
        return _exact_distance(x, y).square()
    return exact_where(near, squared, x, y)


def exact_where(mask: torch.Tensor, squared: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """‖x_i − y_j‖² with shape (n, m): from the differences where the mask is set, given elsewhere."""
    rows, columns = mask.nonzero(as_tuple=True)
    if not len(rows):
        return squared
    pairs = max(1, _GATHERED // max(1, x.shape[1]))
    pieces = zip(rows.split(pairs), columns.split(pairs), strict=True)
    exact = [recomputed(_gathered, x, y, *piece) for piece in pieces]  # the differences of all would fill the memory
    return squared.index_put((rows, columns), torch.cat(exact))


def _gathered(x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return (x[rows] - y[columns]).square().sum(1)


def _exact_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """The function of the inputs; a backward pass computes it again from them and needs nothing else kept."""
    if torch.is_grad_enabled() and any(is_tensor(each) and each.requires_grad for each in inputs):
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)


def root(squared: torch.Tensor) -> torch.Tensor:
    """√max(squared, 0) whose gradient is zero, not infinite, at zero."""
    zero = squared <= 0
    return squared.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def norms_of(rows: torch.Tensor) -> torch.Tensor:
    """‖x_i‖ with shape (n, 1)."""
    norms: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)  # its gradient at zero is zero
    return norms


def _over(rows: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    zero = norms == 0
    return (rows / norms.masked_fill(zero, 1.0)).masked_fill(zero, 0.0)


class _Product(torch.autograd.Function):
    """x yᵀ in full precision forward and backward: the ten bits of TF32 are too few for a difference of squares."""

    @staticmethod
    def forward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x_i·y_j with shape (n, m)."""
        with _full_precision(x.device.type):
            return x @ y.T

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor], output: torch.Tensor) -> None:
        """Keeps the rows."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Σ_j g_ij y_j and Σ_i g_ij x_i."""
        x, y = ctx.saved_tensors
        for_x, for_y = ctx.needs_input_grad
        with _full_precision(x.device.type):
            return gradient @ y if for_x else None, gradient.T @ x if for_y else None


def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The product x yᵀ with shape (n, m), in full precision whatever the user allows elsewhere."""
    result: torch.Tensor = _Product.apply(x, y)
    return result


@contextmanager
def _full_precision(device: str) -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    # Newer versions of torch refuse to read the old setting where the user has set the new one.
    name, full = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    before = getattr(matmul, name)
    setattr(matmul, name, full)
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        setattr(matmul, name, before)
