"""The matrix product x yᵀ in full precision, forward and backward, even if the user allows TF32 or autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction, FunctionCtx

__all__ = ["product"]


class _Product(torch.autograd.Function):
    """x yᵀ: the ten bits of TF32 are too few for a difference of squares."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        """Return x_i·y_j with shape (n, m)."""
        with _full_precision(x.device.type):
            return x @ y.T

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Save the rows for the backward pass."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: BackwardCFunction, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return Σ_j g_ij y_j and Σ_i g_ij x_i."""
        x, y = cast("tuple[Tensor, Tensor]", ctx.saved_tensors)
        for_x, for_y = cast("tuple[bool, bool]", ctx.needs_input_grad)
        with _full_precision(x.device.type):
            return gradient @ y if for_x else None, gradient.T @ x if for_y else None


def product(x: Tensor, y: Tensor) -> Tensor:
    """Return x yᵀ with shape (n, m) in full precision, even where the user allows TF32 or autocast."""
    result: Tensor = _Product.apply(x, y)
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
