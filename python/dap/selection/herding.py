"""Kernel herding: rows whose mean embedding follows that of all rows.

Chen, Welling, Smola, "Super-samples from kernel herding", UAI 2010, https://arxiv.org/abs/1203.3472. The t-th row is
the one, of those not chosen yet, that makes the MMD of the t rows smallest:

    argmax_x  μ(x) − (Σ_{s<t} k(x, x_s) + k(x, x) / 2) / t.

Theirs lacks k(x, x), which is constant for most kernels but not for the distance kernel, and may take a row twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dap import _core
from dap.kernels import Kernel, gram, row_sums
from dap.kernels.backend_rust import diagonal, specification
from dap.selection.base import DISTANCE, Embedding, Selection, as_rows, compiled

__all__ = ["embedding_weights", "herding", "order_towards"]


def herding(
    features: Any,
    count: int,
    *,
    kernel: Kernel | str = DISTANCE,
    weighted: bool = False,
    simplex: bool = True,
    seed: int = 0,
) -> Selection:
    """Chooses rows one after another, so that their mean embedding is nearest to that of all; deterministic.

    The first rows of a larger choice are those of the smaller one.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: How many rows, 1 ≤ count ≤ N.
        kernel: A kernel of :mod:`dap.kernels` or its name; the default is that of the energy distance.
        weighted: Also weigh the rows, so that few stand for many (see :func:`embedding_weights`).
        simplex: Weights of at least 0 that sum to 1; False for any weights.
        seed: Nothing is drawn: it is taken so that all selectors are called alike.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: If features, count or kernel do not fit.

    Example:
        >>> rows = np.array([[-2.0], [-1.0], [0.0], [1.0], [5.0]])
        >>> herding(rows, 3).indices
        array([2, 1, 4])
        >>> herding(rows, 2, weighted=True).weights.round(2)
        array([0.6, 0.4])
    """
    embedding = Embedding.of(as_rows(features, count), kernel)
    rows, resolved = embedding.rows, embedding.kernel
    indices = _core.herding(rows, specification(resolved), embedding.means, diagonal(rows, resolved), int(count))
    return embedding.select(indices, embedding_weights(embedding, indices, simplex) if weighted else None)


def order_towards(
    candidates: Any, targets: Any, *, kernel: Kernel | str = DISTANCE, weights: Any = None
) -> npt.NDArray[np.int64]:
    """Herding towards the mean embedding of other rows: all candidates, so ordered that each prefix stands for them.

    The t-th is the one that makes the MMD between the first t candidates and the targets smallest.

    Args:
        candidates: Finite real numbers with shape (n, D).
        targets: Finite real numbers with shape (N, D), of the same type; a bandwidth rule looks at them.
        kernel: A kernel of :mod:`dap.kernels` or its name; the default is that of the energy distance.
        weights: What each target stands for, (N,), with sum 1; None for equal shares.

    Returns:
        A permutation of 0 to n − 1, int64.

    Raises:
        OptionError: If the rows or the kernel do not fit.

    Example:
        >>> order_towards(np.array([[9.0], [1.0], [0.0]]), np.array([[-1.0], [0.0], [2.0]]))
        array([2, 1, 0])
    """
    rows, wanted = as_rows(candidates, 1), as_rows(targets, 1)
    resolved = compiled(kernel).resolve(wanted)
    shares = np.full(len(wanted), 1 / len(wanted)) if weights is None else np.asarray(weights, np.float64)
    means = row_sums(rows.astype(np.float64), wanted.astype(np.float64), resolved, weights=shares[:, None])[:, 0]
    return _core.herding(rows, specification(resolved), means, diagonal(rows, resolved), len(rows))


def embedding_weights(
    embedding: Embedding, indices: npt.NDArray[np.int64], simplex: bool = True
) -> npt.NDArray[np.float64]:
    """The weights of some rows with the smallest MMD to all rows: least squares in the kernel's feature space.

    On the simplex it is the point of smallest norm in the convex hull of φ(x_s) − μ, found by the algorithm of Wolfe,
    "Finding the nearest point in a polytope", Mathematical Programming 11 (1976).

    Args:
        embedding: All rows.
        indices: The rows to weigh, int64 (count,).
        simplex: Weights of at least 0 that sum to 1; False for any weights.

    Returns:
        Float64 (count,).

    Example:
        >>> embedding = Embedding.of(np.array([[0.0], [1.0], [1.0], [1.0]]), "rbf")
        >>> embedding_weights(embedding, np.array([0, 1])).round(6)
        array([0.25, 0.75])
    """
    chosen = embedding.rows[indices].astype(np.float64)
    matrix, means = gram(chosen, None, embedding.kernel), embedding.means[indices]
    if not simplex:
        weights: npt.NDArray[np.float64] = np.linalg.lstsq(matrix, means, rcond=1e-10)[0]
        return weights
    return _nearest_point(matrix - means[:, None] - means + embedding.means.mean())


def _nearest_point(products: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weights on the simplex of the point of smallest norm, of points with these inner products, (n, n)."""
    size = np.abs(products).max()
    weights = np.zeros(len(products))
    weights[products.diagonal().argmin()] = 1.0
    for _ in range(10 * len(products)):  # far more than it takes; rounding could let it go round for ever
        slopes = products @ weights
        enters = int(slopes.argmin())
        if weights[enters] > 0 or slopes[enters] >= weights @ slopes - 1e-12 * size:
            break
        active = np.append(np.flatnonzero(weights), enters)
        while True:
            best = _affine(products[np.ix_(active, active)])
            if (best > 0).all():
                break
            old = weights[active]
            falling = best <= 0
            step = (old[falling] / (old[falling] - best[falling])).min() if (old[falling] > 0).all() else 0.0
            moved = np.maximum(old + step * (best - old), 0.0)
            moved[falling & (moved <= 1e-15)] = 0.0
            keep = moved > 0
            if keep.all() or not keep.any():
                return weights
            weights[active] = moved
            active = active[keep]
        weights = np.zeros(len(products))
        weights[active] = best
    result: npt.NDArray[np.float64] = weights / weights.sum()
    return result


def _affine(products: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Weights that sum to 1, of any sign, of the point of smallest norm."""
    n = len(products)
    system = np.ones((n + 1, n + 1))
    system[:n, :n], system[n, n] = products, 0.0
    weights: npt.NDArray[np.float64] = np.linalg.lstsq(system, np.eye(n + 1)[n], rcond=None)[0][:n]
    return weights
