"""numpy, scikit-learn, SciPy, KeOps and faiss as rivals.

Makers and what they return are those of :mod:`dap.bench.rivals_torch`; f gets torch tensors, whose memory numpy shares.
SciPy computes in float64 on one thread: it stands where products do not help, and for the mean distance.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from dap.bench.cases import NEIGHBOURS, Case
from dap.bench.rivals_torch import Reduce

__all__ = ["faiss", "keops", "numpy", "scikit_learn", "scipy"]

Floats = npt.NDArray[np.float32]
CHUNKS = (256, 1024)


def numpy(case: Case) -> dict[str, Reduce]:
    """One product for each chunk of x into one buffer, with the norms as two more columns, and all else in place.

    numpy's own loops run on one thread; so there is also a form with a pool of threads that share out the chunks.
    """
    if case.kernel == "laplacian":
        return {}  # SciPy's cdist is the form that numpy's users pick
    factor = -0.5 / case.bandwidth**2 if case.kernel == "rbf" else 1.0

    def fold(x: Any, y: Any) -> tuple[Floats, Floats]:
        def norms(rows: Floats) -> Floats:
            sums: Floats = np.einsum("ij,ij->i", rows, rows)[:, None]
            return np.float32(factor) * sums

        x, y = x.numpy(), y.numpy()
        left = np.hstack([x, norms(x), np.ones_like(x[:, :1])])
        return left, np.hstack([np.float32(-2 * factor) * y, np.ones_like(y[:, :1]), norms(y)]).T

    def sums_of(block: Floats) -> Floats:
        if case.kernel == "rbf":
            np.exp(block, out=block)
        else:
            np.sqrt(np.maximum(block, 0, out=block), out=block)
        sums: Floats = block.sum(1)
        return sums

    def nearest_of(block: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
        some = np.argpartition(block, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        order = np.take_along_axis(block, some, 1).argsort(1)
        indices = np.take_along_axis(some, order, 1)
        return np.sqrt(np.maximum(np.take_along_axis(block, indices, 1), 0)), indices

    reduce = nearest_of if case.reduction == "nearest" else sums_of

    def serial(chunk: int) -> Reduce:
        def call(x: Any, y: Any) -> Any:
            left, right = fold(x, y)
            buffer = np.empty((chunk, len(y)), np.float32)
            return _joined([reduce(np.matmul(part, right, out=buffer[: len(part)])) for part in _parts(left, chunk)])

        return call

    makers: dict[str, Reduce] = {f"numpy, chunk {chunk:,}": serial(chunk) for chunk in CHUNKS}
    if case.threads > 1:
        makers["numpy, pool of threads"] = _pooled(case.threads, fold, reduce)
    return makers


def _pooled(threads: int, fold: Callable[[Any, Any], tuple[Floats, Floats]], reduce: Callable[[Floats], Any]) -> Reduce:
    from threadpoolctl import ThreadpoolController

    controller = ThreadpoolController()

    def call(x: Any, y: Any) -> Any:
        left, right = fold(x, y)
        with controller.limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
            return _joined(list(pool.map(lambda part: reduce(part @ right), _parts(left, 256))))

    return call


def _parts(rows: Floats, chunk: int) -> Iterator[Floats]:
    return (rows[start : start + chunk] for start in range(0, len(rows), chunk))


def _joined(results: list[Any]) -> Any:
    if isinstance(results[0], tuple):
        return tuple(np.concatenate(part) for part in zip(*results, strict=True))
    return np.concatenate(results)


def scikit_learn(case: Case) -> dict[str, Reduce]:
    """``pairwise_kernels``, ``pairwise_distances_chunked`` and ``NearestNeighbors``, each on as many threads."""
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.metrics.pairwise import pairwise_kernels
    from sklearn.neighbors import NearestNeighbors

    def nearest(x: Any, y: Any) -> Any:
        index = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute", n_jobs=case.threads).fit(y.numpy())
        return index.kneighbors(x.numpy())

    def distances(x: Any, y: Any) -> Any:
        return np.concatenate(
            list(pairwise_distances_chunked(x.numpy(), y.numpy(), reduce_func=lambda block, _: block.sum(1)))
        )

    def kernels(x: Any, y: Any) -> Any:
        gamma = 1 / case.bandwidth if case.kernel == "laplacian" else 0.5 / case.bandwidth**2
        options = {"metric": case.kernel, "gamma": gamma, "n_jobs": case.threads if case.kernel == "laplacian" else 1}
        return np.concatenate([pairwise_kernels(part, y.numpy(), **options).sum(1) for part in _parts(x.numpy(), 1024)])

    by_reduction = {"nearest": nearest, "mean_distance": distances}
    return {"scikit-learn": by_reduction.get(case.reduction, kernels)}


def scipy(case: Case) -> dict[str, Reduce]:
    """``scipy.spatial.distance.cdist`` in chunks of 1,024 rows."""
    from scipy.spatial.distance import cdist

    def laplacian(x: Any, y: Any) -> Any:
        blocks = (cdist(part, y.numpy(), "cityblock") for part in _parts(x.numpy(), 1024))
        return np.concatenate(
            [np.exp(np.divide(block, -case.bandwidth, out=block), out=block).sum(1) for block in blocks]
        )

    def distances(x: Any, y: Any) -> Any:
        return np.concatenate([cdist(part, y.numpy()).sum(1) for part in _parts(x.numpy(), 1024)])

    if case.kernel == "laplacian":
        return {"SciPy cdist": laplacian}
    return {"SciPy cdist": distances} if case.reduction == "mean_distance" else {}


def keops(case: Case) -> dict[str, Reduce]:
    """A ``LazyTensor`` of KeOps, compiled with ``-march=native -ffast-math``; compiling takes seconds, once."""
    flags = os.environ.get("CXXFLAGS", "")
    os.environ["CXXFLAGS"] = f"{flags} -march=native -ffast-math"  # read when pykeops is imported, and then no more
    os.environ.setdefault("PYKEOPS_VERBOSE", "0")
    try:
        from pykeops.torch import LazyTensor
    finally:
        os.environ["CXXFLAGS"] = flags

    def call(x: Any, y: Any) -> Any:
        difference = LazyTensor(x[:, None, :]) - LazyTensor(y[None, :, :])
        if case.kernel == "laplacian":
            return (-difference.abs().sum(-1) / case.bandwidth).exp().sum(1)[:, 0]
        squared = (difference**2).sum(-1)
        if case.reduction == "nearest":
            values, indices = squared.Kmin_argKmin(K=NEIGHBOURS, dim=1)
            return values.sqrt(), indices
        if case.kernel == "linear":
            return squared.sqrt().sum(1)[:, 0]
        return (squared * (-0.5 / case.bandwidth**2)).exp().sum(1)[:, 0]

    return {"KeOps": call}


def faiss(case: Case) -> dict[str, Reduce]:
    """``IndexFlatL2``, the exact index; adding the rows counts."""
    if case.reduction != "nearest":
        return {}
    from faiss import IndexFlatL2

    def nearest(x: Any, y: Any) -> Any:
        index = IndexFlatL2(case.d)
        index.add(y.numpy())
        squared, indices = index.search(x.numpy(), NEIGHBOURS)
        return np.sqrt(squared), indices

    return {"faiss": nearest}
