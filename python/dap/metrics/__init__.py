"""Metrics of a distilled set, measured without training a classifier: of arrays of features, or of whole sets.

``docs/metrics.md`` has the formula, the unit and the bias of each.
"""

from __future__ import annotations

from dap.kernels import energy_distance, mmd2
from dap.metrics.distance import coverage, diversity, representativeness
from dap.metrics.frechet import fid
from dap.metrics.intervals import Interval, bootstrap, jackknife
from dap.metrics.kid import KID, kid
from dap.metrics.measure import Measures, measure
from dap.metrics.memorisation import NearestReal, nearest_real
from dap.metrics.overlap import Overlap, overlap
from dap.metrics.prdc import PRDC, prdc
from dap.metrics.published import (
    manifold_gd_diversity,
    manifold_gd_representativeness,
    mgd3_diversity,
    mgd3_representativeness,
    minimax_diversity,
    minimax_representativeness,
)
from dap.metrics.result import Measured, MetricsResult
from dap.metrics.sets import measure_set
from dap.metrics.vendi import vendi_score

__all__ = [
    "KID", "PRDC", "Interval", "Measured", "Measures", "MetricsResult", "NearestReal", "Overlap", "bootstrap",
    "coverage", "diversity", "energy_distance", "fid", "jackknife", "kid", "manifold_gd_diversity",
    "manifold_gd_representativeness", "measure", "measure_set", "mgd3_diversity", "mgd3_representativeness",
    "minimax_diversity", "minimax_representativeness", "mmd2", "nearest_real", "overlap", "prdc", "representativeness",
    "vendi_score",
]  # fmt: skip
