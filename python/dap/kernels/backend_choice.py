"""The choice of the backend that computes a reduction.

| backend | computes in | chosen by "auto" for |
|---|---|---|
| torch | float32 or float64 | gradients, accelerators; the user's own kernels on tensors and large arrays |
| rust | float32 or float64, sums in float64 | everything else on the CPU |
| numpy | float64, row by row by the definition | the user's own kernels on small arrays |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dap.config import check_choice
from dap.errors import OptionError
from dap.kernels.arrays import Array, is_tensor
from dap.kernels.backend_base import Backend
from dap.kernels.backend_numpy import NUMPY
from dap.kernels.backend_rust import RUST, supports
from dap.kernels.base import Kernel, as_kernel
from dap.kernels.checks import check_rows
from dap.kernels.linear import LINEAR

__all__ = ["BACKENDS", "Choice", "choose", "explain"]

BACKENDS = ("auto", "numpy", "rust", "torch")

SMALL = 1 << 24
"""The size n·m·d up to which numpy, row by row, takes less time than the import of torch."""


@dataclass(frozen=True)
class Choice:
    """A backend and why it was chosen; as text, a sentence.

    Attributes:
        backend: "torch", "rust" or "numpy".
        reason: Half a sentence.
    """

    backend: str
    reason: str

    def __str__(self) -> str:
        return f"The {self.backend} backend computes this: {self.reason}."

    def load(self) -> Backend[Any]:
        """Return the backend; torch is imported here, so that users of arrays need not wait for it."""
        if self.backend == "torch":
            from dap.kernels.backend_torch import TORCH

            return TORCH
        return RUST if self.backend == "rust" else NUMPY


def explain(x: Array, y: Array | None = None, kernel: Kernel | str = LINEAR, backend: str = "auto") -> Choice:
    """Return the backend that a reduction of these arguments would use, and why; nothing is computed.

    Args:
        x: Array or tensor with shape (n, d).
        y: Array or tensor with shape (m, d); None for x itself.
        kernel: A kernel or its name.
        backend: "auto", "numpy", "rust" or "torch".

    Raises:
        OptionError: The reduction would raise an error for these arguments or this backend.

    Example:
        >>> import numpy as np
        >>> print(explain(np.zeros((2, 3)), kernel="rbf"))
        The rust backend computes this: the rows are on the CPU and kernel 'rbf' is compiled.
    """
    check_rows(x=x, y=y)
    return choose(as_kernel(kernel), backend, x, y)


def choose(kernel: Kernel | None, backend: str, x: Array, *others: Array | None) -> Choice:
    """Return the choice for arguments that were checked; ``kernel`` None stands for the Euclidean distance."""
    check_choice("backend", backend, BACKENDS)
    arguments = [x, *(rows for rows in others if rows is not None)]
    gradient = _needs_gradient(arguments)
    compiled = kernel is None or supports(kernel)
    name = "the distance" if kernel is None else f"kernel {kernel.name!r}"
    if backend == "rust" and not compiled:
        raise OptionError(f"the rust backend has no {name}: use backend='torch' or 'numpy'")
    if backend not in ("auto", "torch") and gradient:
        raise OptionError(f"the {backend} backend has no gradient: use backend='torch', or detach x and y")
    if backend != "auto":
        return Choice(backend, "it was asked for")
    if gradient:
        return Choice("torch", "an argument needs a gradient")
    if is_tensor(x) and x.device.type != "cpu":
        return Choice("torch", f"the rows are on {x.device}")
    if compiled:
        return Choice("rust", f"the rows are on the CPU and {name} is compiled")
    if is_tensor(x):
        return Choice("torch", f"{name} is not compiled and the rows are tensors")
    size = len(x) * max(len(rows) for rows in arguments) * x.shape[1]
    if size <= SMALL:
        return Choice("numpy", f"{name} is not compiled and the arrays are small")
    return Choice("torch", f"{name} is not compiled and the arrays are large")


def _needs_gradient(arguments: list[Array]) -> bool:
    if not is_tensor(arguments[0]):
        return False
    import torch

    return torch.is_grad_enabled() and any(is_tensor(rows) and rows.requires_grad for rows in arguments)
