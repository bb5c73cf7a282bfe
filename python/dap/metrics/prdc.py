"""Precision, recall, density and coverage by balls around images, as the package ``prdc`` computes them.

Precision and recall: Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models",
NeurIPS 2019, arXiv 1904.06991. Density and coverage: Naeem et al., "Reliable Fidelity and Diversity Metrics for
Generative Models", ICML 2020, arXiv 2002.09797. An image's ball reaches its k-th nearest other image of the same side,
and does not contain its surface (d < r, as in the authors' package,
https://github.com/clovaai/generative-evaluation-prdc):

    precision = share of the distilled images inside a real image's ball
    recall    = share of the real images inside a distilled image's ball
    density   = 1/k · mean over distilled images of the number of real balls around them       may exceed 1
    coverage  = share of the real images with a distilled image inside their ball

The signs matter where distilled images are real ones: there :func:`dap.metrics.coverage`, whose balls are closed as in
the paper, is higher.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dap.config import check_whole
from dap.errors import OptionError
from dap.kernels import nearest
from dap.kernels.arrays import Array
from dap.metrics.rows import as_features, blocks, squared_distances

__all__ = ["PRDC", "prdc"]


@dataclass(frozen=True)
class PRDC:
    """The result of :func:`prdc`.

    Attributes:
        k: The neighbour that a ball reaches.
        balls: Number of real images in whose ball each distilled image lies, int64 (n,).
        recalled: Whether each real image lies in the ball of a distilled one, bool (N,).
        covered: Whether a distilled image lies in the ball of each real one, bool (N,).
    """

    k: int
    balls: npt.NDArray[np.int64]
    recalled: npt.NDArray[np.bool_]
    covered: npt.NDArray[np.bool_]

    @property
    def precision(self) -> float:
        """Share of the distilled images that look real, in [0, 1]."""
        return float((self.balls > 0).mean())

    @property
    def recall(self) -> float:
        """Share of the real images that the distilled ones could be, in [0, 1]."""
        return float(self.recalled.mean())

    @property
    def density(self) -> float:
        """Mean number of real balls around a distilled image, divided by k; at least 0, and about 1 for equal laws."""
        return float(self.balls.mean()) / self.k

    @property
    def coverage(self) -> float:
        """Share of the real images with a distilled image nearby, in [0, 1]."""
        return float(self.covered.mean())


def prdc(features: Array, real: Array, k: int = 5) -> PRDC:
    """Return precision, recall, density and coverage; higher is better for each.

    Args:
        features: Distilled, finite real numbers with shape (n, d), n more than k.
        real: Real, shape (N, d), N more than k.
        k: The ball of an image reaches its k-th nearest other image.

    Raises:
        OptionError: The features do not fit, or a side has no more than k images.

    Example:
        >>> real = np.array([[0.0], [1.0], [10.0], [11.0]])
        >>> found = prdc(np.array([[0.5], [0.75], [30.0]]), real, k=1)
        >>> round(found.precision, 3), found.recall, round(found.density, 3), found.coverage
        (0.667, 0.75, 1.333, 0.5)
    """
    check_whole("k", k)
    distilled, reference = as_features(features, real)
    if min(len(distilled), len(reference)) <= k:
        raise OptionError(
            f"k: expected less than the number of images on each side, got {k} for {len(distilled)} distilled and "
            f"{len(reference)} real"
        )
    radii, own_radii = (_squared_radii(rows, k) for rows in (reference, distilled))
    closest = squared_distances(reference, distilled, nearest(reference, distilled, 1)[1][:, 0])
    balls, _ = _inside(distilled, reference, radii)
    _, recalled = _inside(distilled, reference, own_radii[:, None])
    return PRDC(k, balls, recalled > 0, closest < radii)


def _squared_radii(rows: np.ndarray, k: int) -> npt.NDArray[np.float64]:
    """Return the squared distance of each row to its k-th nearest other; the nearest of k + 1 is the row itself."""
    return squared_distances(rows, rows, nearest(rows, rows, k + 1)[1][:, k])


def _inside(
    x: np.ndarray, y: np.ndarray, radii: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count the pairs with ‖x_i − y_j‖² < radius for each x_i, and for each y_j.

    The fast form ‖x‖² + ‖y‖² − 2 x·y rounds; pairs that are too close to the radius are computed again, so that a pair
    on the surface of a ball is outside, whichever side the ball belongs to.

    Args:
        x: Shape (n, d).
        y: Shape (N, d).
        radii: Squared radii, (N,) or (n, 1).
    """
    counts, others = np.zeros(len(x), np.int64), np.zeros(len(y), np.int64)
    for part, first in blocks(x, width=1024):
        centre = first.mean(0)
        first -= centre
        norms = (first * first).sum(1)[:, None]
        for columns, second in blocks(y, width=len(first)):
            second -= centre
            other_norms = (second * second).sum(1)
            limits = radii[part] if radii.ndim == 2 else radii[columns]
            excess = norms + other_norms - 2 * (first @ second.T) - limits
            inside = excess < 0
            rows, places = np.nonzero(np.abs(excess) <= 1e-11 * (norms + other_norms))
            near = squared_distances(x[part.start + rows], y, columns.start + places)
            inside[rows, places] = near < np.broadcast_to(limits, inside.shape)[rows, places]
            counts[part] += inside.sum(1)
            others[columns] += inside.sum(0)
    return counts, others
