"""The nearest real image of each distilled image: is it a copy?

Alaa et al., "How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing Generative Models",
ICML 2022, arXiv 2102.08921 (section 3.3): a distilled image is authentic unless it is nearer to its nearest real image
than that image is to its own nearest other real image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dap.kernels import nearest
from dap.kernels.arrays import Array
from dap.metrics.rows import as_features, squared_distances

__all__ = ["NearestReal", "nearest_real"]


@dataclass(frozen=True)
class NearestReal:
    """The result of :func:`nearest_real`.

    Attributes:
        distances: Euclidean distance of each distilled image to its nearest real one, float64 (n,).
        indices: Which real image that is, the first of equally near ones, int64 (n,).
        between_real: Distance of that real image to its nearest other real image, float64 (n,); NaN for a single one.
    """

    distances: npt.NDArray[np.float64]
    indices: npt.NDArray[np.int64]
    between_real: npt.NDArray[np.float64]

    @property
    def authenticity(self) -> float:
        """Share of the distilled images that are no copies, in [0, 1]; NaN for a single real image."""
        return float("nan") if np.isnan(self.between_real).any() else float(self.authentic.mean())

    @property
    def authentic(self) -> npt.NDArray[np.bool_]:
        """Whether each distilled image is at least as far from its real image as this is from another, bool (n,).

        An image with no distance is a copy, even of one of two equal real images.
        """
        return (self.distances >= self.between_real) & (self.distances > 0)


def nearest_real(features: Array, real: Array) -> NearestReal:
    """Return the nearest real image of each distilled image, and how far it is.

    Args:
        features: Distilled, finite real numbers with shape (n, d), n at least 1.
        real: Real, shape (N, d), N at least 1.

    Raises:
        OptionError: The features do not fit, are not finite, or a side has none.

    Example:
        >>> found = nearest_real(np.array([[0.0], [5.0]]), np.array([[9.0], [0.25], [1.0]]))
        >>> found.indices.tolist(), found.distances.tolist(), found.authenticity
        ([1, 0], [0.25, 4.0], 0.0)
    """
    distilled, reference = as_features(features, real)
    indices = nearest(distilled, reference, 1)[1][:, 0]
    distances = np.sqrt(squared_distances(distilled, reference, indices))
    if len(reference) == 1:
        return NearestReal(distances, indices, np.full(len(distilled), np.nan))
    chosen, place = np.unique(indices, return_inverse=True)
    others = nearest(reference[chosen], reference, 2)[1]
    other = np.where(others[:, 0] == chosen, others[:, 1], others[:, 0])
    between = np.sqrt(squared_distances(reference[chosen], reference, other))
    return NearestReal(distances, indices, between[place])
