"""k_center: choose real images so that every image of a class is near one of them.

Sener and Savarese, "Active learning for convolutional neural networks: a core-set approach", ICLR 2018,
https://arxiv.org/abs/1708.00489. Farthest-point sampling in the run's features, from a random first image; see
:mod:`dap.selection.k_center`. A set of k images is the beginning of every larger set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dap.methods.common.real_images import RealImagesByFeatures
from dap.rng import derive_seed
from dap.selection import k_center

__all__ = ["KCenter"]


@dataclass(frozen=True)
class KCenter(RealImagesByFeatures):
    """Real images chosen by farthest-point sampling within each class.

    Options as in :class:`dap.methods.common.real_images.RealImagesByFeatures`.

    Example:
        >>> import dap
        >>> subset = dap.distill("fashion-mini", method="k_center", ipc=1, out="subset")  # doctest: +SKIP
    """

    name: ClassVar[str] = "k_center"
    paper: ClassVar[str] = "Sener and Savarese, ICLR 2018, arXiv 1708.00489"
    year: ClassVar[int | None] = 2018

    def choose(self, features: npt.NDArray[np.float32], count: int, seed: int, name: str) -> npt.NDArray[np.int64]:
        """Return the rows of a class to take; see :meth:`RealImagesByFeatures.choose`."""
        return k_center(features, count, seed=derive_seed(seed, "k_center", name)).indices
