"""herding: choose real images whose mean embedding follows that of their class.

Welling, "Herding dynamical weights to learn", ICML 2009; as exemplars: Rebuffi et al., "iCaRL", CVPR 2017,
https://arxiv.org/abs/1611.07725. The embedding is made of the run's features with the kernel of the energy distance;
see :mod:`dap.selection.herding`. A set of k images is the beginning of every larger set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dap.methods.common.real_images import RealImagesByFeatures
from dap.selection import herding

__all__ = ["Herding"]


@dataclass(frozen=True)
class Herding(RealImagesByFeatures):
    """Real images chosen by kernel herding within each class.

    Options as in :class:`dap.methods.common.real_images.RealImagesByFeatures`.

    Example:
        >>> import dap
        >>> subset = dap.distill("fashion-mini", method="herding", ipc=1, out="subset")  # doctest: +SKIP
    """

    name: ClassVar[str] = "herding"
    paper: ClassVar[str] = "Welling, ICML 2009; for exemplars Rebuffi et al., CVPR 2017, arXiv 1611.07725"
    year: ClassVar[int | None] = 2009

    def choose(self, features: npt.NDArray[np.float32], count: int, seed: int, name: str) -> npt.NDArray[np.int64]:
        """Return the rows of a class to take; see :meth:`RealImagesByFeatures.choose`."""
        return herding(features, count).indices
