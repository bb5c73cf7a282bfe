"""Reductions of the matrix k(x_i, y_j), which is never held, and that matrix itself.

All take arrays or tensors with shapes (n, d) and (m, d), y = None for y = x (computed by half in Rust), and a kernel or
the name of one, whose bandwidth rules look at y. Sums of arrays are float64 arrays. The matrix itself, and all that
tensors give, on their device, has the dtype that is computed in: float32 for float16, bfloat16 and float32, and
float64 where x or y is float64, integer or bool. Rows that are not C-contiguous are copied; read-only and
memory-mapped ones are fine.

A row that holds NaN or infinity counts as a row of NaN: NaN in its own result, and, in y, in every result.
:func:`nearest` refuses such rows.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from dap.errors import OptionError
from dap.kernels.arrays import (
    check_one_kind,
    check_rows,
    detached,
    dtype_name,
    give_back,
    is_double,
    is_tensor,
    to_numpy,
)  # fmt: skip
from dap.kernels.base import Kernel
from dap.kernels.choice import LINEAR, Choice, as_kernel, choose, module_of

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["gram", "mean_distance", "nearest", "row_means", "row_sums"]

Rows = TypeVar("Rows", "npt.NDArray[Any]", "torch.Tensor")

_FINITE_BLOCK = 1 << 22
"""Numbers that are looked at together in the search for NaN and infinity."""


def gram(
    x: Rows, y: Rows | None = None, kernel: Kernel | str = LINEAR, backend: str = "auto", *, out: Rows | None = None
) -> Rows:
    """k(x_i, y_j) for all pairs: the Gram matrix.

    Args:
        x: Real numbers with shape (n, d).
        y: Real numbers with shape (m, d); None for x.
        kernel: A kernel or its name.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".
        out: Where to write, block by block, for example a memory-mapped array: shape (n, m), C-contiguous, of the kind
            and device of x and of the dtype that is computed in (float32, or float64 if x or y is float64 or integer).

    Returns:
        Shape (n, m), of the dtype that is computed in, arrays too; ``out`` itself where that is given.

    Raises:
        OptionError: If the shapes, types, devices, ``out`` or the backend do not fit, or ``out`` is given and a
            gradient is needed.

    Example:
        >>> import numpy as np
        >>> gram(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([[11.,  2.]])
    """
    check_rows(x=x, y=y)
    if out is not None:
        _check_out(out, x, y)
    kernel = as_kernel(kernel).resolve(x if y is None else y)
    choice = choose(kernel, backend, x, y)
    module = module_of(choice)
    if out is None:
        matrix: Any = module.gram(x, y, kernel)
        matrix = give_back(matrix, x, y) if is_tensor(x) else to_numpy(matrix, _computed(x, y))
        return cast("Rows", matrix)
    module.gram(x, y, kernel, _for_backend(out, choice))
    return out


def row_sums(
    x: Rows,
    y: Rows | None = None,
    kernel: Kernel | str = LINEAR,
    backend: str = "auto",
    *,
    weights: Rows | None = None,
) -> Rows:
    """Σ_j k(x_i, y_j) for each row of x, or k(X, Y)·W for weights W.

    Args:
        x: Real numbers with shape (n, d).
        y: Real numbers with shape (m, d), m ≥ 0; None for x.
        kernel: A kernel or its name.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".
        weights: Real numbers with shape (m, C), of the kind and device of x; in float64 beside the rust and numpy
            backends. None for one column of ones.

    Returns:
        Shape (n,), or (n, C) for weights. With the torch backend differentiable in x, y and weights.

    Raises:
        OptionError: If the shapes, types, devices or the backend do not fit.

    Example:
        >>> import numpy as np
        >>> x, y = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])
        >>> row_sums(x, y)
        array([13.])
        >>> row_sums(x, y, weights=np.array([[1.0, 0.0], [0.0, 10.0]]))
        array([[11., 20.]])
    """
    check_rows(x=x, y=y)
    if weights is not None:
        _check_weights(weights, x, y)
    kernel = as_kernel(kernel).resolve(x if y is None else y)
    module = module_of(choose(kernel, backend, x, y, weights))
    sums: Rows = give_back(module.row_sums(x, y, kernel, weights), x, y)
    return sums


def row_means(x: Rows, y: Rows | None = None, kernel: Kernel | str = LINEAR, backend: str = "auto") -> Rows:
    """(1/m) Σ_j k(x_i, y_j) for each row of x: the mean embedding of y at x.

    Arguments, result and errors are those of :func:`mean_distance`.

    Example:
        >>> import numpy as np
        >>> row_means(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([6.5])
    """
    check_rows(x=x, y=y)
    count = _count(x, y)
    kernel = as_kernel(kernel).resolve(x if y is None else y)
    module = module_of(choose(kernel, backend, x, y))
    means: Rows = give_back(module.row_sums(x, y, kernel) / count, x, y)
    return means


def mean_distance(
    x: Rows,
    y: Rows | None = None,
    kernel: Kernel | str = LINEAR,
    backend: str = "auto",
    *,
    weights: Rows | None = None,
) -> Rows:
    """(1/m) Σ_j D(x_i, y_j) for each row of x, with D(x, y) = √(k(x,x) + k(y,y) − 2 k(x,y)).

    The energy of one slot in DAP (Su et al., ICLR 2026, Eq. 6) when x holds features of slots and y those of real
    images. D is computed in a form that does not cancel where the points are near.

    Args:
        x: Real numbers with shape (n, d).
        y: Real numbers with shape (m, d), m ≥ 1; None for x (where D(x_i, x_i) = 0 is one of the m).
        kernel: A kernel or its name.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".
        weights: w with shape (m,), of the kind and device of x, for Σ_j w_j D(x_i, y_j): rows that stand for many. None
            for 1/m each.

    Returns:
        Shape (n,). With the torch backend differentiable in x, y and weights; the gradient of D is taken as zero at
        D = 0.

    Raises:
        OptionError: If the shapes, types, devices or the backend do not fit, or y has no rows.

    Example:
        >>> import numpy as np
        >>> mean_distance(np.zeros((1, 2)), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([3.])
    """
    check_rows(x=x, y=y)
    _count(x, y)
    kernel = as_kernel(kernel).resolve(x if y is None else y)
    if weights is not None:
        if weights.ndim != 1:
            raise OptionError(f"weights must have 1 dimension (rows of y), got shape {tuple(weights.shape)}")
        _check_weights(weights[:, None], x, y)
    module = module_of(choose(kernel, backend, x, y, weights))
    means: Rows = give_back(module.mean_distance(x, y, kernel, weights), x, y)
    return means


def nearest(
    x: Rows, y: Rows | None = None, k: int = 1, kernel: Kernel | str | None = None, backend: str = "auto"
) -> tuple[Rows, Rows]:
    """The k rows of y that are nearest to each row of x, by distance or by kernel; ties to the lowest index.

    Args:
        x: Finite real numbers with shape (n, d).
        y: Finite real numbers with shape (m, d); None for x (each row then finds itself, or an equal row before it).
        k: How many, 1 ≤ k ≤ m.
        kernel: A kernel or its name, for the largest k(x, y); None for the smallest Euclidean distance.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".

    Returns:
        Distances in ascending, or values of the kernel in descending order, with shape (n, k); and the indices of
        their rows in y, int64 with shape (n, k).

    Raises:
        OptionError: If the shapes, types, devices or the backend do not fit, k is out of range, or a row holds NaN or
            infinity.

    Example:
        >>> import numpy as np
        >>> distances, indices = nearest(np.zeros((1, 1)), np.array([[5.0], [-1.0], [2.0]]), k=2)
        >>> distances.tolist(), indices.tolist()
        ([[1.0, 2.0]], [[1, 2]])
    """
    check_rows(x=x, y=y)
    rows = x if y is None else y
    if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= operator.index(k) <= len(rows):
        raise OptionError(f"k must be an integer from 1 to the number of rows to search, {len(rows)}; got {k!r}")
    for name, each in (("x", x), ("y", y)):
        if each is not None:
            _check_finite(name, each)
    kernel = None if kernel is None else as_kernel(kernel).resolve(rows)
    module = module_of(choose(kernel, backend, x, y))
    values, indices = module.nearest(x, y, kernel, operator.index(k))
    return give_back(values, x, y), give_back(indices, x, y)


def _count(x: Any, y: Any) -> int:
    count = len(x if y is None else y)
    if not count:
        raise OptionError(f"{'x' if y is None else 'y'} has no rows: a mean over nothing is not defined")
    return count


def _check_weights(weights: Any, x: Any, y: Any) -> None:
    check_rows(weights=weights)
    check_one_kind("x", x, "weights", weights)
    count = len(x if y is None else y)
    if len(weights) != count:
        raise OptionError(f"weights must have one row for each of the {count} rows of y, got {len(weights)}")


def _computed(x: Any, y: Any) -> str:
    return "float64" if is_double(x, y) else "float32"


def _check_out(out: Any, x: Any, y: Any) -> None:
    check_rows(out=out)
    check_one_kind("x", x, "out", out)
    shape = (len(x), len(x if y is None else y))
    dtype = _computed(x, y)
    contiguous = out.is_contiguous() if is_tensor(out) else out.flags.c_contiguous
    if tuple(out.shape) != shape or not contiguous or dtype_name(out) != dtype:
        raise OptionError(
            f"out must be C-contiguous {dtype} with shape {shape}, the dtype that these rows are computed in; "
            f"got {'' if contiguous else 'non-contiguous '}{out.dtype} with shape {tuple(out.shape)}"
        )
    if is_tensor(out):
        import torch

        if torch.is_grad_enabled() and any(each.requires_grad for each in (x, y, out) if each is not None):
            raise OptionError("gram has no gradient when it writes into out: detach x, y and out, or leave out away")
    elif not out.flags.writeable:
        raise OptionError("out is read-only: give an array that may be written to")


def _for_backend(out: Any, choice: Choice) -> Any:
    """The same memory as the backend writes it."""
    if choice.backend == "torch":
        import torch

        return out if is_tensor(out) else torch.from_numpy(out)
    if is_tensor(out) and out.device.type != "cpu":
        raise OptionError(f"the {choice.backend} backend cannot write to {out.device}: use backend='torch', or no out")
    return detached(out).numpy() if is_tensor(out) else out


def _check_finite(name: str, rows: Any) -> None:
    step = max(1, _FINITE_BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        finite = block.isfinite().all(1) if is_tensor(block) else np.isfinite(block).all(1)
        if not finite.all():
            row = start + finite.tolist().index(False)
            raise OptionError(f"{name} must be finite to be searched, row {row} holds NaN or infinity: drop such rows")
