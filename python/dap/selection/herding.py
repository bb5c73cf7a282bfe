"""Kernel herding: rows whose mean embedding follows that of all rows.

Chen, Welling, Smola, "Super-samples from kernel herding", UAI 2010, https://arxiv.org/abs/1203.3472. The t-th row is
the one that makes the MMD of the t rows smallest, among those not chosen yet:

    argmax_x  μ(x) − (Σ_{s<t} k(x, x_s) + k(x, x) / 2) / t.

The paper's rule has no k(x, x), which is constant for most kernels but not for the distance kernel, and it may choose
a row twice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dap import _core
from dap.kernels import Kernel, gram, row_sums
from dap.kernels.arrays import Array
from dap.kernels.backend_rust import RUST, specification
from dap.selection.base import DISTANCE, Embedding, Selection, as_rows, compiled

__all__ = ["embedding_weights", "herding", "order_towards"]


def herding(
    features: Array,
    count: int,
    *,
    kernel: Kernel | str = DISTANCE,
    weighted: bool = False,
    simplex: bool = True,
    seed: int = 0,
) -> Selection:
    """Choose rows one after another, so that their mean embedding is nearest to that of all; there is no randomness.

    The first rows of a larger choice are those of a smaller one.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: The number of rows, 1 ≤ count ≤ N.
        kernel: A kernel of :mod:`dap.kernels` or its name; the default is that of the energy distance.
        weighted: Compute weights too, so that fewer rows reach the same error (:func:`embedding_weights`).
        simplex: Weights of at least 0 that sum to 1; False for any weights.
        seed: Ignored; all selectors share one signature.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: The features, the count or the kernel do not fit.

    Example:
        >>> rows = np.array([[-2.0], [-1.0], [0.0], [1.0], [5.0]])
        >>> herding(rows, 3).indices
        array([2, 1, 4])
        >>> herding(rows, 2, weighted=True).weights.round(2)
        array([0.6, 0.4])
    """
    embedding = Embedding.of(as_rows(features, count), kernel)
    rows, resolved = embedding.rows, embedding.kernel
    diagonal = RUST.diagonal(rows, resolved)
    indices = _core.herding(rows, specification(resolved), embedding.means, diagonal, int(count))
    return embedding.select(indices, embedding_weights(embedding, indices, simplex) if weighted else None)


def order_towards(
    candidates: Array, targets: Array, *, kernel: Kernel | str = DISTANCE, weights: npt.ArrayLike | None = None
) -> npt.NDArray[np.int64]:
    """Order all candidates by herding towards the mean embedding of the targets, so that each prefix represents them.

    The t-th candidate is the one that makes the MMD between the first t candidates and the targets smallest.

    Args:
        candidates: Finite real numbers with shape (n, D).
        targets: Finite real numbers with shape (N, D), of the same type; a bandwidth rule uses them.
        kernel: A kernel of :mod:`dap.kernels` or its name; the default is that of the energy distance.
        weights: The share of each target, (N,), with sum 1; None for equal shares.

    Returns:
        A permutation of 0 to n − 1, int64.

    Raises:
        OptionError: The rows or the kernel do not fit.

    Example:
        >>> order_towards(np.array([[9.0], [1.0], [0.0]]), np.array([[-1.0], [0.0], [2.0]]))
        array([2, 1, 0])
    """
    rows, points = as_rows(candidates, 1), as_rows(targets, 1)
    resolved = compiled(kernel).resolve(points)
    shares = np.full(len(points), 1 / len(points)) if weights is None else np.asarray(weights, np.float64)
    means = row_sums(rows.astype(np.float64), points.astype(np.float64), resolved, weights=shares[:, None])[:, 0]
    return _core.herding(rows, specification(resolved), means, RUST.diagonal(rows, resolved), len(rows))


def embedding_weights(
    embedding: Embedding, indices: npt.NDArray[np.int64], simplex: bool = True
) -> npt.NDArray[np.float64]:
    """Return the weights of some rows with the smallest MMD to all rows: least squares in the kernel's feature space.

    On the simplex this is the point of smallest norm in the convex hull of φ(x_s) − μ, by the algorithm of Wolfe,
    "Finding the nearest point in a polytope", Mathematical Programming 11 (1976).

    Args:
        embedding: The mean embedding of all rows.
        indices: The rows that get weights, int64 (count,).
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
    """Return the weights on the simplex of the combination of smallest norm, for points with these inner products."""
    size = np.abs(products).max()
    weights = np.zeros(len(products))
    weights[products.diagonal().argmin()] = 1.0
    for _ in range(10 * len(products)):  # more rounds than it needs: by rounding it might never end
        slopes = products @ weights
        enters = int(slopes.argmin())
        if weights[enters] > 0 or slopes[enters] >= weights @ slopes - 1e-12 * size:
            break
        active = np.append(np.flatnonzero(weights), enters)
        while True:
            best = _affine(products[np.ix_(active, active)])
            if (best > 0).all():
                break
            before = weights[active]
            falling = best <= 0
            step = (before[falling] / (before[falling] - best[falling])).min() if (before[falling] > 0).all() else 0.0
            moved = np.maximum(before + step * (best - before), 0.0)
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
    """Return the weights, of any sign and with sum 1, of the combination of smallest norm."""
    n = len(products)
    system = np.ones((n + 1, n + 1))
    system[:n, :n], system[n, n] = products, 0.0
    weights: npt.NDArray[np.float64] = np.linalg.lstsq(system, np.eye(n + 1)[n], rcond=None)[0][:n]
    return weights
