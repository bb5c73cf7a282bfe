"""The Gram matrix k(x_i, y_j), and reductions that do not hold it in memory.

All functions take arrays or tensors with shapes (n, d) and (m, d), y = None for y = x (Rust then computes half), and a
kernel or its name; bandwidth rules use y. Sums of arrays are float64 arrays. The matrix itself, and all results of
tensors, have the dtype of the computation: float32 for float16, bfloat16 and float32, and float64 where x or y is
float64, integer or bool. Tensors stay on their device. Rows that are not C-contiguous are copied; read-only and
memory-mapped ones are fine.

A row that holds NaN or infinity counts as a row of NaN: NaN in its own result, and, in y, in every result.
:func:`nearest` raises an error for such rows.
"""

from __future__ import annotations

import numpy as np

from dap.config import check_whole
from dap.errors import OptionError
from dap.kernels.arrays import Array, Rows, give_back, is_tensor, to_numpy
from dap.kernels.backend_choice import Choice, choose
from dap.kernels.base import Kernel, as_kernel
from dap.kernels.checks import check_finite, check_out, check_rows, check_weights, computed_dtype, row_count
from dap.kernels.linear import LINEAR

__all__ = ["gram", "mean_distance", "nearest", "row_means", "row_sums"]


def gram(
    x: Rows, y: Rows | None = None, kernel: Kernel | str = LINEAR, backend: str = "auto", *, out: Rows | None = None
) -> Rows:
    """Return k(x_i, y_j) for all pairs: the Gram matrix.

    Args:
        x: Real numbers with shape (n, d).
        y: Real numbers with shape (m, d); None for x.
        kernel: A kernel or its name.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".
        out: Where to write, block by block, for example a memory-mapped array: shape (n, m), C-contiguous, of the kind
            and device of x and of the dtype of the computation (float32, or float64 if x or y is float64 or integer).

    Returns:
        Shape (n, m), arrays too in the dtype of the computation; ``out`` itself where that is given.

    Raises:
        OptionError: The shapes, types, devices, ``out`` or the backend do not fit, or ``out`` is given and a gradient
            is needed.

    Example:
        >>> import numpy as np
        >>> gram(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([[11.,  2.]])
    """
    check_rows(x=x, y=y)
    if out is not None:
        check_out(out, x, y)
    resolved = as_kernel(kernel).resolve(x if y is None else y)
    choice = choose(resolved, backend, x, y)
    if out is not None:
        choice.load().gram(x, y, resolved, _for_backend(out, choice))
        return out
    matrix = choice.load().gram(x, y, resolved)
    return give_back(matrix, x, y) if is_tensor(x) else to_numpy(matrix, computed_dtype(x, y))


