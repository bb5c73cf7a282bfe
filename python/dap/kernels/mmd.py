"""Distances between two samples by kernel mean embeddings: MMD², its variance, and the energy distance.

For samples x of P with n rows and y of Q with m rows:

    MMD²(P, Q) = E k(x, x') + E k(y, y') − 2 E k(x, y)                    Gretton et al., JMLR 13 (2012), Lemma 6
    unbiased:    means over i ≠ j, so that it may be negative             ibid., Eq. 3
    biased:      means over all i, j                                      ibid., Eq. 5
    energy:      2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖                       Székely and Rizzo, JSPI 143 (2013)

The energy distance is the MMD² of the kernel ``Distance()``. Bandwidth rules use the pooled rows of x and y, at most
1,000, evenly spaced. Memory does not grow with n·m. The linear, polynomial and distance kernels depend on the origin,
so a large common offset costs digits: subtract a common mean first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from dap.errors import OptionError
from dap.kernels.arrays import Array, Rows, give_back, is_tensor
from dap.kernels.backend_base import Backend
from dap.kernels.backend_choice import choose
from dap.kernels.base import Kernel
from dap.kernels.linear import LINEAR
from dap.kernels.rbf import RBF
from dap.kernels.two_samples import check_samples, prepare

if TYPE_CHECKING:
    import torch

__all__ = ["energy_distance", "mmd2", "mmd2_variance"]

Scalar: TypeAlias = "float | torch.Tensor"
"""A float for arrays; for tensors a tensor with shape ()."""

_RBF = RBF()


def mmd2(x: Rows, y: Rows, kernel: Kernel | str = _RBF, backend: str = "auto", *, unbiased: bool = True) -> Scalar:
    """Return the squared maximum mean discrepancy of two samples (Gretton et al. 2012, Eq. 3 and 5).

    Args:
        x: Real numbers with shape (n, d).
        y: Real numbers with shape (m, d); n and m may differ.
        kernel: A kernel or its name; its bandwidth rules use x and y pooled.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".
        unbiased: Means over different rows, n and m ≥ 2, possibly negative; False for means over all, n and m ≥ 1.

    Returns:
        A float; for tensors a tensor with shape (), with the torch backend differentiable in x and y.

    Raises:
        OptionError: The shapes, types, devices or the backend do not fit, or a sample has too few rows.

    Example:
        >>> import numpy as np
        >>> x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [3.0]])
        >>> mmd2(x, y, "linear", unbiased=False), mmd2(x, y, "linear")
        (1.0, -1.5)
    """
    resolved, computation = prepare(x, y, kernel, backend, least=2 if unbiased else 1)
    between = computation.row_sums(x, y, resolved).sum() / (len(x) * len(y))
    within = [_mean_within(rows, resolved, computation, unbiased) for rows in (x, y)]
    return _scalar(within[0] + within[1] - 2 * between, x, y)


def mmd2_variance(x: Rows, y: Rows, kernel: Kernel | str = _RBF, backend: str = "auto") -> tuple[Scalar, Scalar]:
    """Return the unbiased MMD² and an estimate of its variance, for samples of one size.

    Sutherland et al., "Generative Models and Model Criticism via Optimized Maximum Mean Discrepancy", ICLR 2017,
    https://arxiv.org/abs/1611.04488, Eq. 5, as a sum of two parts (Appendix A): with n rows in each sample,

        Var = 4(n − 2) / (n(n − 1)) ζ₁ + 2 / (n(n − 1)) ζ₂.

    Each expectation in ζ₁ and ζ₂ is a mean over different indices, but their squares are squares of means. So the
    estimate is too small by O(1/n²) (https://arxiv.org/abs/1906.02104), and it may be negative. The error is small
    where P and Q differ, and large where they are equal: to test for equality use
    :func:`~dap.kernels.permutation_test`. The variance is that of the U-statistic, which leaves out the terms
    k(x_i, y_i); with these terms, as here, MMD² varies less by O(1/n²).

    Args:
        x: Real numbers with shape (n, d), n ≥ 3.
        y: Real numbers with shape (n, d).
        kernel: A kernel or its name; its bandwidth rules use x and y pooled.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".

    Returns:
        Two floats; for tensors two tensors with shape (), with the torch backend differentiable in x and y.

    Raises:
        OptionError: As :func:`mmd2`, or x and y have different numbers of rows.

    Example:
        >>> import numpy as np
        >>> x, y = np.random.default_rng(0).standard_normal((2, 500, 3))
        >>> estimate, variance = mmd2_variance(x, y + 1)
        >>> bool(estimate > 5 * variance**0.5)
        True
    """
    resolved, computation = prepare(x, y, kernel, backend, least=3)
    n = len(x)
    if len(y) != n:
        raise OptionError(f"the variance needs samples of one size, got {n} and {len(y)} rows")
    pairs, triples = n * (n - 1), n * (n - 1) * (n - 2)
    xy_rows, xy_columns, xy_squares = computation.pair_sums(x, y, resolved)
    xy = xy_rows.sum() / n**2
    within = zeta1 = zeta2 = 0.0
    for rows, cross in ((x, xy_rows), (y, xy_columns)):
        diagonal = computation.diagonal(rows, resolved)
        sums, _, squares = computation.pair_sums(rows, None, resolved)
        sums, squares = sums - diagonal, squares - (diagonal * diagonal).sum()
        mean = sums.sum() / pairs
        mixed = (sums * cross).sum() / (n * pairs) - mean * xy
        within = within + mean
        zeta1 = zeta1 + ((sums * sums).sum() - squares) / triples - mean * mean
        zeta1 = zeta1 + ((cross * cross).sum() - xy_squares) / (n * pairs) - xy * xy - 2 * mixed
        zeta2 = zeta2 + squares / pairs - mean * mean + xy_squares / n**2 - xy * xy - 4 * mixed
    variance = 4 * (n - 2) / pairs * zeta1 + 2 / pairs * zeta2
    return _scalar(within - 2 * xy, x, y), _scalar(variance, x, y)


def energy_distance(x: Rows, y: Rows, backend: str = "auto", *, unbiased: bool = False) -> Scalar:
    """Return 2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖ of two samples: the squared form, in any number of dimensions.

    In one dimension it is the square of ``scipy.stats.energy_distance``. It is the MMD² of ``Distance()``.

    Args:
        x: Real numbers with shape (n, d).
        y: Real numbers with shape (m, d).
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".
        unbiased: Means over different rows, n and m ≥ 2, possibly negative; False for means over all, n and m ≥ 1.

    Returns:
        A float; for tensors a tensor with shape (), with the torch backend differentiable in x and y.

    Raises:
        OptionError: The shapes, types, devices or the backend do not fit, or a sample has too few rows.

    Example:
        >>> import numpy as np
        >>> energy_distance(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]))
        10.0
    """
    check_samples(x, y, least=2 if unbiased else 1)
    computation = choose(LINEAR, backend, x, y).load()
    within = 0.0
    for rows in (x, y):
        scale = len(rows) / (len(rows) - 1) if unbiased else 1.0  # a row is at no distance from itself
        within = within + scale * computation.mean_distance(rows, None, LINEAR).mean()
    return _scalar(2 * computation.mean_distance(x, y, LINEAR).mean() - within, x, y)


def _mean_within(rows: Array, kernel: Kernel, backend: Backend[Any], unbiased: bool) -> Any:
    """Return the mean of k over all pairs of rows, or over pairs of different rows where ``unbiased``."""
    n, sums = len(rows), backend.row_sums(rows, None, kernel)
    return (sums - backend.diagonal(rows, kernel)).sum() / (n * (n - 1)) if unbiased else sums.sum() / (n * n)


def _scalar(value: Any, x: Array, y: Array) -> Scalar:
    return give_back(value, x, y) if is_tensor(x) else float(value)
