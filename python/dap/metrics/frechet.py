"""The Fréchet distance of two Gaussians that are fitted to features; with Inception features it is FID.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS 2017, arXiv
1706.08500 (equation 6): with the mean μ and the covariance Σ (divided by n − 1) of both sets of features,

    FID = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½.

With Σ = LLᵀ the last trace is the sum of the singular values of L₁ᵀL₂. L is the matrix of centred features where there
are at most as many images as features, so a singular Σ, and n < d, need no special case and lose no digits.

FID is biased: it is too high for few images, by about 1/n (Chong and Forsyth, "Effectively Unbiased FID and Inception
Score", CVPR 2020, arXiv 1911.07023). Only values for equal numbers of images can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.kernels.arrays import Array
from dap.metrics.rows import as_features, blocks

__all__ = ["Gaussian", "fid", "frechet_distance"]


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian that is fitted to features.

    Attributes:
        mean: μ, float64 (d,).
        factor: Lᵀ with Σ = LLᵀ, float64 (r, d), r at most d.
    """

    mean: npt.NDArray[np.float64]
    factor: npt.NDArray[np.float64]

    @classmethod
    def of(cls, features: Array) -> Gaussian:
        """Fit it to at least two rows, in one pass for the mean and one for the covariance.

        Example:
            >>> Gaussian.of(np.array([[0.0], [2.0]])).mean
            array([1.])
        """
        rows, _ = as_features(features, least=2)
        count, width = rows.shape
        mean = np.zeros(width)
        for _, block in blocks(rows):
            mean += block.sum(0) / count
        if count <= width:
            return cls(mean, (rows.astype(np.float64) - mean) / np.sqrt(count - 1))
        covariance = np.zeros((width, width))
        for _, block in blocks(rows):
            block -= mean
            covariance += block.T @ block
        values, vectors = np.linalg.eigh(covariance / (count - 1))
        return cls(mean, np.sqrt(np.maximum(values, 0))[:, None] * vectors.T)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return the squared Fréchet distance of two Gaussians.

    Raises:
        OptionError: They have different numbers of features.

    Example:
        >>> frechet_distance(Gaussian.of(np.array([[0.0], [2.0]])), Gaussian.of(np.array([[3.0], [5.0]])))
        9.0
    """
    if a.mean.shape != b.mean.shape:
        raise OptionError(f"expected as many features on both sides, got {len(a.mean)} and {len(b.mean)}")
    shift = ((a.mean - b.mean) ** 2).sum()
    traces = (a.factor**2).sum() + (b.factor**2).sum()
    overlap = np.linalg.svd(a.factor @ b.factor.T, compute_uv=False).sum()
    return float(max(0.0, shift + traces - 2 * overlap))


def fid(features: Array, real: Array) -> float:
    """Return the Fréchet distance between distilled and real images; lower is better, 0 for equal sets.

    Args:
        features: Distilled, real numbers with shape (n, d), n at least 2.
        real: Real, shape (N, d), N at least 2. It is read in blocks; memory is that of d × d numbers.

    Raises:
        OptionError: The features do not fit, are not finite, or are too few.

    Example:
        >>> fid(np.array([[0.0, 1.0], [2.0, 1.0]]), np.array([[3.0, 1.0], [5.0, 1.0]]))
        9.0
    """
    as_features(features, real, least=2)
    return frechet_distance(Gaussian.of(features), Gaussian.of(real))
