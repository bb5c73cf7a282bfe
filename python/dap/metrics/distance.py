"""Representativeness and diversity of one class's distilled images, as kernel distances between features.

With D_k(a, b) = √(k(a,a) + k(b,b) − 2 k(a,b)), the n features x_i of a class's distilled images and the N features y_j
of its real ones:

    representativeness = 1/(n N) Σ_i Σ_j D_k(x_i, y_j)              lower is better
    diversity          = 1/(n (n−1)) Σ_i Σ_{j≠i} D_k(x_i, x_j)      higher is more diverse

The features that dap reports are the prior's hidden state at its tap, mean-pooled over tokens, of latents noised to
step t = 100; the kernel is linear, so D_k is the Euclidean distance. Both names come from Su et al., "Diffusion Models
as Dataset Distillation Priors", ICLR 2026, arXiv 2510.17421: representativeness is the energy that its guidance
descends (equations 6 and 7). How the paper's figure 1 computes its two numbers is not published, so these figures are
dap's own and are not to be set beside the paper's; there, higher representativeness is better.

A set's figure is the mean of its classes' figures.
"""

from __future__ import annotations

import numpy as np

from dap.errors import OptionError
from dap.kernels import Kernel, Linear, mean_distance

__all__ = ["diversity", "representativeness"]

LINEAR = Linear()


def representativeness(features: np.ndarray, real: np.ndarray, kernel: Kernel = LINEAR) -> float:
    """Mean kernel distance from a class's distilled images to its real ones; lower is better.

    Args:
        features: Distilled, float32 with shape (n, D), n at least 1.
        real: Real, float32 with shape (N, D), N at least 1.
        kernel: The kernel whose distance is taken.

    Raises:
        OptionError: A side is empty.

    Example:
        >>> representativeness(np.zeros((1, 2), np.float32), np.array([[3, 4], [6, 8]], np.float32))
        7.5
    """
    if len(features) == 0 or len(real) == 0:
        raise OptionError(f"expected features on both sides, got {len(features)} distilled and {len(real)} real")
    return float(mean_distance(features, real, kernel=kernel).mean())


def diversity(features: np.ndarray, kernel: Kernel = LINEAR) -> float:
    """Mean kernel distance between different images of a class; higher is more diverse, 0.0 for a single image.

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
