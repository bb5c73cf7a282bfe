"""KID: MMD² of a cubic kernel between features, averaged over random subsets.

Bińkowski et al., "Demystifying MMD GANs", ICLR 2018, arXiv 1801.01401 (section 4): the unbiased MMD² of the kernel
(x·y/d + 1)³. As in torch-fidelity and torchmetrics it is the mean over subsets of equal size from both sides, and the
standard deviation (divided by the number of subsets) is that over the subsets. The subsets are those of torch-fidelity
for equal ``subset_size`` and its ``rng_seed``.

KID is unbiased: unlike FID it can be compared between sets of different sizes. It may be negative.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dap.config import check_whole
from dap.errors import OptionError
from dap.kernels import Polynomial, mmd2
from dap.kernels.arrays import Array
from dap.metrics.rows import as_features

__all__ = ["KID", "kid"]

_CUBIC = Polynomial(degree=3, c=1.0)


class KID(NamedTuple):
    """Mean and standard deviation of KID over the subsets, and the number of images of a subset."""

    mean: float
    std: float
    subset_size: int


def kid(features: Array, real: Array, *, subsets: int = 100, subset_size: int | None = None, seed: int = 2020) -> KID:
    """Return the kernel inception distance between distilled and real images; lower is better, 0 for equal laws.

    Args:
        features: Distilled, real numbers with shape (n, d), n at least 2.
        real: Real, shape (N, d), N at least 2.
        subsets: Number of subsets.
        subset_size: Images of a subset; None: 1,000, or as many as the smaller side has.
        seed: Seed of the subsets.

    Raises:
        OptionError: The features do not fit or are too few, or a subset is larger than a side.

    Example:
        >>> rows = np.random.default_rng(0).standard_normal((300, 8))
        >>> kid(rows[:100], rows[100:]).mean < 0.05 < kid(rows[:100] + 1, rows[100:]).mean
        True
    """
    distilled, reference = as_features(features, real, least=2)
    check_whole("subsets", subsets)
    smaller = min(len(distilled), len(reference))
    size = min(1000, smaller) if subset_size is None else subset_size
    check_whole("subset_size", size, 2)
    if size > smaller:
        raise OptionError(f"subset_size: expected at most {smaller}, the images of the smaller side, got {size}")
    draw = np.random.RandomState(seed)
    scale = np.float64(distilled.shape[1] ** -0.5)  # makes the products float64
    values = []
    for _ in range(subsets):
        x, y = (rows[draw.choice(len(rows), size, replace=False)] for rows in (distilled, reference))
        values.append(float(mmd2(x * scale, y * scale, _CUBIC)))
    return KID(float(np.mean(values)), float(np.std(values)), size)
