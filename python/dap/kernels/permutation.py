"""The permutation test of MMD² (Gretton et al., "A Kernel Two-Sample Test", JMLR 13, 2012, Eq. 3).

With z the n + m pooled rows, K their Gram matrix, w ∈ {0, 1} for the n rows of the first sample, and v = 1 − w,

    MMD² = (wᵀKw − Σ_i w_i K_ii) / n(n−1) + (vᵀKv − Σ_i v_i K_ii) / m(m−1) − 2 wᵀKv / nm,

which follows from K·w and K·1: many permutations share one pass over the pairs, and K is never held.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dap.errors import OptionError
from dap.kernels.arrays import detached, give_back, is_double, is_tensor, to_numpy
from dap.kernels.base import Kernel
from dap.kernels.rbf import RBF
from dap.kernels.samples import prepare, stack

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["PermutationTest", "permutation_test"]

Rows = TypeVar("Rows", "npt.NDArray[Any]", "torch.Tensor")

_RBF = RBF()
_WEIGHTS = 1 << 23
"""Numbers in one block of permutations: 64 MiB of float64."""


@dataclass(frozen=True)
class PermutationTest:
    """The result of :func:`permutation_test`.

    Attributes:
        statistic: The unbiased MMD² of the samples.
        p_value: Share of the permutations, with the samples themselves as one, whose MMD² is not smaller.
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
    """Tests whether x and y come from one distribution: the unbiased MMD² against that of permuted samples.

    With z the pooled rows and w ∈ {0, 1} saying which are in the first sample, each MMD² follows from k(Z, Z)·w, so
    that many permutations share one pass over the pairs. The p-value counts the samples themselves as a permutation:
    (1 + #{not smaller}) / (1 + permutations), so the test keeps its level (Phipson and Smyth 2010).

    Args:
        x: Real numbers with shape (n, d), n ≥ 2.
        y: Real numbers with shape (m, d), m ≥ 2.
        kernel: A kernel or its name; its bandwidth rules look at x and y pooled.
        backend: "auto" (see :func:`dap.kernels.explain`), "torch", "rust" or "numpy".
        permutations: How many are drawn, at least 1.
        seed: Of the permutations.

    Raises:
        OptionError: As :func:`mmd2`, or if ``permutations`` is not a positive integer.

    Example:
        >>> import numpy as np
        >>> x, y = np.random.default_rng(0).standard_normal((2, 50, 3))
        >>> permutation_test(x, y + 1, permutations=99).p_value
        0.01
    """
    if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < 1:
        raise OptionError(f"permutations must be a positive integer, got {permutations!r}")
    x, y = detached(x), detached(y)
    kernel, module = prepare(x, y, kernel, backend, least=2)
    n, rows = len(x), stack(x, y)
    diagonal = to_numpy(module.diagonal(rows, kernel), np.float64)
    random = np.random.default_rng(seed)
    first = np.arange(len(rows)) < n
    masks = itertools.chain([first], (random.permutation(first) for _ in range(permutations)))
    values = np.concatenate(list(_mmd2_of_masks(masks, rows, n, diagonal, kernel, module)))
    statistic = float(values[0])
    # The same split, found again, may round differently.
    rounding = 16 * np.finfo(np.float64 if is_double(rows) else np.float32).eps * np.abs(diagonal).mean()
    p_value = float((values >= statistic - rounding).mean()) if np.isfinite(statistic) else float("nan")
    return PermutationTest(statistic, p_value, kernel)


def _mmd2_of_masks(
    masks: Iterator[npt.NDArray[np.bool_]],
    rows: Any,
    n: int,
    diagonal: npt.NDArray[np.float64],
    kernel: Kernel,
    module: ModuleType,
) -> Iterator[npt.NDArray[np.float64]]:
    """The unbiased MMD² of rows[mask], n of them, against the others, for each mask with shape (n + m,)."""
    total, m = len(rows), len(rows) - n
    while block := list(itertools.islice(masks, max(1, _WEIGHTS // total))):
        weights = np.stack([np.ones(total), *block], axis=1)
        given = give_back(weights, rows) if is_tensor(rows) else weights
        sums = to_numpy(module.row_sums(rows, None, kernel, given), np.float64)
        w = weights[:, 1:]
        within = np.einsum("ib,ib->b", w, sums[:, 1:])
        between = sums[:, 0] @ w - within
        without = sums[:, 0].sum() - within - 2 * between
        own = diagonal @ w
        yield (within - own) / (n * (n - 1)) + (without - diagonal.sum() + own) / (m * (m - 1)) - 2 * between / (n * m)
