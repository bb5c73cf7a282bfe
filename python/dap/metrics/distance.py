"""Representativeness, diversity and coverage of one class's distilled images, as kernel distances between features.

With D_k(a, b) = √(k(a,a) + k(b,b) − 2 k(a,b)), the n features x_i of a class's distilled images and the N features y_j
of its real ones:

    representativeness = 1/(n N) Σ_i Σ_j D_k(x_i, y_j)              lower is better
    diversity          = 1/(n (n−1)) Σ_i Σ_{j≠i} D_k(x_i, x_j)      higher is more diverse
    coverage           = share of the y_j with an x_i inside the ball    higher is better
                         around y_j that reaches its k-th nearest other y

Coverage is that of Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", ICML 2020, arXiv
2002.09797 (equation 5), with k = 5 and Euclidean distances.

:func:`dap.metrics.measure` takes as features the prior's hidden state at its recommended block, mean-pooled over
tokens, of latents noised to step t = 100; with the linear kernel D_k is the Euclidean distance. Representativeness and
diversity are named after Su et al., "Diffusion Models as Dataset Distillation Priors", ICLR 2026, arXiv 2510.17421:
representativeness is the energy that its guidance descends (equations 6 and 7). The paper does not say how its figure 1
computes the two numbers, so they cannot be compared with these; there, higher representativeness is better.

The value of a set is the mean over its classes.
"""

from __future__ import annotations

import numpy as np

from dap.errors import OptionError
from dap.kernels import Kernel, mean_distance, nearest
from dap.kernels.linear import LINEAR

__all__ = ["coverage", "diversity", "representativeness"]


def representativeness(features: np.ndarray, real: np.ndarray, kernel: Kernel = LINEAR) -> float:
    """Return the mean kernel distance from a class's distilled images to its real ones; lower is better.

    Args:
        features: Distilled, float32 with shape (n, D), n at least 1.
        real: Real, float32 with shape (N, D), N at least 1.
        kernel: The kernel whose distance is taken.

    Raises:
        OptionError: ``features`` or ``real`` is empty.

    Example:
        >>> representativeness(np.zeros((1, 2), np.float32), np.array([[3, 4], [6, 8]], np.float32))
        7.5
    """
    if len(features) == 0 or len(real) == 0:
        raise OptionError(f"expected features on both sides, got {len(features)} distilled and {len(real)} real")
    return float(mean_distance(features, real, kernel=kernel).mean())


def diversity(features: np.ndarray, kernel: Kernel = LINEAR) -> float:
    """Return the mean kernel distance between different images of a class; higher is more diverse, 0.0 for one image.

    Args:
        features: float32 with shape (n, D), n at least 1.
        kernel: The kernel whose distance is taken.

    Raises:
        OptionError: There are no features.

    Example:
        >>> diversity(np.array([[0, 0], [3, 4]], np.float32))
        5.0
    """
    count = len(features)
    if count == 0:
        raise OptionError("expected at least one feature, got none")
    if count == 1:
        return 0.0
    # The distance of an image to itself is zero, so the sum over all pairs is the sum over different ones.
    return float(mean_distance(features, features, kernel=kernel).mean()) * count / (count - 1)


def coverage(features: np.ndarray, real: np.ndarray, k: int = 5) -> float:
    """Return the share of real images of a class with a distilled image in their neighbourhood; higher is better.

    Args:
        features: Distilled, float32 with shape (n, D), n at least 1.
        real: Real, float32 with shape (N, D), N more than k.
        k: The neighbourhood of a real image is the closed ball that reaches its k-th nearest other real image.

    Raises:
        OptionError: There are no distilled features, or no more than k real ones.

    Example:
        >>> real = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
        >>> coverage(np.array([[0.5]], np.float32), real, k=1)
        0.5
    """
    if len(features) == 0 or len(real) <= k:
        raise OptionError(f"expected distilled features, and more than {k} real ones, got {len(features)}, {len(real)}")
    radii = nearest(real, real, k + 1)[0][:, k]  # the nearest is the image itself, at distance 0
    return float((nearest(real, features, 1)[0][:, 0] <= radii).mean())
