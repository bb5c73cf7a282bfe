"""The result of a selection of rows, and its error: how far its mean embedding is from that of all rows.

With the kernel k, μ(x) = (1/N) Σ_n k(x, x_n) over all rows, and weights w (1/count where there are none), the error of
a selection S is its maximum mean discrepancy (Gretton et al., JMLR 13 (2012), Eq. 5, for a weighted sample)

    MMD² = (1/N) Σ_n μ(x_n) + Σ_st w_s w_t k(x_s, x_t) − 2 Σ_s w_s μ(x_s).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dap.config import check_whole
from dap.errors import OptionError
from dap.kernels import Distance, Kernel, row_means, row_sums
from dap.kernels.arrays import Array, dtype_name, is_double, is_tensor, to_numpy
from dap.kernels.backend_rust import supports
from dap.kernels.base import as_kernel
from dap.kernels.checks import check_rows
from dap.result_text import html_table

__all__ = ["DISTANCE", "Embedding", "Selection", "Selector", "as_rows", "compiled"]

SHOWN = 20  # chosen rows that a notebook shows
DISTANCE = Distance()
"""The default kernel: its MMD² is the energy distance, as in the paper's energy."""


@dataclass(frozen=True, repr=False)
class Selection:
    """Chosen rows that represent all rows.

    Attributes:
        indices: The rows, int64 (count,), in the order in which they were chosen.
        weights: The share of all rows that each chosen row represents, float64 (count,); None for equal shares.
        error: The MMD, not squared, to all rows.
        kernel: The kernel of the error, with numbers for its options.
        points: None, or points that represent all rows in place of chosen rows, float64 (count, D); ``indices`` are
            then the rows nearest to them.
    """

    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64] | None
    error: float
    kernel: Kernel
    points: npt.NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        shares = "" if self.weights is None else ", weighted"
        numbers = ", ".join(map(str, self.indices[:5].tolist())) + (", …" if len(self.indices) > 5 else "")
        return f"Selection({len(self.indices)} rows: {numbers}{shares}, error {self.error:.4g})"

    def _repr_html_(self) -> str:
        weights = np.full(len(self.indices), 1 / len(self.indices)) if self.weights is None else self.weights
        rows = zip(self.indices[:SHOWN].tolist(), weights[:SHOWN].tolist(), strict=True)
        more = f", the first {SHOWN}" if len(self.indices) > SHOWN else ""
        caption = f"{len(self.indices)} chosen rows{more}; error {self.error:.4g} (MMD, kernel {self.kernel.name})"
        return html_table([["row", "share of all rows"], *([str(row), f"{share:.4f}"] for row, share in rows)], caption)


class Selector(Protocol):
    """The signature that all selectors share; a selector may have more options."""

    def __call__(self, features: Array, count: int, *, kernel: Kernel | str = DISTANCE, seed: int = 0) -> Selection:
        """Choose rows.

        Args:
            features: Finite real numbers with shape (N, D), array or tensor.
            count: The number of rows, 1 ≤ count ≤ N.
            kernel: The kernel of the error, or its name.
            seed: The seed of the random draws.
        """


def as_rows(features: Array, count: int, name: str = "count") -> np.ndarray:
    """Return the features as an array, without a copy if they are float16, float32 or float64, else converted.

    Args:
        features: Shape (N, D).
        count: The number of rows that are chosen.
        name: The name of ``count`` in errors.

    Raises:
        OptionError: The features are not finite rows of numbers, or ``count`` is not from 1 to N.

    Example:
        >>> as_rows(np.zeros((3, 2), np.int64), count=2).dtype
        dtype('float64')
    """
    check_rows(features=features)
    check_whole(name, int(count) if isinstance(count, np.integer) else count, 1, len(features))
    if not bool(features.isfinite().all() if is_tensor(features) else np.isfinite(features).all()):
        raise OptionError("features must be finite, and hold NaN or infinity: drop such rows")
    dtype = dtype_name(features)
    return to_numpy(features, "float64" if is_double(features) else "float32" if dtype == "bfloat16" else dtype)


def compiled(kernel: Kernel | str) -> Kernel:
    """Return the kernel, or the one of that name; raise unless Rust can compute it.

    Raises:
        OptionError: It is not a kernel, or not one of :mod:`dap.kernels`.

    Example:
        >>> compiled("distance")
        Distance(name='distance')
    """
    checked = as_kernel(kernel)
    if not supports(checked):
        raise OptionError(f"kernel: selection needs a kernel of dap.kernels, which Rust computes, got {kernel!r}")
    return checked


@dataclass(frozen=True)
class Embedding:
    """The mean embedding of all rows.

    Attributes:
        rows: All rows, (N, D).
        kernel: The kernel with numbers for its options.
        means: μ of each row, float64 (N,).
    """

    rows: np.ndarray
    kernel: Kernel
    means: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: np.ndarray, kernel: Kernel | str) -> Embedding:
        """Compute the embedding of all rows, which a bandwidth rule uses.

        Example:
            >>> Embedding.of(np.array([[1.0], [3.0]]), "linear").means
            array([2., 6.])
        """
        resolved = compiled(kernel).resolve(rows)
        return cls(rows, resolved, row_means(rows, None, resolved))

    def error(self, points: np.ndarray, means: npt.ArrayLike, weights: np.ndarray | None = None) -> float:
        """Return the MMD of weighted points.

        Args:
            points: Shape (count, D).
            means: μ at the points, (count,).
            weights: Shape (count,); None for equal shares.

        Example:
            >>> rows = np.array([[1.0], [3.0]])
            >>> Embedding.of(rows, "linear").error(rows[:1], [2.0])
            1.0
        """
        shares = np.full(len(points), 1 / len(points)) if weights is None else weights
        points = points.astype(np.float64)  # few rows, whose sums cancel
        within = row_sums(points, None, self.kernel, weights=shares[:, None])[:, 0]
        squared = self.means.mean() + shares @ within - 2 * shares @ np.asarray(means)
        return float(np.sqrt(max(squared, 0.0)))

    def select(self, indices: npt.NDArray[np.int64], weights: npt.NDArray[np.float64] | None = None) -> Selection:
        """Return the selection of these rows, with its error.

        Example:
            >>> Embedding.of(np.array([[1.0], [3.0]]), "linear").select(np.array([0, 1])).error
            0.0
        """
        indices = np.asarray(indices, np.int64)
        error = self.error(self.rows[indices], self.means[indices], weights)
        return Selection(indices, weights, error, self.kernel)
