"""The value of each metric for some images, with what its interval is computed from.

A family computes metrics that share their costly part: the balls of precision, recall, density and coverage, or the
nearest real images. Each takes distilled features (n, d) and real ones (N, d), n and N at least 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from dap.kernels import RBF, Distance, Kernel, Polynomial, mean_distance, mmd2, nearest, row_sums
from dap.kernels.backend_choice import choose
from dap.kernels.two_samples import pooled
from dap.metrics.distance import diversity
from dap.metrics.frechet import Gaussian, frechet_distance
from dap.metrics.intervals import divided, jackknife_variance
from dap.metrics.kid import kid
from dap.metrics.memorisation import nearest_real
from dap.metrics.prdc import prdc
from dap.metrics.published import (
    manifold_gd_diversity,
    manifold_gd_representativeness,
    mgd3_representativeness,
    minimax_representativeness,
    most_similar_other,
)
from dap.metrics.vendi import vendi_score

__all__ = ["FAMILIES", "Estimate", "Family"]

Rows: TypeAlias = np.ndarray
"""Features, float32."""

_MOST = 1024
"""Matrices of more rows and columns take too long for the twenty decompositions of a jackknife."""

_K = 5
_NAN = math.nan


@dataclass(frozen=True)
class Estimate:
    """A value, and either the numbers of which it is the mean, or its variance; neither where there is no interval."""

    value: float
    images: npt.NDArray[np.float64] | None = None
    variance: float = _NAN

    @classmethod
    def mean(cls, images: npt.ArrayLike) -> Estimate:
        """Return the estimate that is the mean of one number for each image."""
        values = np.asarray(images, np.float64)
        return cls(float(values.mean()), values)


class Family(NamedTuple):
    """Metrics that are computed together.

    Attributes:
        names: The metrics.
        compute: Returns their estimates, with the variance of the jackknife if the last argument is True.
        least: Smallest number of distilled images.
        least_real: Smallest number of real images.
        by_class: Whether the value of a set is the mean over its classes; False: that of all classes together.
    """

    names: tuple[str, ...]
    compute: Callable[[Rows, Rows, bool], Sequence[Estimate]]
    least: int = 1
    least_real: int = 1
    by_class: bool = True


def _distances(x: Rows, y: Rows, spread: bool) -> list[Estimate]:
    own = Estimate(diversity(x), variance=_left_out(lambda kept: diversity(x[kept]), len(x) * spread))
    return [Estimate.mean(mean_distance(x, y)), own]


def _two_samples(kernel: Kernel, x: Rows, y: Rows, spread: bool) -> Estimate:
    """Return the unbiased MMD² with its jackknife, from the sums of the kernel over pairs of groups."""
    resolved = kernel.resolve(pooled(x, y))
    value = float(mmd2(x, y, resolved))
    if not spread or len(x) < 4:
        return Estimate(value)
    parts = divided(len(x))
    shares: np.ndarray = np.zeros((len(x), len(parts)))
    for number, part in enumerate(parts):
        shares[part, number] = 1
    diagonal = choose(resolved, "auto", x, None).load().diagonal(x, resolved)
    within = shares.T @ row_sums(x, None, resolved, weights=shares) - np.diag(shares.T @ diagonal)
    across = shares.T @ row_sums(x, y, resolved)
    kept = len(x) - shares.sum(0)
    left = (within.sum() - 2 * within.sum(1) + np.diag(within)) / (kept * (kept - 1))
    return Estimate(value, variance=jackknife_variance(left - 2 * (across.sum() - across) / (kept * len(y))))


def _samples(x: Rows, y: Rows, spread: bool) -> list[Estimate]:
    return [_two_samples(RBF(), x, y, spread), _two_samples(Distance(), x, y, spread)]


def _fid(x: Rows, y: Rows, spread: bool) -> list[Estimate]:
    target = Gaussian.of(y)
    variance = _left_out(lambda kept: frechet_distance(Gaussian.of(x[kept]), target), len(x) * spread, width=x.shape[1])
    return [Estimate(frechet_distance(Gaussian.of(x), target), variance=variance)]


def _kid(x: Rows, y: Rows, spread: bool) -> list[Estimate]:
    scale = np.float32(x.shape[1] ** -0.5)
    variance = _two_samples(Polynomial(degree=3, c=1.0), x * scale, y * scale, spread).variance
    return [Estimate(kid(x, y).mean, variance=variance)]


def _prdc(x: Rows, y: Rows, spread: bool) -> list[Estimate]:
    found = prdc(x, y, _K)
    return [*map(Estimate.mean, (found.balls > 0, found.recalled, found.balls / _K, found.covered))]


def _vendi(x: Rows, y: Rows, spread: bool) -> list[Estimate]:
    variance = _left_out(lambda kept: vendi_score(x[kept]), len(x) * spread, width=x.shape[1])
    return [Estimate(vendi_score(x), variance=variance)]


def _nearest_real(x: Rows, y: Rows, spread: bool) -> list[Estimate]:
    found = nearest_real(x, y)
    return [Estimate.mean(found.distances), Estimate.mean(found.authentic)]


def _minimax(x: Rows, y: Rows, spread: bool) -> list[Estimate]:
    return [Estimate(minimax_representativeness(x, y)), Estimate.mean(most_similar_other(x))]


def _mgd3(x: Rows, y: Rows, spread: bool) -> list[Estimate]:
    return [Estimate(mgd3_representativeness(x, y, min(50, len(y)))), Estimate.mean(nearest(x, x, 2)[0][:, 1])]


def _manifold_gd(x: Rows, y: Rows, spread: bool) -> list[Estimate]:
    return [Estimate(manifold_gd_representativeness(x, y)), Estimate(manifold_gd_diversity(x))]


def _left_out(statistic: Callable[[npt.NDArray[np.int64]], float], count: int, width: int = 0) -> float:
    """Return the jackknife's variance of a statistic; NaN for fewer than 4 images, or where it takes too long."""
    if count < 4 or min(count, width) > _MOST:
        return _NAN
    everything = np.arange(count)
    return jackknife_variance(np.array([statistic(np.setdiff1d(everything, part)) for part in divided(count)]))


FAMILIES: tuple[Family, ...] = (
    Family(("representativeness", "diversity"), _distances),
    Family(("mmd2", "energy_distance"), _samples, least=2, least_real=2),
    Family(("fid",), _fid, least=2, least_real=2, by_class=False),
    Family(("kid",), _kid, least=2, least_real=2, by_class=False),
    Family(("precision", "recall", "density", "coverage"), _prdc, least=_K + 1, least_real=_K + 1, by_class=False),
    Family(("vendi_score",), _vendi, by_class=False),
    Family(("nearest_real", "authenticity"), _nearest_real, least_real=2, by_class=False),
    Family(("minimax_representativeness", "minimax_diversity"), _minimax, least=2),
    Family(("mgd3_representativeness", "mgd3_diversity"), _mgd3, least=2),
    Family(("manifold_gd_representativeness", "manifold_gd_diversity"), _manifold_gd, least=2, by_class=False),
)
"""All metrics, in the order in which they are shown."""
