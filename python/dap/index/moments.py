"""Mean and covariance of rows that are read once, a chunk at a time; those of several parts can be merged.

The pairwise update of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979), in float64: for parts a and b with δ = μ_b − μ_a and n = n_a + n_b,

    μ = μ_a + δ n_b / n,        S = S_a + S_b + δ δᵀ n_a n_b / n,        covariance = S / (n − 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError

__all__ = ["Moments"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of rows.

    Attributes:
        count: Number of rows n.
        mean: μ, float64 with shape (D,); zero if there are no rows.
        scatter: S = Σ (x − μ)(x − μ)ᵀ, float64 with shape (D, D).

    Example:
        >>> rows = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
        >>> whole = Moments.of([rows], columns=2)
        >>> parts = Moments.of([rows[:1]], columns=2).merge(Moments.of([rows[1:]], columns=2))
        >>> whole.mean, bool(np.allclose(parts.covariance, np.cov(rows.T)))
        (array([2., 2.]), True)
    """

    count: int
    mean: npt.NDArray[np.float64]
    scatter: npt.NDArray[np.float64]

    @classmethod
    def of(cls, chunks: Iterable[npt.ArrayLike], columns: int) -> Moments:
        """Return the moments of all rows of some chunks, each with shape (n, columns)."""
        total = cls(0, np.zeros(columns), np.zeros((columns, columns)))
        for chunk in chunks:
            rows = np.asarray(chunk, np.float64)
            if len(rows):
                mean = rows.mean(axis=0)
                centred = rows - mean
                total = total.merge(cls(len(rows), mean, centred.T @ centred))
        return total

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the rows of this object and of ``other``."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        step = other.mean - self.mean
        spread = np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), self.scatter + other.scatter + spread)

    @property
    def covariance(self) -> npt.NDArray[np.float64]:
        """The unbiased covariance, (D, D).

        Raises:
            OptionError: Fewer than two rows.
        """
        if self.count < 2:
            raise OptionError(f"a covariance needs at least 2 rows, got {self.count}")
        return self.scatter / (self.count - 1)
