"""Mercer kernels on features, reductions of their matrices, and two-sample estimates.

A kernel k(x, y) has the distance D(x, y) = √(k(x,x) + k(y,y) − 2 k(x,y)), the pseudometric of DAP's energy (Su et al.,
"Diffusion Models as Dataset Distillation Priors", ICLR 2026, https://arxiv.org/abs/2510.17421, Eq. 6). Importing this
package imports no torch; the torch backend does so on its first use. ``docs/kernels.md`` is the guide.

Example:
    >>> import numpy as np
    >>> from dap import kernels as K
    >>> x, y = np.zeros((1, 2)), np.array([[3.0, 4.0], [0.0, 1.0]])
    >>> K.mean_distance(x, y)
    array([3.])
    >>> K.row_means(x, y, K.RBF(bandwidth=5.0)).round(3)
    array([0.793])
"""

from __future__ import annotations

from dap.kernels.backend_choice import Choice, explain
from dap.kernels.base import Kernel, by_name, list_kernels
from dap.kernels.cosine import Cosine
from dap.kernels.distance import Distance
from dap.kernels.exponential import Exponential
from dap.kernels.inverse_multiquadric import InverseMultiquadric
from dap.kernels.laplacian import Laplacian
from dap.kernels.linear import Linear
from dap.kernels.matern import Matern
from dap.kernels.mmd import energy_distance, mmd2, mmd2_variance
from dap.kernels.pairs import Pairs
from dap.kernels.permutation import PermutationTest, permutation_test
from dap.kernels.polynomial import Polynomial
from dap.kernels.rational_quadratic import RationalQuadratic
from dap.kernels.rbf import RBF
from dap.kernels.reductions import gram, mean_distance, nearest, row_means, row_sums
from dap.kernels.sum import Sum
from dap.kernels.witness import witness, witness_gradient

__all__ = [
    "RBF", "Choice", "Cosine", "Distance", "Exponential", "InverseMultiquadric", "Kernel", "Laplacian", "Linear",
    "Matern", "Pairs", "PermutationTest", "Polynomial", "RationalQuadratic", "Sum", "by_name", "energy_distance",
    "explain", "gram", "list_kernels", "mean_distance", "mmd2", "mmd2_variance", "nearest", "permutation_test",
    "row_means", "row_sums", "witness", "witness_gradient",
]  # fmt: skip
