"""k-centre: farthest-point sampling, so that no row is far from a chosen one.

Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38 (1985): its
largest distance is at most twice the smallest possible. As a core-set: Sener and Savarese, "Active learning for
convolutional neural networks: a core-set approach", ICLR 2018, https://arxiv.org/abs/1708.00489.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dap import _core
from dap.kernels import Kernel
from dap.selection.base import DISTANCE, Embedding, Selection, as_rows

__all__ = ["k_center"]


def k_center(features: Any, count: int, *, kernel: Kernel | str = DISTANCE, seed: int = 0) -> Selection:
    """From a random row on, takes each time the row with the largest Euclidean distance to those taken.

    The first rows of a larger choice are those of the smaller one.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: How many rows, 1 ≤ count ≤ N.
        kernel: Of the error: a kernel of :mod:`dap.kernels` or its name. It does not change the choice.
        seed: Of the first row.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: If features, count or kernel do not fit.

    Example:
        >>> rows = np.array([[0.0], [1.0], [6.0], [9.0]])
        >>> sorted(k_center(rows, 3).indices.tolist()) in ([0, 2, 3], [1, 2, 3], [0, 1, 3])
        True
    """
    rows = as_rows(features, count)
    first = int(np.random.default_rng(seed).integers(len(rows)))
    return Embedding.of(rows, kernel).select(_core.farthest_points(rows, first, int(count))[0])
