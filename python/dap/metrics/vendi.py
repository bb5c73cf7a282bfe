"""The Vendi score: the effective number of different images of a set.

Friedman and Dieng, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", TMLR 2023, arXiv 2210.02410
(definition 3.1): with the eigenvalues λ of K/n, where K holds the cosine similarities of the features,

    VS = exp(−Σ λ log λ),

from 1, for images whose features have one direction, to n, for features at right angles. It rises with the number of
images, so only sets of one size can be compared. As in the authors' package (https://github.com/vertaix/Vendi-Score,
``score_X`` and ``score_dual``), the features are not centred.
"""

from __future__ import annotations

import numpy as np

from dap.kernels.arrays import Array
from dap.metrics.rows import as_features, blocks

__all__ = ["vendi_score"]


def vendi_score(features: Array) -> float:
    """Return the effective number of different images, from 1 to n; higher is more diverse.

    Args:
        features: Finite real numbers with shape (n, d), n at least 1. Features that are all zero count as alike.

    Raises:
        OptionError: The features are not finite rows, or there are none.

    Example:
        >>> round(vendi_score(np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]])), 3)
        1.89
    """
    rows, _ = as_features(features)
    count, width = rows.shape
    if count <= width:
        unit = _normalised(rows.astype(np.float64))
        similarities = unit @ unit.T
    else:  # the other product has the same eigenvalues, apart from zeros
        similarities = np.zeros((width, width))
        for _, block in blocks(rows):
            unit = _normalised(block)
            similarities += unit.T @ unit
    values = np.linalg.eigvalsh(similarities / count)
    positive = values[values > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def _normalised(rows: np.ndarray) -> np.ndarray:
    norms = np.sqrt((rows * rows).sum(1, keepdims=True))
    return rows / np.where(norms > 0, norms, 1)
