"""Means, standard errors and Student's t, against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dap.errors import OptionError
from dap.evaluation.statistics import Difference, paired_difference, student_t_quantile, summary


@pytest.mark.parametrize("share", [0.5, 0.95, 0.999])
def test_quantile_is_scipys(share: float) -> None:
    freedom = range(1, 201)
    found = [student_t_quantile(share, nu) for nu in freedom]
    np.testing.assert_allclose(found, stats.t.ppf((1 + share) / 2, freedom), rtol=1e-9)


def test_summary_is_scipys() -> None:
    values = np.random.default_rng(0).normal(70, 2, 24).tolist()
    found = summary(values)
    assert found.mean == pytest.approx(np.mean(values), rel=1e-12)
    assert found.standard_error == pytest.approx(stats.sem(values), rel=1e-12)
    assert found.n == 24


@pytest.mark.parametrize("count", [2, 3, 24])
def test_paired_interval_is_scipys(count: int) -> None:
    draw = np.random.default_rng(count)
    a, b = draw.normal(72, 2, count).tolist(), draw.normal(70, 2, count).tolist()
    found = paired_difference(a, b)
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b), rel=1e-9)
    assert found.n == count


def test_pairing_counts() -> None:
    """A difference that is the same in every pair has an interval without width, however far the pairs spread."""
    assert paired_difference([10.0, 50.0, 90.0], [9.0, 49.0, 89.0]) == Difference(1.0, 1.0, 1.0, 3)


def test_a_single_value() -> None:
    assert math.isnan(summary([70.0]).standard_error)
    assert paired_difference([71.0], [70.0]) == Difference(1.0, -math.inf, math.inf, 1)


def test_refusals() -> None:
    with pytest.raises(OptionError, match="at least one value"):
        summary([])
    with pytest.raises(OptionError, match="got 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
