"""Checks of the arguments that the reductions and the two-sample estimates share."""

from __future__ import annotations

import numpy as np

from dap.errors import OptionError
from dap.kernels.arrays import DOUBLE, SINGLE, Array, dtype_name, is_double, is_tensor

__all__ = ["check_finite", "check_out", "check_rows", "check_same_kind", "check_weights", "computed_dtype", "row_count"]

_FINITE_BLOCK = 1 << 22
"""Numbers that are searched together for NaN and infinity."""


def check_rows(**arguments: Array | None) -> None:
    """Raise unless all arguments are matrices of real numbers, alike in number of columns, kind and device.

    Args:
        arguments: The arguments by their names; None is skipped.

    Raises:
        OptionError: It names the arguments.
    """
    present = {name: rows for name, rows in arguments.items() if rows is not None}
    first, x = next(iter(present.items()))
    for name, rows in present.items():
        _check_matrix(name, rows)
        check_same_kind(first, x, name, rows)
        if rows.shape[1] != x.shape[1]:
            raise OptionError(
                f"{first} and {name} must have the same number of features, got {x.shape[1]} and {rows.shape[1]}"
            )


def check_same_kind(first: str, x: Array, name: str, value: Array) -> None:
    """Raise unless both are arrays, or both are tensors on one device."""
    if is_tensor(x) != is_tensor(value):
        raise OptionError(f"{first} and {name} must be of one kind, got {type(x).__name__} and {type(value).__name__}")
    if is_tensor(x) and x.device != value.device:
        raise OptionError(f"{first} and {name} must be on one device, got {x.device} and {value.device}")


def check_weights(weights: Array, x: Array, y: Array | None) -> None:
    """Raise unless ``weights`` is a matrix with one row for each row of y, of the kind of x."""
    check_rows(weights=weights)
    check_same_kind("x", x, "weights", weights)
    count = len(x if y is None else y)
    if len(weights) != count:
        raise OptionError(f"weights must have one row for each of the {count} rows of y, got {len(weights)}")


def row_count(x: Array, y: Array | None) -> int:
    """Return the number of rows of y, or of x if y is None; raise if it is zero, since a mean needs rows."""
    count = len(x if y is None else y)
    if not count:
        raise OptionError(f"{'x' if y is None else 'y'} has no rows: a mean needs at least one")
    return count


def computed_dtype(x: Array, y: Array | None) -> str:
    """Return the name of the dtype in which the reductions of x and y are computed."""
    return "float64" if is_double(x, y) else "float32"


def check_out(out: Array, x: Array, y: Array | None) -> None:
    """Raise unless the matrix k(x, y) can be written into ``out``."""
    check_rows(out=out)
    check_same_kind("x", x, "out", out)
    shape, dtype = (len(x), len(x if y is None else y)), computed_dtype(x, y)
    contiguous = out.is_contiguous() if is_tensor(out) else out.flags.c_contiguous
    if tuple(out.shape) != shape or not contiguous or dtype_name(out) != dtype:
        raise OptionError(
            f"out must be C-contiguous {dtype} with shape {shape}, the dtype in which these rows are computed; "
            f"got {'' if contiguous else 'non-contiguous '}{out.dtype} with shape {tuple(out.shape)}"
        )
    if is_tensor(out):
        import torch

        if torch.is_grad_enabled() and any(is_tensor(rows) and rows.requires_grad for rows in (x, y, out)):
            raise OptionError("gram has no gradient when it writes into out: detach x, y and out, or leave out away")
    elif not out.flags.writeable:
        raise OptionError("out is read-only: pass an array that can be written to")


def check_finite(**sides: Array | None) -> None:
    """Raise if a row holds NaN or infinity, and name the first such row; None is skipped."""
    for name, rows in sides.items():
        if rows is None:
            continue
        step = max(1, _FINITE_BLOCK // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            finite = block.isfinite().all(1).cpu().numpy() if is_tensor(block) else np.isfinite(block).all(1)
            if not finite.all():
                row = start + int(finite.argmin())
                raise OptionError(
                    f"{name} must be finite to be searched, row {row} holds NaN or infinity: drop such rows"
                )


def _check_matrix(name: str, rows: Array) -> None:
    if not (is_tensor(rows) or isinstance(rows, np.ndarray)):
        raise OptionError(f"{name} must be a numpy array or a torch tensor, got {type(rows).__name__}")
    if rows.ndim != 2:
        raise OptionError(f"{name} must have 2 dimensions (rows, features), got shape {tuple(rows.shape)}")
    if dtype_name(rows) not in SINGLE | DOUBLE:
        raise OptionError(
            f"{name} must hold real numbers (float16, bfloat16, float32, float64, integers or bools), "
            f"got dtype {rows.dtype}"
        )
