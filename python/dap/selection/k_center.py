"""k-centre by farthest-point sampling: no row is far from a chosen one.

Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38 (1985): the
largest distance is at most twice the smallest possible. As a core-set: Sener and Savarese, "Active learning for
convolutional neural networks: a core-set approach", ICLR 2018, https://arxiv.org/abs/1708.00489.
"""

from __future__ import annotations

import numpy as np

from dap import _core
from dap.kernels import Kernel
from dap.kernels.arrays import Array
from dap.selection.base import DISTANCE, Embedding, Selection, as_rows

__all__ = ["k_center"]


def k_center(features: Array, count: int, *, kernel: Kernel | str = DISTANCE, seed: int = 0) -> Selection:
    """Choose a random row, then repeatedly the row with the largest Euclidean distance to the chosen rows.

    The first rows of a larger choice are those of a smaller one.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: The number of rows, 1 ≤ count ≤ N.
        kernel: A kernel of :mod:`dap.kernels` or its name, for the error alone.
        seed: The seed of the first row.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: The features, the count or the kernel do not fit.

    Example:
        >>> rows = np.array([[0.0], [1.0], [6.0], [9.0]])
        >>> sorted(k_center(rows, 3).indices.tolist()) in ([0, 2, 3], [1, 2, 3], [0, 1, 3])
        True
    """
    rows = as_rows(features, count)
    first = int(np.random.default_rng(seed).integers(len(rows)))
    return Embedding.of(rows, kernel).select(_core.farthest_points(rows, first, int(count))[0])
