"""What can be said of a distilled set without training a classifier."""

from __future__ import annotations

from dap.metrics.distance import diversity, representativeness

__all__ = ["diversity", "representativeness"]
