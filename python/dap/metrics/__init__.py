"""Representativeness, diversity and coverage of a distilled set, measured without training a classifier."""

from __future__ import annotations

from dap.metrics.distance import coverage, diversity, representativeness
from dap.metrics.measure import Measures, measure

__all__ = ["Measures", "coverage", "diversity", "measure", "representativeness"]
