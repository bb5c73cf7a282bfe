"""Facility location: rows that cover all others by similarity.

Greedy, and lazy (Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978): the same rows
as plain greedy, of which F(S) = Σ_i max_{s∈S} k(x_i, x_s) is at least 1 − 1/e of the best (Nemhauser, Wolsey, Fisher,
"An analysis of approximations for maximizing submodular set functions", Mathematical Programming 14 (1978)).
"""

from __future__ import annotations

from typing import Any

from dap import _core
from dap.errors import OptionError
from dap.kernels import RBF, Kernel, Sum
from dap.kernels.backend_rust import specification
from dap.selection.base import Embedding, Selection, as_rows, compiled

__all__ = ["facility_location"]

_SIGNED = ("linear", "cosine", "polynomial")
_RBF = RBF()


def facility_location(features: Any, count: int, *, kernel: Kernel | str = _RBF, seed: int = 0) -> Selection:
    """Chooses rows one after another, each the one that adds most to F; deterministic.

    The first rows of a larger choice are those of the smaller one.

    Args:
        features: Finite real numbers with shape (N, D), array or tensor.
        count: How many rows, 1 ≤ count ≤ N.
        kernel: The similarity, and the kernel of the error: one of :mod:`dap.kernels` that is never negative, or its
            name; its bandwidth rule looks at all rows.
        seed: Nothing is drawn: it is taken so that all selectors are called alike.

    Returns:
        The selection, with the MMD to all rows as its error.

    Raises:
        OptionError: If features, count or kernel do not fit.

    Example:
        >>> import numpy as np
        >>> facility_location(np.array([[0.0], [0.1], [0.2], [9.0]]), 2, kernel=RBF(bandwidth=1.0)).indices
        array([1, 3])
    """
    similarity = compiled(kernel)
    parts = similarity.kernels if isinstance(similarity, Sum) else (similarity,)
    if signed := [part.name for part in parts if part.name in _SIGNED]:
        raise OptionError(f"facility location needs a kernel that is never negative, got {signed[0]!r}: try 'rbf'")
    embedding = Embedding.of(as_rows(features, count), similarity)
    return embedding.select(_core.facility_location(embedding.rows, specification(embedding.kernel), int(count)))
