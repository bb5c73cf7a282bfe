"""The ± of an accuracy in its parts: generation seeds, training seeds, and the size of the test set.

Accuracies y_gr of sets that were generated with G seeds, each of which R networks were trained on; repeat r starts from
the same random numbers on every set. In the crossed model y_gr = μ + a_g + b_r + e_gr the variances have the estimates
of the two-way analysis of variance without replication (Searle, Casella and McCulloch, "Variance Components", 1992,
section 4.6), in which negative ones become zero:

    σ²_a = (MS_g − MS_e) / R,    σ²_b = (MS_r − MS_e) / G,    σ²_e = MS_e.

The standard error of the mean over all y has the parts √(σ²_a/G) (generation) and √(σ²_b/R + σ²_e/GR) (training). A
test set of M images adds √(p(1 − p)/M), the binomial error of the accuracy p, which no repeat makes smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dap.config import check_whole
from dap.errors import OptionError
from dap.evaluation.statistics import Difference, student_t_quantile

__all__ = ["ErrorParts", "crossed_difference", "error_parts"]


@dataclass(frozen=True)
class ErrorParts:
    """A mean accuracy in per cent, and the parts of its standard error in per cent points.

    Attributes:
        mean: Mean over all trainings.
        generation: From the seeds with which sets were generated; NaN for a single set.
        training: From the seeds of the trainings; NaN for a single training of each set.
        test: From the finite number of test images.
        sets: Number of generated sets.
        trainings: Trainings of each set.
    """

    mean: float
    generation: float
    training: float
    test: float
    sets: int
    trainings: int

    @property
    def total(self) -> float:
        """The root of the sum of the squares of the known parts."""
        return math.sqrt(sum(part**2 for part in (self.generation, self.training, self.test) if not math.isnan(part)))


def error_parts(accuracies: Sequence[Sequence[float]], test_images: int) -> ErrorParts:
    """Return the mean of accuracies and the parts of its standard error.

    Args:
        accuracies: In per cent, one row for each generated set, one column for each training seed.
        test_images: Number of test images.

    Raises:
        OptionError: There is no accuracy, or the sets have different numbers of trainings.

    Example:
        >>> parts = error_parts([[70.0, 72.0], [74.0, 76.0]], 400)
        >>> parts.mean, parts.generation, parts.training, round(parts.test, 2)
        (73.0, 2.0, 1.0, 2.22)
    """
    values = _table(accuracies)
    check_whole("test_images", test_images)
    share = min(1.0, max(0.0, float(values.mean()) / 100))
    generation, training = _variances(values)
    return ErrorParts(
        float(values.mean()), math.sqrt(generation), math.sqrt(training),
        100 * math.sqrt(share * (1 - share) / test_images), *values.shape,
    )  # fmt: skip


def crossed_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Difference:
    """Return the mean of a − b, paired by set and by training seed, with a 95 % interval of Student's t.

    With several sets the standard error has the parts of :func:`error_parts`, and the degrees of freedom are those of
    the smaller number, of sets or of training seeds: for one set that is the paired interval of
    :func:`~dap.evaluation.paired_difference`. A single set on one side is compared with each on the other.

    Args:
        a: Accuracies, one row for each generated set, one column for each training seed.
        b: The same of another method.

    Raises:
        OptionError: The numbers of trainings differ, or those of sets where both are more than one.

    Example:
        >>> crossed_difference([[71.0, 73.0, 72.0]], [[70.0, 71.0, 69.0]]).mean
        2.0
    """
    first, second = _table(a), _table(b)
    sets = {len(first), len(second)}
    if first.shape[1] != second.shape[1] or (len(sets) == 2 and 1 not in sets):
        raise OptionError(f"expected as many sets and trainings on both sides, got {first.shape} and {second.shape}")
    values = first - second
    mean, counts = float(values.mean()), [count for count in values.shape if count > 1]
    if not counts:
        return Difference(mean, -math.inf, math.inf, 1)
    known = [variance for variance in _variances(values) if not math.isnan(variance)]
    half = student_t_quantile(0.95, min(counts) - 1) * math.sqrt(sum(known))
    return Difference(mean, mean - half, mean + half, values.size)


def _table(accuracies: Sequence[Sequence[float]]) -> np.ndarray:
    lengths = {len(row) for row in accuracies}
    if len(lengths) != 1 or lengths == {0}:
        raise OptionError(f"expected the same number of trainings for each set, got {sorted(lengths) or 'none'}")
    return np.array(accuracies, np.float64)


def _variances(values: np.ndarray) -> tuple[float, float]:
    """Return the variance of the mean from generation and from training; NaN for what a single seed cannot tell."""
    sets, trainings = values.shape
    rows, columns = values.mean(1), values.mean(0)
    if sets == 1 or trainings == 1:
        generation = float(rows.var(ddof=1)) / sets if sets > 1 else math.nan
        return generation, float(columns.var(ddof=1)) / trainings if trainings > 1 else math.nan
    residual = values - rows[:, None] - columns + values.mean()
    error = float((residual**2).sum()) / ((sets - 1) * (trainings - 1))
    generation = max(0.0, float(rows.var(ddof=1)) - error / trainings)
    training = max(0.0, float(columns.var(ddof=1)) - error / sets)
    return generation / sets, training / trainings + error / values.size
