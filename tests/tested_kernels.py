"""The kernels, shapes, dtypes and rows of the tests of kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dap.kernels.cosine import Cosine
from dap.kernels.distance import Distance
from dap.kernels.exponential import Exponential
from dap.kernels.inverse_multiquadric import InverseMultiquadric
from dap.kernels.laplacian import Laplacian
from dap.kernels.linear import Linear
from dap.kernels.matern import Matern
from dap.kernels.polynomial import Polynomial
from dap.kernels.rational_quadratic import RationalQuadratic
from dap.kernels.rbf import RBF
from dap.kernels.sum import Sum

KERNELS = [
    Linear(), Cosine(), Polynomial(), Polynomial(3, 0.5), Polynomial(1, 0), RBF(1.5), RBF(40.0), Laplacian(6.0),
    Exponential(2.0), InverseMultiquadric(0.7), RationalQuadratic(0.8, 1.5), Matern(1.5, 9.0), Matern(2.5, 9.0),
    Distance(), Sum((RBF(1.0), RBF(3.0), Linear())),
]  # fmt: skip
STATIONARY = [kernel for kernel in KERNELS if kernel.name not in ("linear", "cosine", "polynomial", "distance", "sum")]
SHAPES = [(0, 3, 2), (3, 0, 2), (1, 1, 1), (2, 3, 0), (17, 33, 5), (5, 130, 64), (3, 5, 701)]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

every_kernel = pytest.mark.parametrize("kernel", KERNELS, ids=str)


def draw(n, m, d, dtype=torch.float64, offset=0.0, seed=0):
    """Rows of which some are zero, some of y equal to one of x, and some near one."""
    random = np.random.default_rng(seed)
    x, y = (torch.from_numpy(random.standard_normal((rows, d)) + offset).to(dtype) for rows in (n, m))
    if n > 2 and m > 2:
        x[0] = y[1] = 0
        y[2], y[0] = x[1], x[2] + 1e-3
    return x, y
