"""Search, k-means, its start and herding beside faiss, scikit-learn and torch.

100,000 rows are searched and clustered; herding takes 10 of a class of 6,000 and of 1,300. All start from the same rows
and centres and do the same number of rounds; what a search index holds is prepared before. Limits are bare products.
"""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import numpy as np
import torch
from turns import Contender, Group, named

from dap import selection
from dap.kernels import Distance, nearest
from dap.selection.base import Embedding

NEIGHBOURS, CLUSTERS, ROUNDS, HERDED = 10, 50, 20, 10


def groups(quick: bool) -> list[Group]:
    many, few = (2_000, 300) if quick else (100_000, 6_000)
    queries = 30 if quick else 1_000
    searches = [
        _search(many, 384, count, dtype) for count, dtype in ((1, "float32"), (1, "float16"), (queries, "float32"))
    ]
    return [
        *searches,
        _k_means(many, 64),
        _k_means_start(many, 64),
        _herding(few, 384),
        _herding(few // 5 + 100, 1_152),
    ]


def test_selection(take_turns, group, contender):
    take_turns(group, contender)


def _draw(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)


def _product(x: np.ndarray, y: np.ndarray, times: int = 1) -> None:
    buffer = np.empty((min(1024, len(x)), len(y)), np.float32)
    for start in [*range(0, len(x), 1024)] * times:
        part = x[start : start + 1024]
        np.matmul(part, y.T, out=buffer[: len(part)])


class Search:
    """Queries x and rows y, as they are stored and in float32; faiss's indexes are made when they are asked for."""

    def __init__(self, rows: int, columns: int, queries: int, dtype: str) -> None:
        self.stored = _draw(rows, columns).astype(dtype)
        self.y, self.x = (part.astype(dtype).astype(np.float32) for part in (self.stored, _draw(queries, columns, 1)))
        squared = [((self.y - query) ** 2).sum(1) for query in self.x[:20].astype(np.float64)]
        self.expected = np.sqrt(np.sort(squared, 1)[:, :NEIGHBOURS])

    @functools.cached_property
    def flat(self) -> Any:
        import faiss

        faiss.cvar.distance_compute_blas_threshold = 20
        index = faiss.IndexFlatL2(self.y.shape[1])
        index.add(self.y)
        return index

    @functools.cached_property
    def float16(self) -> Any:
        import faiss

        index = faiss.IndexScalarQuantizer(self.y.shape[1], faiss.ScalarQuantizer.QT_fp16)
        index.train(self.y[:1])
        index.add(self.y)
        return index

    def check(self, distances: Any, rtol: float) -> None:
        found = np.asarray(distances, np.float64)[:20]
        if found.shape != self.expected.shape or not np.allclose(found, self.expected, rtol=rtol, atol=0):
            raise ValueError("distances are not those in float64")


def _search(rows: int, columns: int, queries: int, dtype: str) -> Group:
    contenders = {
        "dap": Contender(lambda data: nearest(data.x, data.stored, NEIGHBOURS, backend="rust")[0], "dap"),
        "faiss Flat": Contender(lambda data: np.sqrt(data.flat.search(data.x, NEIGHBOURS)[0])),
        "numpy product": Contender(lambda data: _product(data.x, data.y), "limit"),
    }
    if dtype == "float16":
        by_faiss = Contender(lambda data: np.sqrt(data.float16.search(data.x, NEIGHBOURS)[0]), "beside")
        contenders["faiss float16"] = by_faiss
    task = f"search, {queries:,} quer{'y' if queries == 1 else 'ies'}, {dtype}"
    name = named(task, f"{rows:,} × {columns:,}")
    return Group(name, partial(Search, rows, columns, queries, dtype), contenders, Search.check)


class Clusters:
    """Rows, the centres that all start from, and what the first accepted result came to."""

    def __init__(self, rows: int, columns: int) -> None:
        self.x = _draw(rows, columns)
        self.start = self.x[np.random.default_rng(1).choice(rows, CLUSTERS, replace=False)].copy()
        self.first: float | None = None

    def check(self, centers: Any, rtol: float) -> None:
        """Raise ValueError unless Σ (distance to the nearest centre)² is that of the first accepted centres."""
        potential = float((nearest(self.x, np.asarray(centers, np.float32))[0] ** 2).sum())
        self.first = potential if self.first is None else self.first
        if not abs(potential / self.first - 1) <= rtol:
            raise ValueError(f"sum of squared distances {potential:.6g}, the first one's is {self.first:.6g}")


def _k_means(rows: int, columns: int) -> Group:
    def by_dap(data: Clusters) -> Any:
        return selection.k_means(data.x, CLUSTERS, init=data.start, max_iter=ROUNDS, tol=0.0).cluster_centers

    def by_scikit_learn(data: Clusters) -> Any:
        from sklearn.cluster import KMeans

        means = KMeans(CLUSTERS, init=data.start, n_init=1, max_iter=ROUNDS, tol=0, algorithm="lloyd")
        return means.fit(data.x).cluster_centers_

    def by_faiss(data: Clusters) -> Any:
        import faiss

        means = faiss.Kmeans(columns, CLUSTERS, niter=ROUNDS, max_points_per_centroid=rows)
        means.train(data.x, init_centroids=data.start)
        return means.centroids

    contenders = {
        "dap": Contender(by_dap, "dap"),
        "scikit-learn": Contender(by_scikit_learn),
        "faiss": Contender(by_faiss),
        "numpy product": Contender(lambda data: _product(data.x, data.start, ROUNDS), "limit"),
    }
    name = named(f"k-means, {CLUSTERS} clusters, {ROUNDS} rounds", f"{rows:,} × {columns:,}")
    return Group(name, partial(Clusters, rows, columns), contenders, Clusters.check)


def _k_means_start(rows: int, columns: int) -> Group:
    def by_scikit_learn(data: Clusters) -> Any:
        from sklearn.cluster import kmeans_plusplus

        return kmeans_plusplus(data.x, CLUSTERS, random_state=0)[0]

    contenders = {  # each draws by itself, so that the sums differ by chance
        "dap": Contender(lambda data: selection.kmeans_plusplus(data.x, CLUSTERS, seed=0)[0], "dap", rtol=0.03),
        "scikit-learn": Contender(by_scikit_learn, rtol=0.03),
    }
    name = named(f"k-means++, {CLUSTERS} clusters", f"{rows:,} × {columns:,}")
    return Group(name, partial(Clusters, rows, columns), contenders, Clusters.check)


class Herded:
    """Rows of one class, and the MMD of the first accepted choice."""

    def __init__(self, rows: int, columns: int) -> None:
        self.x = _draw(rows, columns)
        self.rows = torch.from_numpy(self.x)
        self.embedding = Embedding.of(self.x, Distance())
        self.first: float | None = None

    def check(self, indices: Any, rtol: float) -> None:
        """Raise ValueError unless the chosen rows stand for all as well as the first accepted ones."""
        error = self.embedding.select(indices).error
        self.first = error if self.first is None else self.first
        if not abs(error / self.first - 1) <= rtol:
            raise ValueError(f"MMD {error:.6g}, the first one's is {self.first:.6g}")


def _herding(rows: int, columns: int) -> Group:
    def greedy(data: Herded, distances: torch.Tensor) -> np.ndarray:
        norms = data.rows.norm(dim=1)
        matrix = distances.neg_().add_(norms[:, None]).add_(norms)
        means, sums = matrix.mean(1), matrix.diagonal() / 2
        chosen: list[int] = []
        for turn in range(1, HERDED + 1):
            scores = means - sums / turn
            scores[chosen] = -torch.inf
            chosen.append(int(scores.argmax()))
            sums = sums + matrix[chosen[-1]]
        return np.array(chosen)

    def by_products(data: Herded) -> np.ndarray:
        squares = (data.rows * data.rows).sum(1)
        products = torch.addmm(squares[:, None], data.rows, data.rows.T, alpha=-2)
        return greedy(data, products.add_(squares).clamp_min_(0).sqrt_())

    contenders = {
        "dap": Contender(lambda data: selection.herding(data.x, HERDED).indices, "dap"),
        "torch.cdist": Contender(lambda data: greedy(data, torch.cdist(data.rows, data.rows))),
        "torch, products in place": Contender(by_products),
        "numpy half product": Contender(lambda data: _product(data.x[: rows // 2], data.x), "limit"),
    }
    name = named(f"herding, {HERDED} rows", f"{rows:,} × {columns:,}")
    return Group(name, partial(Herded, rows, columns), contenders, Herded.check)
