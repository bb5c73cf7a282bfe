"""The permutation test of MMD² (Gretton et al., "A Kernel Two-Sample Test", JMLR 13, 2012, Eq. 3).

With z the n + m pooled rows, K their Gram matrix, w ∈ {0, 1} for the n rows of the first sample, and v = 1 − w,

    MMD² = (wᵀKw − Σ_i w_i K_ii) / n(n−1) + (vᵀKv − Σ_i v_i K_ii) / m(m−1) − 2 wᵀKv / nm,

which needs only K·w and K·1: many permutations share one pass over the pairs, and K is not held in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dap.config import check_whole
from dap.kernels.arrays import Array, Rows, detached, give_back, is_double, is_tensor, to_numpy
from dap.kernels.backend_base import Backend
from dap.kernels.base import Kernel
from dap.kernels.rbf import RBF
from dap.kernels.two_samples import prepare, stack

__all__ = ["PermutationTest", "permutation_test"]

_RBF = RBF()
_WEIGHTS = 1 << 23
"""Numbers in one block of permutations: 64 MiB of float64."""


@dataclass(frozen=True)
class PermutationTest:
    """The result of :func:`permutation_test`.

    Attributes:
        statistic: The unbiased MMD² of the samples.
        p_value: Share of the permutations whose MMD² is not smaller; the samples themselves count as one of them.
        kernel: The kernel with the bandwidth that was used.
    """

    statistic: float
    p_value: float
    kernel: Kernel


def permutation_test(
    x: Rows,
    y: Rows,
    kernel: Kernel | str = _RBF,
    backend: str = "auto",
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> PermutationTest:
    """Test whether x and y come from one distribution, by the unbiased MMD² of permuted samples.

    The p-value counts the samples themselves as a permutation, (1 + #{not smaller}) / (1 + permutations): then the test
    keeps its level (Phipson and Smyth 2010). Many permutations share one pass over the pairs.

    Args:
        x: Real numbers with shape (n, d), n ≥ 2.
        y: Real numbers with shape (m, d), m ≥ 2.
        kernel: A kernel or its name; its bandwidth rules use x and y pooled.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".
        permutations: The number of permutations that are drawn, at least 1.
        seed: The seed of the permutations.

    Raises:
        OptionError: As :func:`~dap.kernels.mmd2`, or ``permutations`` is not a positive integer.

    Example:
        >>> import numpy as np
        >>> x, y = np.random.default_rng(0).standard_normal((2, 50, 3))
        >>> permutation_test(x, y + 1, permutations=99).p_value
        0.01
    """
    check_whole("permutations", permutations)
    x, y = detached(x), detached(y)
    resolved, computation = prepare(x, y, kernel, backend, least=2)
    n, rows = len(x), stack(x, y)
    diagonal = to_numpy(computation.diagonal(rows, resolved), np.float64)
    random = np.random.default_rng(seed)
    first = np.arange(len(rows)) < n
    masks = itertools.chain([first], (random.permutation(first) for _ in range(permutations)))
    values = np.concatenate(list(_mmd2_of_masks(masks, rows, n, diagonal, resolved, computation)))
    statistic = float(values[0])
    # A permutation that gives the same split may round differently.
    rounding = 16 * np.finfo(np.float64 if is_double(rows) else np.float32).eps * np.abs(diagonal).mean()
    p_value = float((values >= statistic - rounding).mean()) if np.isfinite(statistic) else float("nan")
    return PermutationTest(statistic, p_value, resolved)


def _mmd2_of_masks(
    masks: Iterator[npt.NDArray[np.bool_]],
    rows: Array,
    n: int,
    diagonal: npt.NDArray[np.float64],
    kernel: Kernel,
    backend: Backend[Any],
) -> Iterator[npt.NDArray[np.float64]]:
    """Yield the unbiased MMD² between the n rows in the mask and the others, for a block of masks of shape (n + m,)."""
    total, m = len(rows), len(rows) - n
    while block := list(itertools.islice(masks, max(1, _WEIGHTS // total))):
        weights = np.stack([np.ones(total), *block], axis=1)
        columns = give_back(weights, rows) if is_tensor(rows) else weights
        sums = to_numpy(backend.row_sums(rows, None, kernel, columns), np.float64)
        w = weights[:, 1:]
        within = np.einsum("ib,ib->b", w, sums[:, 1:])
        between = sums[:, 0] @ w - within
        without = sums[:, 0].sum() - within - 2 * between
        diagonals = diagonal @ w
        first = (within - diagonals) / (n * (n - 1))
        second = (without - diagonal.sum() + diagonals) / (m * (m - 1))
        yield first + second - 2 * between / (n * m)
