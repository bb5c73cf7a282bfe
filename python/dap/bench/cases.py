"""What ``dap bench kernels`` measures, on which rows, and what is the right answer."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["NEIGHBOURS", "Case", "Referee", "list_cases"]

NEIGHBOURS = 10
"""k of ``nearest``."""

_SAMPLED_ROWS = 64


@dataclass(frozen=True)
class Case:
    """One reduction at one size.

    Args:
        kernel: "rbf", "laplacian", "linear" (of mean_distance: D is the distance) or "euclidean" (of nearest).
        reduction: "row_means", "mmd2" (unbiased), "mean_distance" or "nearest" (k = 10).
        n: Rows of x.
        m: Rows of y.
        d: Features.
        threads: Threads of every contender.
        dtype: How x and y are stored: "float32", "float16" or "bfloat16".

    Example:
        >>> print(Case("rbf", "row_means", 20_000, 2_000, 64, threads=2))
        rbf row_means, 20,000 × 2,000, d = 64, float32, 2 threads
    """

    kernel: str
    reduction: str
    n: int
    m: int
    d: int
    threads: int
    dtype: str = "float32"

    def __str__(self) -> str:
        """One line for people."""
        size = f"{self.n:,} × {self.m:,}, d = {self.d}"
        return f"{self.kernel} {self.reduction}, {size}, {self.dtype}, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def bandwidth(self) -> float:
        """σ: the mean distance of two rows of :meth:`rows`, ‖·‖₂ or for the Laplacian ‖·‖₁, nearly."""
        return 2 * self.d / math.sqrt(math.pi) if self.kernel == "laplacian" else math.sqrt(2 * self.d)

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> Case:
        """The case that a row of the results belongs to."""
        return cls(**{field.name: row[field.name] for field in dataclasses.fields(cls)})

    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes x (n, d) and y (m, d), standard normal and always the same; y is moved for MMD², which is else zero."""
        random = np.random.default_rng(0)
        x = random.standard_normal((self.n, self.d), dtype=np.float32)
        y = random.standard_normal((self.m, self.d), dtype=np.float32)
        if self.reduction == "mmd2":
            y += np.float32(0.5)
        dtype: torch.dtype = getattr(torch, self.dtype)
        return torch.from_numpy(x).to(dtype), torch.from_numpy(y).to(dtype)


def list_cases(quick: bool = False, threads: tuple[int, ...] = ()) -> list[Case]:
    """The cases of ``dap bench kernels``.

    Args:
        quick: Whether to shrink them until the whole bench takes seconds: to try it, not to measure.
        threads: Each case at each of these counts; when empty, all at torch's own count, and the row means of the RBF
            kernel with one thread too.

    Example:
        >>> len({case.reduction for case in list_cases(quick=True)})
        4
    """

    def at(count: int) -> list[Case]:
        rows, columns, square, widths = (
            (300, 200, 150, (8, 24, 72)) if quick else (20_000, 2_000, 4_000, (64, 384, 1152))
        )
        means = Case("rbf", "row_means", rows, columns, widths[1], count)
        return [
            *(dataclasses.replace(means, d=d) for d in widths),
            *(dataclasses.replace(means, kernel="laplacian", d=d) for d in widths),
            Case("rbf", "mmd2", square, square, widths[1], count),
            Case("linear", "mean_distance", rows, columns, widths[1], count),
            Case("euclidean", "nearest", rows, columns, widths[0], count),
            *(dataclasses.replace(means, dtype=dtype) for dtype in ("float16", "bfloat16")),
        ]

    if threads:
        return [case for count in dict.fromkeys(threads) for case in at(count)]
    cases = at(torch.get_num_threads())
    single = [dataclasses.replace(case, threads=1) for case in cases if _is_headline(case)]
    return cases + [case for case in single if case not in cases]


def _is_headline(case: Case) -> bool:
    return (case.kernel, case.reduction, case.dtype) == ("rbf", "row_means", "float32")


class Referee:
    """Says whether a result is right: by the float64 definition on 64 rows, then beside the first accepted result.

    Args:
        case: The case.
        x: Its rows, shape (n, d).
        y: Its rows, shape (m, d).
    """

    def __init__(self, case: Case, x: torch.Tensor, y: torch.Tensor) -> None:
        self._case = case
        self._x, self._y = x.double().numpy(), y.double().numpy()
        self._sample = np.arange(_SAMPLED_ROWS) * case.n // _SAMPLED_ROWS
        self._expected = _mmd2(case, self._x, self._y) if case.reduction == "mmd2" else self._definition()
        self._accepted: npt.NDArray[np.float64] | None = None

    def check(self, result: Any, rtol: float) -> None:
        """Returns if the result is right.

        Args:
            result: Shape (n,); for MMD² a number; for nearest the pair (distances (n, k), indices (n, k)).
            rtol: The greatest relative difference to the definition and to the first result that was accepted.

        Raises:
            ValueError: If it is not; the message says by how much.
        """
        if self._case.reduction == "nearest":
            result, indices = result
            # Two rows at nearly one distance may change places: not the index is compared but what it points at.
            chosen = np.asarray(indices)[self._sample]
            found = np.linalg.norm(self._x[self._sample, None] - self._y[chosen], axis=2)
            _compare("rows at the indices", found, self._expected, rtol)
        values = np.asarray(result, dtype=np.float64)
        if self._case.reduction == "mmd2":
            return _compare("result", values, self._expected, rtol)
        if values.shape[:1] != (self._case.n,):
            raise ValueError(f"expected {self._case.n} rows, got shape {values.shape}")
        _compare("result", values[self._sample], self._expected, rtol)
        if self._accepted is None:
            self._accepted = values
        _compare("result beside the others'", values, self._accepted, rtol)

    def _definition(self) -> npt.NDArray[np.float64]:
        """The sampled rows of the result, from the differences."""
        rows = []
        for x in self._x[self._sample]:
            difference = self._y - x
            if self._case.kernel == "laplacian":
                rows.append(np.exp(-np.abs(difference).sum(1) / self._case.bandwidth).mean())
                continue
            squared = (difference**2).sum(1)
            if self._case.reduction == "nearest":
                rows.append(np.sort(np.sqrt(squared))[:NEIGHBOURS])
            elif self._case.reduction == "mean_distance":
                rows.append(np.sqrt(squared).mean())
            else:
                rows.append(np.exp(-squared / (2 * self._case.bandwidth**2)).mean())
        return np.array(rows)


def _mmd2(case: Case, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Unbiased MMD² (Gretton et al., JMLR 2012, Eq. 3) in float64."""

    def mean(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], same: bool) -> float:
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        values = np.exp(-squared / (2 * case.bandwidth**2))
        return float((values.sum() - np.trace(values)) / (len(a) * (len(a) - 1)) if same else values.mean())

    return np.array(mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))


def _compare(what: str, got: Any, expected: Any, rtol: float) -> None:
    if got.shape != expected.shape:
        raise ValueError(f"{what}: expected shape {expected.shape}, got {got.shape}")
    error = float((np.abs(got - expected) / np.abs(expected)).max())
    if not error <= rtol:
        raise ValueError(f"{what}: off by {error:.1e} of the value, more than {rtol:.0e}")
