"""Confidence intervals of metrics: how much a value would change with other distilled images.

A metric that is a mean over images has a bootstrap interval: Efron and Tibshirani, "An Introduction to the Bootstrap",
1993, chapter 13 (percentiles). A bootstrap sample holds some images twice, which a metric of pairs or of spread (MMD²,
FID, diversity, the Vendi score) takes for very similar images; these have an interval of the grouped jackknife: Tukey,
1958; Shao and Tu, "The Jackknife and Bootstrap", 1995, section 2.3. With the value θ_g without group g of G,

    s² = (G − 1)/G · Σ (θ_g − mean θ)²,     θ ± t s,

where t is the quantile of the normal distribution. Neither interval contains a metric's bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dap.config import check_whole
from dap.errors import OptionError

__all__ = ["Interval", "around", "bootstrap", "divided", "jackknife", "jackknife_variance"]

_NORMAL = 1.959963984540054  # the quantile of 97.5 %
_DRAWS = 1 << 22  # numbers that are drawn together


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def bootstrap(*values: npt.ArrayLike, repeats: int = 1000, seed: int = 0) -> Interval:
    """Return the 95 % bootstrap interval of the mean of some values, one for each image.

    Args:
        values: Real numbers with shape (n,), n at least 1. Several arrays, one for each class: the interval is that of
            the mean of their means, and each class is drawn from itself.
        repeats: Number of bootstrap samples.
        seed: Seed of the samples.

    Raises:
        OptionError: There are no values, or ``repeats`` is less than 1.

    Example:
        >>> interval = bootstrap(np.arange(100.0))
        >>> 42 < interval.low < 49.5 < interval.high < 57
        True
    """
    check_whole("repeats", repeats)
    draw = np.random.default_rng(seed)
    means = np.zeros(repeats)
    for sample in values:
        array = np.asarray(sample, np.float64)
        if array.ndim != 1 or not len(array):
            raise OptionError(f"values: expected one number for each of at least one image, got shape {array.shape}")
        step = max(1, _DRAWS // len(array))
        for start in range(0, repeats, step):
            count = min(step, repeats - start)
            means[start : start + count] += array[draw.integers(len(array), size=(count, len(array)))].mean(1)
    low, high = np.percentile(means / len(values), [2.5, 97.5])
    return Interval(float(low), float(high))


def jackknife(
    statistic: Callable[[npt.NDArray[np.int64]], float], count: int, *, groups: int = 20, seed: int = 0
) -> Interval:
    """Return the 95 % interval of a statistic of images, by leaving out one group of them after the other.

    Args:
        statistic: Returns its value for the images with the given numbers, which are sorted.
        count: Number of images, at least 3.
        groups: Number of groups, at most ``count`` of them.
        seed: Seed of the division into groups.

    Raises:
        OptionError: There are fewer than three images, or fewer than two groups.

    Example:
        >>> rows = np.random.default_rng(0).standard_normal(400)
        >>> low, high = jackknife(lambda kept: float(rows[kept].mean()), 400)
        >>> abs((high - low) / 2 - 1.96 / 20) < 0.03
        True
    """
    check_whole("count", count, 3)
    check_whole("groups", groups, 2)
    everything = np.arange(count)
    parts = divided(count, groups, seed)
    variance = jackknife_variance(np.array([statistic(np.setdiff1d(everything, part)) for part in parts]))
    return around(statistic(everything), variance)


def divided(count: int, groups: int = 20, seed: int = 0) -> list[npt.NDArray[np.int64]]:
    """Return the groups of the jackknife: a random division of the numbers below ``count`` into equal parts.

    Example:
        >>> [len(part) for part in divided(5, 3)]
        [2, 2, 1]
    """
    return np.array_split(np.random.default_rng(seed).permutation(count), min(groups, count))


def jackknife_variance(left: npt.NDArray[np.float64]) -> float:
    """Return s² for the values without one group each, (G,)."""
    return float((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum())


def around(value: float, variance: float) -> Interval:
    """Return the 95 % interval of a normal distribution."""
    half = _NORMAL * float(np.sqrt(variance))
    return Interval(value - half, value + half)