def row_sums(
    x: Rows,
    y: Rows | None = None,
    kernel: Kernel | str = LINEAR,
    backend: str = "auto",
    *,
    weights: Rows | None = None,
) -> Rows:
    """Return Σ_j k(x_i, y_j) for each row of x, or k(X, Y)·W for weights W.

    Args:
        x: Real numbers with shape (n, d).
        y: Real numbers with shape (m, d), m ≥ 0; None for x.
        kernel: A kernel or its name.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".
        weights: Real numbers with shape (m, C), of the kind and device of x; the rust and numpy backends convert them
            to float64. None for one column of ones.

    Returns:
        Shape (n,), or (n, C) for weights. With the torch backend differentiable in x, y and weights.

    Raises:
        OptionError: The shapes, types, devices or the backend do not fit.

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
        check_weights(weights, x, y)
    resolved = as_kernel(kernel).resolve(x if y is None else y)
    computation = choose(resolved, backend, x, y, weights).load()
    return give_back(computation.row_sums(x, y, resolved, weights), x, y)


def row_means(x: Rows, y: Rows | None = None, kernel: Kernel | str = LINEAR, backend: str = "auto") -> Rows:
    """Return (1/m) Σ_j k(x_i, y_j) for each row of x: the mean embedding of y at x.

    Arguments, result and errors are those of :func:`mean_distance`.

    Example:
        >>> import numpy as np
        >>> row_means(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([6.5])
    """
    check_rows(x=x, y=y)
    count = row_count(x, y)
    resolved = as_kernel(kernel).resolve(x if y is None else y)
    return give_back(choose(resolved, backend, x, y).load().row_sums(x, y, resolved) / count, x, y)


def mean_distance(
    x: Rows,
    y: Rows | None = None,
    kernel: Kernel | str = LINEAR,
    backend: str = "auto",
    *,
    weights: Rows | None = None,
) -> Rows:
    """Return (1/m) Σ_j D(x_i, y_j) for each row of x, with D(x, y) = √(k(x,x) + k(y,y) − 2 k(x,y)).

    The energy of one slot in DAP (Su et al., ICLR 2026, Eq. 6) when x holds features of slots and y those of real
    images. D is computed in a form that does not cancel where the points are near.

    Args:
        x: Real numbers with shape (n, d).
        y: Real numbers with shape (m, d), m ≥ 1; None for x (where D(x_i, x_i) = 0 is one of the m).
        kernel: A kernel or its name.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".
        weights: w with shape (m,), of the kind and device of x; the result is then Σ_j w_j D(x_i, y_j). None for 1/m
            each.

    Returns:
        Shape (n,). With the torch backend differentiable in x, y and weights; the gradient of D is taken as zero at
        D = 0.

    Raises:
        OptionError: The shapes, types, devices or the backend do not fit, or y has no rows.

    Example:
        >>> import numpy as np
        >>> mean_distance(np.zeros((1, 2)), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([3.])
    """
    check_rows(x=x, y=y)
    row_count(x, y)
    resolved = as_kernel(kernel).resolve(x if y is None else y)
    if weights is not None:
        if weights.ndim != 1:
            raise OptionError(f"weights must have 1 dimension (rows of y), got shape {tuple(weights.shape)}")
        check_weights(weights[:, None], x, y)
    computation = choose(resolved, backend, x, y, weights).load()
    return give_back(computation.mean_distance(x, y, resolved, weights), x, y)


def nearest(
    x: Rows, y: Rows | None = None, k: int = 1, kernel: Kernel | str | None = None, backend: str = "auto"
) -> tuple[Rows, Rows]:
    """Return the k rows of y nearest to each row of x, by distance or by kernel; of equal ones the lowest index.

    Args:
        x: Finite real numbers with shape (n, d).
        y: Finite real numbers with shape (m, d); None for x (each row then finds itself, or an equal row before it).
        k: How many, 1 ≤ k ≤ m.
        kernel: A kernel or its name, for the largest k(x, y); None for the smallest Euclidean distance.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".

    Returns:
        Distances in ascending order, or values of the kernel in descending order, with shape (n, k); and the indices
        of their rows in y, int64 with shape (n, k).

    Raises:
        OptionError: The shapes, types, devices or the backend do not fit, k is out of range, or a row holds NaN or
            infinity.

    Example:
        >>> import numpy as np
        >>> distances, indices = nearest(np.zeros((1, 1)), np.array([[5.0], [-1.0], [2.0]]), k=2)
        >>> distances.tolist(), indices.tolist()
        ([[1.0, 2.0]], [[1, 2]])
    """
    check_rows(x=x, y=y)
    rows = x if y is None else y
    count = int(k) if isinstance(k, np.integer) else k
    check_whole("k", count, 1, len(rows))
    by_distance = kernel is None and choose(None, backend, x, y).backend == "rust"
    if not by_distance:  # Rust meets such rows in its search; to look first takes longer than a short search
        check_finite(x=x, y=y)
    resolved = None if kernel is None else as_kernel(kernel).resolve(rows)
    computation = choose(resolved, backend, x, y).load()
    values, indices = computation.nearest(x, y, resolved, count)
    if by_distance and not np.isfinite(values).all():
        check_finite(x=x, y=y)
        values, indices = computation.nearest(_in_float64(x), None if y is None else _in_float64(y), None, count)
    return give_back(values, x, y), give_back(indices, x, y)


def _in_float64(rows: Array) -> np.ndarray:
    """Return rows whose squares overflow in float32 as float64."""
    return to_numpy(rows, np.float64)


def _for_backend(out: Array, choice: Choice) -> Array:
    """Return ``out``, or a view of its memory, as the backend writes to it."""
    if choice.backend == "torch":
        import torch

        return out if is_tensor(out) else torch.from_numpy(out)
    if not is_tensor(out):
        return out
    if out.device.type != "cpu":
        raise OptionError(f"the {choice.backend} backend cannot write to {out.device}: use backend='torch', or no out")
    return out.detach().numpy()
