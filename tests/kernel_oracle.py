"""Every kernel from its definition, in extended precision and one row of x at a time; shares no code with dap.

``spec`` is what ``dataclasses.asdict`` makes of a kernel with its bandwidth as a number. A row that holds NaN or
infinity counts as a row of NaN. Extended precision, because the definition of D cancels for near points.
"""

from __future__ import annotations

import numpy as np


def gram(x, y, spec):
    """k(x_i, y_j), float64 with shape (n, m); x and y are anything that numpy makes a matrix of."""
    return _gram(_rows(x), _rows(y), spec).astype(np.float64)


def diagonal(x, spec):
    """k(x_i, x_i), float64 with shape (n,)."""
    return _diagonal(_rows(x), spec).astype(np.float64)


def distance(x, y, spec):
    """D(x_i, y_j) = √(k(x_i, x_i) + k(y_j, y_j) − 2 k(x_i, y_j)), float64 with shape (n, m)."""
    x, y = _rows(x), _rows(y)
    squared = _diagonal(x, spec)[:, None] + _diagonal(y, spec) - 2 * _gram(x, y, spec)
    return np.sqrt(np.maximum(squared, 0)).astype(np.float64)


def euclidean(x, y):
    """‖x_i − y_j‖, float64 with shape (n, m)."""
    x, y = _rows(x), _rows(y)
    return np.array([_norm(row - y) for row in x], np.float64).reshape(len(x), len(y))


def _rows(rows):
    rows = np.array(rows, np.longdouble, order="C")
    rows[~np.isfinite(rows).all(1)] = np.nan
    return rows


def _norm(vectors):
    return np.sqrt((vectors**2).sum(-1))


def _gram(x, y, spec):
    return np.array([_kernel(row[None], y, spec) for row in x], np.longdouble).reshape(len(x), len(y))


def _diagonal(x, spec):
    return np.array([_kernel(row[None], row[None], spec)[0] for row in x], np.longdouble)


def _kernel(x, y, spec):
    """k(x, y_j) of one row, shape (1, d), and many, shape (m, d)."""
    dot, r = (x * y).sum(-1), _norm(x - y)
    match spec["name"]:
        case "linear":
            return dot
        case "cosine":
            sizes = _norm(x) * _norm(y)
            return np.where(sizes == 0, 0, dot / np.where(sizes == 0, 1, sizes))
        case "polynomial":
            return (dot + np.longdouble(spec["c"])) ** spec["degree"]
        case "rbf":
            return np.exp(-(r**2) / (2 * np.longdouble(spec["bandwidth"]) ** 2))
        case "laplacian":
            return np.exp(-abs(x - y).sum(-1) / np.longdouble(spec["bandwidth"]))
        case "exponential":
            return np.exp(-r / np.longdouble(spec["bandwidth"]))
        case "inverse_multiquadric":
            return 1 / np.sqrt(np.longdouble(spec["c"]) ** 2 + r**2)
        case "rational_quadratic":
            alpha = np.longdouble(spec["alpha"])
            return (1 + r**2 / (2 * alpha * np.longdouble(spec["bandwidth"]) ** 2)) ** -alpha
        case "matern":
            z = np.sqrt(2 * np.longdouble(spec["nu"])) * r / np.longdouble(spec["bandwidth"])
            polynomial = {1.5: 1 + z, 2.5: 1 + z + z**2 / 3}[spec["nu"]]
            return polynomial * np.exp(-z)
        case "distance":
            return _norm(x) + _norm(y) - r
        case "sum":
            return sum(_kernel(x, y, part) for part in spec["kernels"])
    raise ValueError(f"no such kernel: {spec}")
