"""numpy, scikit-learn, SciPy, KeOps and faiss as rivals; see ``kernel_rivals_torch.py`` for what the functions return.

Rows come as torch tensors, whose memory numpy shares. SciPy computes in float64 on one thread: it stands where products
do not help, and for the mean distance.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from kernel_cases import NEIGHBOURS, Case
from kernel_rivals_torch import Reduce
from turns import thread_count

Floats = np.ndarray


def numpy(case: Case) -> dict[str, Reduce]:
    """One product for each chunk of x into one buffer, with the norms as two more columns, and all else in place.

    numpy's own loops run on one thread; so there is also a form with a pool of threads that share out the chunks.
    """
    if case.kernel == "laplacian":
        return {}  # SciPy's cdist is the form that numpy's users pick
    factor = np.float32(-0.5 / case.bandwidth**2 if case.kernel == "rbf" else 1.0)

    def fold(x: Any, y: Any) -> tuple[Floats, Floats]:
        x, y = x.numpy(), y.numpy()
        x_norms, y_norms = (factor * np.einsum("ij,ij->i", rows, rows)[:, None] for rows in (x, y))
        left = np.hstack([x, x_norms, np.ones_like(x_norms)])
        return left, np.hstack([-2 * factor * y, np.ones_like(y_norms), y_norms]).T

    def sums_of(block: Floats) -> Floats:
        if case.kernel == "rbf":
            return np.exp(block, out=block).sum(1)
        return np.sqrt(np.maximum(block, 0, out=block), out=block).sum(1)

    def nearest_of(block: Floats) -> tuple[Floats, Floats]:
        some = np.argpartition(block, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        order = np.take_along_axis(block, some, 1).argsort(1)
        indices = np.take_along_axis(some, order, 1)
        return np.sqrt(np.maximum(np.take_along_axis(block, indices, 1), 0)), indices

    reduce = nearest_of if case.reduction == "nearest" else sums_of

    def serial(x: Any, y: Any) -> Any:
        left, right = fold(x, y)
        buffer = np.empty((1024, len(y)), np.float32)
        return _joined([reduce(np.matmul(part, right, out=buffer[: len(part)])) for part in _parts(left, 1024)])

    def pooled(x: Any, y: Any) -> Any:
        from threadpoolctl import threadpool_limits

        left, right = fold(x, y)
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(thread_count()) as pool:
            return _joined(list(pool.map(lambda part: reduce(part @ right), _parts(left, 256))))

    return {"numpy": serial} | ({"numpy, pool of threads": pooled} if thread_count() > 1 else {})


def _parts(rows: Floats, chunk: int) -> Iterator[Floats]:
    return (rows[start : start + chunk] for start in range(0, len(rows), chunk))


def _joined(results: list[Any]) -> Any:
    if isinstance(results[0], tuple):
        return tuple(np.concatenate(part) for part in zip(*results, strict=True))
    return np.concatenate(results)


def scikit_learn(case: Case) -> dict[str, Reduce]:
    """``pairwise_kernels``, ``pairwise_distances_chunked`` and ``NearestNeighbors``."""

    def nearest(x: Any, y: Any) -> Any:
        from sklearn.neighbors import NearestNeighbors

        index = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute", n_jobs=thread_count()).fit(y.numpy())
        return index.kneighbors(x.numpy())

    def distances(x: Any, y: Any) -> Any:
        from sklearn.metrics import pairwise_distances_chunked

        blocks = pairwise_distances_chunked(x.numpy(), y.numpy(), reduce_func=lambda block, _: block.sum(1))
        return np.concatenate(list(blocks))

    def kernels(x: Any, y: Any) -> Any:
        from sklearn.metrics.pairwise import pairwise_kernels

        gamma = 1 / case.bandwidth if case.kernel == "laplacian" else 0.5 / case.bandwidth**2
        options = {"metric": case.kernel, "gamma": gamma, "n_jobs": thread_count() if case.kernel == "laplacian" else 1}
        return np.concatenate([pairwise_kernels(part, y.numpy(), **options).sum(1) for part in _parts(x.numpy(), 1024)])

    return {"scikit-learn": {"nearest": nearest, "mean_distance": distances}.get(case.reduction, kernels)}


def scipy(case: Case) -> dict[str, Reduce]:
    """``scipy.spatial.distance.cdist`` in chunks of 1,024 rows."""

    def blocks(x: Any, y: Any, metric: str) -> Iterator[Floats]:
        from scipy.spatial.distance import cdist

        return (cdist(part, y.numpy(), metric) for part in _parts(x.numpy(), 1024))

    def laplacian(x: Any, y: Any) -> Any:
        return np.concatenate([np.exp(block / -case.bandwidth).sum(1) for block in blocks(x, y, "cityblock")])

    def distances(x: Any, y: Any) -> Any:
        return np.concatenate([block.sum(1) for block in blocks(x, y, "euclidean")])

    if case.kernel == "laplacian":
        return {"SciPy cdist": laplacian}
    return {"SciPy cdist": distances} if case.reduction == "mean_distance" else {}


def keops(case: Case) -> dict[str, Reduce]:
    """A ``LazyTensor`` of KeOps, which is made for few features; compiling takes seconds, once for each formula."""

    def call(x: Any, y: Any) -> Any:
        lazy = _lazy_tensor()
        difference = lazy(x[:, None, :]) - lazy(y[None, :, :])
        if case.kernel == "laplacian":
            return (-difference.abs().sum(-1) / case.bandwidth).exp().sum(1)[:, 0]
        squared = (difference**2).sum(-1)
        if case.reduction == "nearest":
            values, indices = squared.Kmin_argKmin(K=NEIGHBOURS, dim=1)
            return values.sqrt(), indices
        if case.kernel == "linear":
            return squared.sqrt().sum(1)[:, 0]
        return (squared * (-0.5 / case.bandwidth**2)).exp().sum(1)[:, 0]

    return {"KeOps": call} if case.d <= 64 else {}


def _lazy_tensor() -> Callable[[Any], Any]:
    """Import KeOps with ``-march=native -ffast-math``, which it reads when it is imported, and then no more."""
    if not shutil.which("c++"):
        raise ImportError("KeOps needs a C++ compiler")
    flags = os.environ.get("CXXFLAGS", "")
    os.environ["CXXFLAGS"] = f"{flags} -march=native -ffast-math"
    os.environ.setdefault("PYKEOPS_VERBOSE", "0")
    try:
        from pykeops.torch import LazyTensor
    finally:
        os.environ["CXXFLAGS"] = flags
    return LazyTensor


def faiss(case: Case) -> dict[str, Reduce]:
    """``IndexFlatL2``, the exact index; adding the rows counts."""

    def nearest(x: Any, y: Any) -> Any:
        from faiss import IndexFlatL2

        index = IndexFlatL2(case.d)
        index.add(y.numpy())
        squared, indices = index.search(x.numpy(), NEIGHBOURS)
        return np.sqrt(squared), indices

    return {"faiss": nearest} if case.reduction == "nearest" else {}
