"""The witness of MMD: the function in the kernel's space that tells two samples apart best.

    f(z) = (1/n) Σ_i k(z, x_i) − (1/m) Σ_j k(z, y_j)      Gretton et al., JMLR 13 (2012), Section 2.3

It is not normalised: its norm is the root of the biased MMD².
"""

from __future__ import annotations

import numpy as np

from dap.kernels.arrays import Array, Rows, detached, give_back, is_double, is_tensor, to_numpy
from dap.kernels.backend_base import Backend, Result
from dap.kernels.backend_choice import choose
from dap.kernels.base import Kernel, as_kernel
from dap.kernels.checks import check_rows
from dap.kernels.rbf import RBF
from dap.kernels.two_samples import check_samples, pooled

__all__ = ["witness", "witness_gradient"]

_RBF = RBF()


def witness(z: Rows, x: Rows, y: Rows, kernel: Kernel | str = _RBF, backend: str = "auto") -> Rows:
    """Return f(z) = (1/n) Σ_i k(z, x_i) − (1/m) Σ_j k(z, y_j), positive where x is the denser sample.

    Args:
        z: Real numbers with shape (n_z, d).
        x: Real numbers with shape (n, d), n ≥ 1.
        y: Real numbers with shape (m, d), m ≥ 1.
        kernel: A kernel or its name; its bandwidth rules use x and y pooled.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".

    Returns:
        Shape (n_z,). With the torch backend differentiable in all three.

    Raises:
        OptionError: The shapes, types, devices or the backend do not fit, or a sample has no rows.

    Example:
        >>> import numpy as np
        >>> witness(np.array([[1.0], [2.0]]), np.array([[3.0]]), np.array([[1.0], [0.0]]), "linear")
        array([2.5, 5. ])
    """
    check_samples(x, y, least=1)
    check_rows(z=z, x=x, y=y)
    resolved = as_kernel(kernel).resolve(pooled(x, y))
    return give_back(_witness(z, x, y, resolved, choose(resolved, backend, z, x, y).load()), z, x, y)


def witness_gradient(z: Rows, x: Rows, y: Rows, kernel: Kernel | str = _RBF) -> Rows:
    """Return ∇f(z) of :func:`witness`, always by torch; equal points add nothing if k has no gradient there.

    Arguments and errors are those of :func:`witness`.

    Returns:
        Shape (n_z, d), detached.

    Example:
        >>> import numpy as np
        >>> witness_gradient(np.array([[1.0], [2.0]]), np.array([[3.0]]), np.array([[1.0], [0.0]]), "linear")
        array([[2.5],
               [2.5]])
    """
    check_samples(x, y, least=1)
    check_rows(z=z, x=x, y=y)
    import torch

    from dap.kernels.backend_torch import TORCH

    resolved = as_kernel(kernel).resolve(pooled(x, y))
    dtype = torch.float64 if is_double(z, x, y) else torch.float32
    points, first, second = (
        detached(rows).to(dtype) if is_tensor(rows) else torch.tensor(to_numpy(rows, np.float64), dtype=dtype)
        for rows in (z, x, y)
    )
    points.requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_witness(points, first, second, resolved, TORCH).sum(), points)
    return give_back(gradient, z, x, y)


def _witness(z: Array, x: Array, y: Array, kernel: Kernel, backend: Backend[Result]) -> Result:
    return backend.row_sums(z, x, kernel) / len(x) - backend.row_sums(z, y, kernel) / len(y)
