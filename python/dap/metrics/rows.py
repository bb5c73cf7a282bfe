"""Checks of features, and distances between paired rows that are the same whichever row comes first."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.kernels.arrays import Array, dtype_name, is_double, to_numpy
from dap.kernels.checks import check_finite, check_rows

__all__ = ["as_features", "blocks", "squared_distances"]

_BLOCK = 1 << 22
"""Numbers of a block: 32 MiB in float64."""


def as_features(features: Array, real: Array | None = None, *, least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return distilled and real features as finite arrays, float16, float32 or float64; real = None for none.

    Raises:
        OptionError: They are not matrices of finite numbers with equal numbers of columns, or have less than ``least``
            rows.

    Example:
        >>> as_features(np.zeros((3, 2), np.int64))[0].dtype
        dtype('float64')
    """
    check_rows(features=features, real=real)
    for name, rows in (("features", features), ("real", real)):
        if rows is not None and len(rows) < least:
            raise OptionError(f"{name}: expected at least {least} image{'s'[: least > 1]}, got {len(rows)}")
        if rows is not None and rows.shape[1] == 0:
            raise OptionError(f"{name}: expected at least one feature for each image, got shape {tuple(rows.shape)}")
    check_finite(features=features, real=real)
    distilled = _stored(features)
    return distilled, distilled[:0] if real is None else _stored(real)


def blocks(rows: np.ndarray, width: int | None = None) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Yield slices of the rows with their float64 copies, in blocks of at most 4 million numbers.

    Args:
        rows: Shape (n, d).
        width: Numbers that the caller holds for each row, if these are more than d.
    """
    step = max(1, _BLOCK // max(rows.shape[1], width or 1))
    for start in range(0, len(rows), step):
        part = slice(start, min(start + step, len(rows)))
        yield part, rows[part].astype(np.float64)


def squared_distances(x: np.ndarray, y: np.ndarray, index: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return ‖x_i − y_index(i)‖² in float64; equal pairs give equal bits in both orders.

    Example:
        >>> squared_distances(np.array([[0.0, 0.0]]), np.array([[1.0, 1.0], [3.0, 4.0]]), np.array([1]))
        array([25.])
    """
    found = np.empty(len(x))
    for part, block in blocks(x):
        block -= y[index[part]]
        block *= block
        found[part] = block.sum(1)
    return found


def _stored(rows: Array) -> np.ndarray:
    dtype = dtype_name(rows)
    return to_numpy(rows, "float64" if is_double(rows) else "float32" if dtype == "bfloat16" else dtype)
