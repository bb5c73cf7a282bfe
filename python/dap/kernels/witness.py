"""The witness of MMD: the function in the kernel's space that tells two samples apart best.

    f(z) = (1/n) Σ_i k(z, x_i) − (1/m) Σ_j k(z, y_j)      Gretton et al., JMLR 13 (2012), Section 2.3

It is not normalised: divide by the root of the biased MMD² for a function of norm 1.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dap.kernels.arrays import check_rows, detached, give_back, is_double, is_tensor, to_numpy
from dap.kernels.base import Kernel
from dap.kernels.choice import as_kernel, choose, module_of
from dap.kernels.rbf import RBF
from dap.kernels.samples import check_samples, pooled

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["witness", "witness_gradient"]

Rows = TypeVar("Rows", "npt.NDArray[Any]", "torch.Tensor")

_RBF = RBF()


def witness(z: Rows, x: Rows, y: Rows, kernel: Kernel | str = _RBF, backend: str = "auto") -> Rows:
    """f(z) = (1/n) Σ_i k(z, x_i) − (1/m) Σ_j k(z, y_j), positive where x is the denser sample.

    Args:
        z: Real numbers with shape (n_z, d).
        x: Real numbers with shape (n, d), n ≥ 1.
        y: Real numbers with shape (m, d), m ≥ 1.
        kernel: A kernel or its name; its bandwidth rules look at x and y pooled.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".

    Returns:
        Shape (n_z,). With the torch backend differentiable in all three.

    Raises:
        OptionError: If the shapes, types, devices or the backend do not fit, or a sample has no rows.

    Example:
        >>> import numpy as np
        >>> witness(np.array([[1.0], [2.0]]), np.array([[3.0]]), np.array([[1.0], [0.0]]), "linear")
        array([2.5, 5. ])
    """
    check_samples(x, y, least=1)
    check_rows(z=z, x=x, y=y)
    kernel = as_kernel(kernel).resolve(pooled(x, y))
    module = module_of(choose(kernel, backend, z, x, y))
    values: Rows = give_back(_witness(z, x, y, kernel, module), z, x, y)
    return values


def witness_gradient(z: Rows, x: Rows, y: Rows, kernel: Kernel | str = _RBF) -> Rows:
    """∇f(z) of :func:`witness`, always by torch; a pair that coincides adds nothing where k has a kink.

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

    from dap.kernels import backend_torch

    kernel = as_kernel(kernel).resolve(pooled(x, y))
    dtype = torch.float64 if is_double(z, x, y) else torch.float32
    points, first, second = (
        detached(rows).to(dtype) if is_tensor(rows) else torch.tensor(to_numpy(rows, np.float64), dtype=dtype)
        for rows in (z, x, y)
    )
    points.requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_witness(points, first, second, kernel, backend_torch).sum(), points)
    result: Rows = give_back(gradient, z, x, y)
    return result


def _witness(z: Any, x: Any, y: Any, kernel: Kernel, module: ModuleType) -> Any:
    return module.row_sums(z, x, kernel) / len(x) - module.row_sums(z, y, kernel) / len(y)
