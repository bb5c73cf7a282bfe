"""Means, standard errors and paired differences over repeated trainings.

Student's t distribution has a closed form for a whole number ν of degrees of freedom: Abramowitz and Stegun, "Handbook
of Mathematical Functions", 26.7.3 (ν odd) and 26.7.4 (ν even). With θ = arctan(t / √ν):

    P(|T| < t) = (2/π) (θ + sin θ (cos θ + 2/3 cos³ θ + … + (2·4⋯(ν−3)) / (1·3⋯(ν−2)) cos^(ν−2) θ))    ν odd
    P(|T| < t) = sin θ (1 + 1/2 cos² θ + … + (1·3⋯(ν−3)) / (2·4⋯(ν−2)) cos^(ν−2) θ)                    ν even
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from dap.errors import OptionError

__all__ = ["Difference", "Summary", "paired_difference", "student_t_quantile", "summary"]


@dataclass(frozen=True)
class Summary:
    """A mean, its standard error (sample standard deviation over √n; NaN for n = 1) and the number of values."""

    mean: float
    standard_error: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A mean of paired differences, its 95 % confidence interval, and the number of pairs."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def in_noise(self) -> bool:
        """Whether the interval contains zero."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        """Return it in one decimal, with its interval if there is one.

        Example:
            >>> str(Difference(1.5, -0.5, 3.5, n=3)), str(Difference(1.5, math.nan, math.nan, n=1))
            ('+1.5 [-0.5, +3.5], in the noise', '+1.5')
        """
        if not math.isfinite(self.high):
            return f"{self.mean:+.1f}"
        noise = ", in the noise" if self.in_noise else ""
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}]{noise}"


def summary(values: Sequence[float]) -> Summary:
    """The mean and its standard error, which is NaN for a single value.

    Raises:
        OptionError: There is no value.

    Example:
        >>> summary([70.0, 72.0])
        Summary(mean=71.0, standard_error=1.0, n=2)
    """
    if not values:
        raise OptionError("expected at least one value, got none")
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Summary(statistics.fmean(values), error, len(values))


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """The mean of a − b over pairs, with the 95 % interval of Student's t; infinitely wide for a single pair.

    Raises:
        OptionError: The numbers of values differ, or there is none.

    Example:
        >>> paired_difference([71.0, 73.0, 72.0], [70.0, 71.0, 69.0]).mean
        2.0
    """
    if len(a) != len(b):
        raise OptionError(f"expected as many values on both sides, got {len(a)} and {len(b)}")
    mean, error, n = astuple(summary([x - y for x, y in zip(a, b, strict=True)]))
    half = student_t_quantile(0.95, n - 1) * error if n > 1 else math.inf
    return Difference(mean, mean - half, mean + half, n)


def student_t_quantile(share: float, freedom: int) -> float:
    """The t for which a Student variable lies in (−t, t) with the given probability.

    Args:
        share: The probability, in (0, 1).
        freedom: Degrees of freedom ν, at least 1.

    Example:
        >>> round(student_t_quantile(0.95, 23), 3)
        2.069
    """
    low, high = 0.0, math.pi / 2  # of θ: the probability grows from 0 to 1
    while low < (middle := (low + high) / 2) < high:
        if _central_probability(middle, freedom) < share:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(middle)


def _central_probability(theta: float, freedom: int) -> float:
    """P(|T| < √ν tan θ), by the formulas in the module's docstring."""
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = 0.0
    for k in range(odd + 2, freedom + 1, 2):  # k = 3, 5, … ν or 2, 4, … ν
        total += term
        term *= (k - 1) / k * math.cos(theta) ** 2
    total *= math.sin(theta)
    return (theta + total) * 2 / math.pi if odd else total
