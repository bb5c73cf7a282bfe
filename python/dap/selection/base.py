"""What a selection of rows is, and how far its mean embedding is from that of all rows.

With the kernel k, μ(x) = (1/N) Σ_n k(x, x_n) over all rows, and weights w (1/count where there are none), the error of
a selection S is its maximum mean discrepancy (Gretton et al., JMLR 13 (2012), Eq. 5, for a weighted sample)

    MMD² = (1/N) Σ_n μ(x_n) + Σ_st w_s w_t k(x_s, x_t) − 2 Σ_s w_s μ(x_s).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.kernels import Distance, Kernel, by_name, row_means, row_sums
from dap.kernels.arrays import check_rows, dtype_name, is_double, is_tensor, to_numpy
from dap.kernels.backend_rust import supports

__all__ = ["DISTANCE", "Embedding", "Selection", "as_rows", "compiled"]

DISTANCE = Distance()
"""The kernel whose MMD² is the energy distance: that of the paper's energy."""


@dataclass(frozen=True)
class Selection:
    """Rows that stand for all.

    Attributes:
        indices: The rows, int64 (count,), in the order of the choice.
        weights: What each stands for, float64 (count,); None for equal shares.
        error: The MMD, not squared, to all rows.
        kernel: The kernel of the error, with numbers for its parameters.
        points: Where the points that stand for all are no rows: float64 (count, D); ``indices`` are the nearest rows.
    """

    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64] | None
    error: float
    kernel: Kernel
    points: npt.NDArray[np.float64] | None = None


def as_rows(features: Any, count: int) -> npt.NDArray[Any]:
    """The features as an array that is read in place: float16, float32 or float64; others are converted.

    Raises:
        OptionError: If they are not finite rows of numbers, or ``count`` is not from 1 to their number.

    Example:
        >>> as_rows(np.zeros((3, 2), np.int64), count=2).dtype
        dtype('float64')
    """
    check_rows(features=features)
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or not 1 <= count <= len(features):
        raise OptionError(f"count must be a whole number from 1 to the number of rows, {len(features)}; got {count!r}")
    if not bool(features.isfinite().all() if is_tensor(features) else np.isfinite(features).all()):
        raise OptionError("features must be finite, they hold NaN or infinity: drop such rows")
    name = dtype_name(features)
    return to_numpy(features, "float64" if is_double(features) else "float32" if name == "bfloat16" else name)


def compiled(kernel: Kernel | str) -> Kernel:
    """The kernel itself or the one of that name, if Rust can compute it.

    Raises:
        OptionError: If it is no kernel of :mod:`dap.kernels`.

    Example:
        >>> compiled("distance")
        Distance(name='distance')
    """
    found = by_name(kernel) if isinstance(kernel, str) else kernel
    if not isinstance(found, Kernel) or not supports(found):
        raise OptionError(f"kernel must be one of dap.kernels, or the name of one, got {kernel!r}")
    return found


@dataclass(frozen=True)
class Embedding:
    """The mean embedding of all rows.

    Attributes:
        rows: All rows, (N, D).
        kernel: The kernel with numbers.
        means: μ of each row, float64 (N,).
    """

    rows: npt.NDArray[Any]
    kernel: Kernel
    means: npt.NDArray[np.float64]

    @classmethod
    def of(cls, rows: npt.NDArray[Any], kernel: Kernel | str) -> Embedding:
        """Sums the kernel over all pairs of rows; a bandwidth rule looks at all rows.

        Example:
            >>> Embedding.of(np.array([[1.0], [3.0]]), "linear").means
            array([2., 6.])
        """
        resolved = compiled(kernel).resolve(rows)
        return cls(rows, resolved, row_means(rows, None, resolved))

    def error(self, points: npt.NDArray[Any], means: Any, weights: Any = None) -> float:
        """The MMD of weighted points, (count, D), at which μ has the values ``means``, (count,).

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

    def select(self, indices: npt.NDArray[np.int64], weights: Any = None) -> Selection:
        """The selection of these rows, with its error.

        Example:
            >>> Embedding.of(np.array([[1.0], [3.0]]), "linear").select(np.array([0, 1])).error
            0.0
        """
        indices = np.asarray(indices, np.int64)
        error = self.error(self.rows[indices], self.means[indices], weights)
        return Selection(indices, weights, error, self.kernel)
