"""Representativeness and diversity as other papers define them, each under the paper's name.

Values of different papers measure different things; each paper also has features of its own:

- Minimax (Gu et al., CVPR 2024, arXiv 2311.15529): the two terms of its training, in latents of a VAE.
  Representativeness is the cosine to the least similar real image, diversity that to the most similar distilled one.
- MGD³ (Chan-Santiago et al., ICML 2025, arXiv 2505.18963): distances in a t-SNE map, so that values of two maps cannot
  be compared. Here they are distances between the features that are given.
- ManifoldGD (released code): cosines of ResNet-18 features, where the worst image decides.

Features of one class, except for :func:`manifold_gd_diversity`.
"""

from __future__ import annotations

import numpy as np

from dap.errors import OptionError
from dap.kernels import Cosine, nearest
from dap.kernels.arrays import Array
from dap.metrics.rows import as_features

__all__ = [
    "manifold_gd_diversity", "manifold_gd_representativeness", "mgd3_diversity", "mgd3_representativeness",
    "minimax_diversity", "minimax_representativeness", "most_similar_other",
]  # fmt: skip

_COSINE = Cosine()


def minimax_representativeness(features: Array, real: Array) -> float:
    """Return the mean over distilled images of the least cosine to a real one, in [−1, 1]; higher is better.

    Example:
        >>> minimax_representativeness(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0], [3.0, 4.0]]))
        0.6
    """
    distilled, reference = as_features(features, real)
    return float(-nearest(-distilled, reference, 1, _COSINE)[0].mean())


def minimax_diversity(features: Array) -> float:
    """Return the mean over images of the largest cosine to another one, in [−1, 1]; lower is more diverse.

    Raises:
        OptionError: There are fewer than two images.

    Example:
        >>> minimax_diversity(np.array([[1.0, 0.0], [0.0, 1.0]]))
        0.0
    """
    return float(most_similar_other(features).mean())


def manifold_gd_representativeness(features: Array, real: Array) -> float:
    """Return the least over distilled images of the largest cosine to a real one, in [−1, 1]; higher is better.

    Example:
        >>> manifold_gd_representativeness(np.array([[1.0, 0.0], [0.0, -1.0]]), np.array([[2.0, 0.0]]))
        0.0
    """
    distilled, reference = as_features(features, real)
    return float(nearest(distilled, reference, 1, _COSINE)[0].min())


def manifold_gd_diversity(features: Array) -> float:
    """Return 1 − the largest cosine of two different images, in [0, 2]; higher is more diverse.

    Args:
        features: Of all classes together, as in the released code: one pair of similar images decides.

    Raises:
        OptionError: There are fewer than two images.

    Example:
        >>> manifold_gd_diversity(np.array([[1.0, 0.0], [0.0, 1.0]]))
        1.0
    """
    return float(1 - most_similar_other(features).max())


def mgd3_representativeness(features: Array, real: Array, k: int = 50) -> float:
    """Return the mean distance of a distilled image to its k nearest real ones; lower is better.

    Raises:
        OptionError: There are fewer than k real images.

    Example:
        >>> mgd3_representativeness(np.array([[0.0]]), np.array([[1.0], [3.0], [9.0]]), k=2)
        2.0
    """
    distilled, reference = as_features(features, real)
    if len(reference) < k:
        raise OptionError(f"k: expected at most the number of real images, {len(reference)}, got {k}")
    return float(nearest(distilled, reference, k)[0].mean())


def mgd3_diversity(features: Array) -> float:
    """Return the mean distance of an image to the nearest other one; higher is more diverse.

    Raises:
        OptionError: There are fewer than two images.

    Example:
        >>> mgd3_diversity(np.array([[0.0], [1.0], [4.0]]))
        1.6666666666666667
    """
    rows, _ = as_features(features, least=2)
    return float(nearest(rows, rows, 2)[0][:, 1].mean())


def most_similar_other(features: Array) -> np.ndarray:
    """Return the largest cosine of each row to another one, (n,), n at least 2."""
    rows, _ = as_features(features, least=2)
    values, indices = nearest(rows, rows, 2, _COSINE)
    itself = indices[:, 0] == np.arange(len(rows))  # rounding, or an equal row, may come first
    return np.where(itself, values[:, 1], values[:, 0])
