"""Reductions of a kernel over the rows of y, one number for each row of x; the choice of the backend.

| backend | computes in | for |
|---|---|---|
| torch | float32, or float64 if x or y is | gradients, any device |
| rust | float32 differences, float64 after; converts x and y to float32 on the CPU | everything else |
| numpy | float64, row by row by the definition | checking the other two |
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dap.errors import OptionError
from dap.kernels.arrays import is_tensor, to_numpy
from dap.kernels.base import Kernel
from dap.kernels.linear import Linear
from dap.kernels.rbf import RBF
from dap.registry import unknown_name

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["BACKENDS", "mean_distance", "row_sums"]

BACKENDS = ("auto", "numpy", "rust", "torch")

Rows = TypeVar("Rows", "npt.NDArray[Any]", "torch.Tensor")

_LINEAR = Linear()


def mean_distance(x: Rows, y: Rows, kernel: Kernel = _LINEAR, backend: str = "auto") -> Rows:
    """(1/m) Σ_j D(x_i, y_j) for each row i of x, with D(x, y) = √(k(x,x) + k(y,y) − 2 k(x,y)).

    The energy of one slot in DAP (Su et al., ICLR 2026, Eq. 6) when x holds features of slots and y those of real
    images. With the torch backend differentiable in x and y; the gradient of D is taken as zero at D = 0.

    Args:
        x: Real numbers with shape (n, d).
        y: Real numbers with shape (m, d), m ≥ 1; both numpy arrays or both torch tensors.
        kernel: Which k.
        backend: "torch", "rust" (float32 on the CPU: x and y are converted, float64 loses digits), "numpy" (float64,
            slow), or "auto": torch for tensors that need a gradient or lie on an accelerator, otherwise rust where it
            knows the kernel, otherwise the library that x and y come from.

    Returns:
        Shape (n,): for numpy arrays float64; for tensors float64 if x or y is, otherwise float32, on the device of x.

    Raises:
        OptionError: If the shapes, types, devices or the backend do not fit, or y has no rows.

    Example:
        >>> import numpy as np
        >>> mean_distance(np.zeros((1, 2)), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([3.])
    """
    _check(x, y)
    if not len(y):
        raise OptionError("y has no rows: the mean distance to nothing is not defined")
    means: Rows = _reduce("mean_distance", x, y, kernel, backend)
    return means


def row_sums(x: Rows, y: Rows, kernel: Kernel = _LINEAR, backend: str = "auto") -> Rows:
    """Σ_j k(x_i, y_j) for each row i of x: the row sums of the Gram matrix.

    Arguments, result and errors are those of :func:`mean_distance`; here y may have no rows and the sums are zero.

    Example:
        >>> import numpy as np
        >>> row_sums(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([13.])
    """
    _check(x, y)
    sums: Rows = _reduce("row_sums", x, y, kernel, backend)
    return sums


def _check(x: Any, y: Any) -> None:
    for name, rows in (("x", x), ("y", y)):
        if not (is_tensor(rows) or isinstance(rows, np.ndarray)):
            raise OptionError(f"{name} must be a numpy array or a torch tensor, got {type(rows).__name__}")
        if rows.ndim != 2:
            raise OptionError(f"{name} must have 2 dimensions (rows, features), got shape {tuple(rows.shape)}")
        if rows.is_complex() if is_tensor(rows) else rows.dtype.kind not in "biuf":
            raise OptionError(f"{name} must hold real numbers, got dtype {rows.dtype}")
    if is_tensor(x) != is_tensor(y):
        raise OptionError(f"x and y must be of one kind, got {type(x).__name__} and {type(y).__name__}")
    if x.shape[1] != y.shape[1]:
        raise OptionError(f"x and y must have the same number of features, got {x.shape[1]} and {y.shape[1]}")
    if is_tensor(x) and x.device != y.device:
        raise OptionError(f"x and y must be on one device, got {x.device} and {y.device}")


def _reduce(reduction: str, x: Any, y: Any, kernel: Kernel, backend: str) -> Any:
    kernel = kernel.resolve(y)
    chosen = _choose(x, y, kernel, backend)
    result = getattr(_module(chosen), reduction)(x, y, kernel)
    if is_tensor(x) == is_tensor(result):
        return result
    if is_tensor(result):
        return to_numpy(result, np.float64)
    import torch

    dtype = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    return torch.from_numpy(result).to(x.device, dtype)


def _choose(x: Any, y: Any, kernel: Kernel, backend: str) -> str:
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    gradient = is_tensor(x) and _needs_gradient(x, y)
    in_rust = isinstance(kernel, Linear | RBF)
    if backend == "auto":
        if gradient or (is_tensor(x) and x.device.type != "cpu"):
            return "torch"
        return "rust" if in_rust else "torch" if is_tensor(x) else "numpy"
    if backend == "rust" and not in_rust:
        raise OptionError(f"the rust backend has no kernel {kernel.name!r}: use backend='torch' or 'numpy'")
    if backend != "torch" and gradient:
        raise OptionError(f"the {backend} backend has no gradient: use backend='torch', or detach x and y")
    return backend


def _needs_gradient(x: torch.Tensor, y: torch.Tensor) -> bool:
    import torch

    return torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)


def _module(backend: str) -> ModuleType:
    if backend == "torch":
        from dap.kernels import backend_torch

        return backend_torch
    if backend == "rust":
        from dap.kernels import backend_rust

        return backend_rust
    from dap.kernels import backend_numpy

    return backend_numpy
