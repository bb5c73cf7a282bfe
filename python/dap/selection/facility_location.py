"""Facility location: rows that cover all others by similarity.

The algorithm is lazy greedy (Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978). It
chooses the same rows as plain greedy, whose F(S) = Σ_i max_{s∈S} k(x_i, x_s) is at least 1 − 1/e of the best
(Nemhauser, Wolsey, Fisher, "An analysis of approximations for maximizing submodular set functions", Mathematical
Programming 14 (1978)).
"""

from __future__ import annotations

from dap import _core
from dap.errors import OptionError
from dap.kernels import RBF, Kernel
from dap.kernels.arrays import Array
from dap.kernels.backend_rust import specification
from dap.kernels.sum import parts_of
from dap.selection.base import Embedding, Selection, as_rows, compiled

__all__ = ["facility_location"]

_SIGNED = ("linear", "cosine", "polynomial")
_RBF = RBF()


def facility_location(features: Array, count: int, *, kernel: Kernel | str = _RBF, seed: int = 0) -> Selection:
    """Choose rows one after another, each the one that adds most to F; there is no randomness.

    The first rows of a larger choice are those of a smaller one.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: The number of rows, 1 ≤ count ≤ N.
        kernel: The similarity, and the kernel of the error: one of :mod:`dap.kernels` that is never negative, or its
            name; its bandwidth rule uses all rows.
        seed: Ignored; all selectors share one signature.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: The features, the count or the kernel do not fit.

    Example:
        >>> import numpy as np
        >>> facility_location(np.array([[0.0], [0.1], [0.2], [9.0]]), 2, kernel=RBF(bandwidth=1.0)).indices
        array([1, 3])
    """
    similarity = compiled(kernel)
    if signed := [part.name for part in parts_of(similarity) if part.name in _SIGNED]:
        raise OptionError(f"facility location needs a kernel that is never negative, got {signed[0]!r}: try 'rbf'")
    embedding = Embedding.of(as_rows(features, count), similarity)
    return embedding.select(_core.facility_location(embedding.rows, specification(embedding.kernel), int(count)))
