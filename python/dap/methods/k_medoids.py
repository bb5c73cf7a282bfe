"""k_medoids: choose the real images nearest to the k-means centres of their class.

k-means in the run's features from a seeded k-means++ start; see :mod:`dap.selection.k_means`. With another
number of images per class, all images may be others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dap.methods.base import Couples
from dap.methods.common.real_images import RealImagesByFeatures
from dap.rng import derive_seed
from dap.selection import k_medoids

__all__ = ["KMedoids"]


@dataclass(frozen=True)
class KMedoids(RealImagesByFeatures):
    """For each class, the real images nearest to its ipc k-means centres, all different.

    Options as in :class:`dap.methods.common.real_images.RealImagesByFeatures`.

    Example:
        >>> import dap
        >>> subset = dap.distill("fashion-mini", method="k_medoids", ipc=1, out="subset")  # doctest: +SKIP
    """

    name: ClassVar[str] = "k_medoids"
    paper: ClassVar[str] = "k-means++: Arthur and Vassilvitskii, SODA 2007, doi 10.5555/1283383.1283494"
    year: ClassVar[int | None] = 2007

    couples: ClassVar[Couples] = "class"

    def choose(self, features: npt.NDArray[np.float32], count: int, seed: int, name: str) -> npt.NDArray[np.int64]:
        """Return the rows of a class to take; see :meth:`RealImagesByFeatures.choose`."""
        return k_medoids(features, count, seed=derive_seed(seed, "k_medoids", name)).indices
