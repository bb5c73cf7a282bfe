"""Kernel thinning: keep one row of each pair, by a coin that favours the mean embedding; then swap rows.

Dwivedi and Mackey, "Kernel thinning", JMLR 25 (2024), https://arxiv.org/abs/2105.05842: KT-SPLIT, one half at a time,
and KT-SWAP. In a round, for the i-th pair (x, x'), with S the rows kept and R the rows dropped so far,

    b² = k(x,x) + k(x',x') − 2 k(x,x'),    a = max(b σ √(2 log(2/δ)), b²),    σ² += b² (1 + (b² − 2a) σ²/a²)₊
    α = Σ_R (k(·,x) − k(·,x')) − Σ_S (k(·,x) − k(·,x'));   x' is kept with probability min(1, (1 − α/a)₊ / 2), else x.

KT-SWAP replaces each kept row, one after another, by the row that makes the MMD smallest. The MMD to the halved rows
falls as 1/count up to logarithms, that of a random choice as 1/√count; the swaps matter where count is small.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dap.kernels import Kernel, gram
from dap.kernels.arrays import Array
from dap.kernels.backend_rust import RUST
from dap.selection.base import DISTANCE, Embedding, Selection, as_rows

__all__ = ["thinning"]

_FAILURE = 0.5  # the paper's δ, of which each row gets its share
_BLOCK = 512  # rows whose kernel values are held at once


def thinning(features: Array, count: int, *, kernel: Kernel | str = DISTANCE, seed: int = 0) -> Selection:
    """Draw count · 2^m rows, with the largest m that N allows, halve them m times, then swap rows for better ones.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: The number of rows, 1 ≤ count ≤ N; with count > N/2 rows are only swapped.
        kernel: A kernel of :mod:`dap.kernels` or its name.
        seed: The seed of the drawn rows, their order and the coins.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: The features, the count or the kernel do not fit.

    Example:
        >>> rows = np.random.default_rng(0).standard_normal((512, 2))
        >>> thinning(rows, 8, kernel="rbf").error < 0.1
        True
    """
    embedding = Embedding.of(as_rows(features, count), kernel)
    random = np.random.default_rng(seed)
    rounds = int(math.log2(len(embedding.rows) // count))
    indices = random.permutation(len(embedding.rows))[: count << rounds].astype(np.int64)
    diagonal = RUST.diagonal(embedding.rows, embedding.kernel)
    for _ in range(rounds):
        indices = indices[_halve(embedding.rows[indices], diagonal[indices], embedding.kernel, random)]
    return embedding.select(_swap(embedding, diagonal, indices))


def _swap(embedding: Embedding, diagonal: np.ndarray, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Replace each row in turn by the row that, together with the other chosen rows, makes the MMD smallest."""
    rows, kernel, chosen = embedding.rows, embedding.kernel, indices.copy()
    columns = gram(rows, rows[chosen], kernel)
    sums = columns.sum(1, dtype=np.float64)
    for slot, row in enumerate(indices):
        sums -= columns[:, slot]
        scores = sums + diagonal / 2 - len(chosen) * embedding.means
        scores[np.delete(chosen, slot)] = np.inf
        best = int(scores.argmin())
        if scores[best] < scores[row]:
            chosen[slot] = best
            columns[:, slot] = gram(rows, rows[best : best + 1], kernel)[:, 0]
        sums += columns[:, slot]
    return chosen


def _halve(
    rows: np.ndarray, diagonal: np.ndarray, kernel: Kernel, random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return one row of each pair of neighbours, int64 (N/2,); ``diagonal`` is k(x, x)."""
    signs = np.empty(len(rows))  # −1 for a row that was kept, +1 for one that was dropped
    log = 2 * math.log(2 * len(rows) / _FAILURE)
    variance, coins = 0.0, random.random(len(rows) // 2)
    for start in range(0, len(rows), _BLOCK):
        stop = min(start + _BLOCK, len(rows))
        values = gram(rows[start:stop], rows[:stop], kernel).astype(np.float64)
        for x in range(start, stop, 2):
            first, second = values[x - start], values[x - start + 1]
            squared = max(float(diagonal[x] + diagonal[x + 1] - 2 * first[x + 1]), 0.0)
            bound = max(math.sqrt(squared * variance * log), squared)
            swap = 0.5
            if bound > 0:
                variance += squared * max(1 + (squared - 2 * bound) * variance / bound**2, 0.0)
                swap = max(1 - float((first[:x] - second[:x]) @ signs[:x]) / bound, 0.0) / 2
            swapped = coins[x // 2] < swap
            signs[x], signs[x + 1] = (1.0, -1.0) if swapped else (-1.0, 1.0)
    return np.flatnonzero(signs < 0).astype(np.int64)
