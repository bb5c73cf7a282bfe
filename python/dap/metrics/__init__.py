"""What can be said of a distilled set without training a classifier."""

from __future__ import annotations

from dap.metrics.distance import diversity, representativeness
from dap.metrics.measure import Measures, measure

__all__ = ["Measures", "diversity", "measure", "representativeness"]
