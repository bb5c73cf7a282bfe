"""Mercer kernels on features and their reductions.

A kernel k(x, y) has the distance D(x, y) = √(k(x,x) + k(y,y) − 2 k(x,y)), the pseudometric of DAP's energy (Su et al.,
"Diffusion Models as Dataset Distillation Priors", ICLR 2026, https://arxiv.org/abs/2510.17421, Eq. 6). Importing this
package imports no torch; the torch backend does so on its first use.

Example:
    >>> import numpy as np
    >>> from dap.kernels import RBF, mean_distance
    >>> x, y = np.zeros((1, 2)), np.array([[3.0, 4.0], [0.0, 1.0]])
    >>> mean_distance(x, y)
    array([3.])
    >>> mean_distance(x, y, RBF(bandwidth=5.0)).round(3)
    array([0.543])
"""

from __future__ import annotations

from dap.kernels.base import Kernel, Pairs, by_name, list_kernels
from dap.kernels.linear import Linear
from dap.kernels.rbf import RBF
from dap.kernels.reductions import mean_distance, row_sums

__all__ = ["RBF", "Kernel", "Linear", "Pairs", "by_name", "list_kernels", "mean_distance", "row_sums"]
