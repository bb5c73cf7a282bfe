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
from turns import Contender, Group, thread_count

from dap import selection
from dap.kernels import Distance, nearest
from dap.selection.base import Embedding

NEIGHBOURS, CLUSTERS, ROUNDS, HERDED = 10, 50, 20, 10
Floats = np.ndarray


def groups(quick: bool) -> list[Group]:
    many, class_rows = (2_000, (300,)) if quick else (100_000, (6_000, 1_300))
    return [
        search(many, 384, 1, np.float32),
        search(many, 384, 1, np.float16),
        search(many, 384, 1_000 if not quick else 30, np.float32),
        k_means(many, 64),
        k_means_start(many, 64),
        *(herding(rows, columns) for rows, columns in zip(class_rows, (384, 1_152), strict=False)),
    ]


def test_selection(take_turns, group, contender):
    take_turns(group, contender)


def draw(rows: int, columns: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)


def named(task: str, rows: int, columns: int) -> str:
    return f"{task}, {rows:,} × {columns:,}, {thread_count()} thread{'s' * (thread_count() > 1)}"


class Search:
    """Rows y, queries x, and faiss's indexes of y, which are made when they are first asked for."""

    def __init__(self, rows: int, columns: int, queries: int, dtype: type) -> None:
        self.stored, self.x = draw(rows, columns).astype(dtype), draw(queries, columns, 1).astype(dtype)
        self.y, self.x = self.stored.astype(np.float32), self.x.astype(np.float32)
        sample = self.x[:20].astype(np.float64)
        squared = np.array([np.sort(((self.y - query) ** 2).sum(1))[:NEIGHBOURS] for query in sample])
        self.expected = np.sqrt(squared)
        self.buffer = np.empty((len(self.x), len(self.y)), np.float32)

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


def search(rows: int, columns: int, queries: int, dtype: type) -> Group:
    def check(data: Search, distances: Any, rtol: float) -> None:
        found = np.asarray(distances, np.float64)[:20]
        if found.shape != data.expected.shape or not np.allclose(found, data.expected, rtol=rtol, atol=0):
            raise ValueError("distances are not those in float64")

    contenders = {
        "dap": Contender(lambda data: nearest(data.x, data.stored, NEIGHBOURS, backend="rust")[0], "dap"),
        "faiss Flat": Contender(lambda data: np.sqrt(data.flat.search(data.x, NEIGHBOURS)[0])),
        "numpy product": Contender(lambda data: np.matmul(data.x, data.y.T, out=data.buffer), "limit"),
    }
    if dtype is np.float16:
        contenders["faiss float16"] = Contender(
            lambda data: np.sqrt(data.float16.search(data.x, NEIGHBOURS)[0]), "beside"
        )
    task = f"search{', float16' * (dtype is np.float16)}, {queries:,} quer{'y' if queries == 1 else 'ies'}"
    return Group(named(task, rows, columns), partial(Search, rows, columns, queries, dtype), contenders, check)


class Clusters:
    """Rows, the centres that all start from, and what the first accepted result came to."""

    def __init__(self, rows: int, columns: int) -> None:
        self.x = draw(rows, columns)
        self.start = self.x[np.random.default_rng(1).choice(rows, CLUSTERS, replace=False)].copy()
        self.first: float | None = None

    def check(self, centers: Any, rtol: float) -> None:
        """Raise ValueError unless Σ (distance to the nearest centre)² is that of the first accepted centres."""
        potential = float((nearest(self.x, np.asarray(centers, np.float32))[0] ** 2).sum())
        self.first = potential if self.first is None else self.first
        if not abs(potential / self.first - 1) <= rtol:
            raise ValueError(f"sum of squared distances {potential:.6g}, the first one's is {self.first:.6g}")


def k_means(rows: int, columns: int) -> Group:
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

    def product(data: Clusters) -> None:
        buffer = np.empty((1024, CLUSTERS), np.float32)
        for _ in range(ROUNDS):
            for start in range(0, rows, 1024):
                part = data.x[start : start + 1024]
                np.matmul(part, data.start.T, out=buffer[: len(part)])

    contenders = {
        "dap": Contender(by_dap, "dap"),
        "scikit-learn": Contender(by_scikit_learn),
        "faiss": Contender(by_faiss),
        "numpy product": Contender(product, "limit"),
    }
    name = named(f"k-means, {CLUSTERS} clusters, {ROUNDS} rounds", rows, columns)
    return Group(name, partial(Clusters, rows, columns), contenders, Clusters.check)


def k_means_start(rows: int, columns: int) -> Group:
    def by_scikit_learn(data: Clusters) -> Any:
        from sklearn.cluster import kmeans_plusplus

        return kmeans_plusplus(data.x, CLUSTERS, random_state=0)[0]

    contenders = {  # each draws by itself, so that the sums differ by chance
        "dap": Contender(lambda data: selection.kmeans_plusplus(data.x, CLUSTERS, seed=0)[0], "dap", rtol=0.03),
        "scikit-learn": Contender(by_scikit_learn, rtol=0.03),
    }
    name = named(f"k-means++, {CLUSTERS} clusters", rows, columns)
    return Group(name, partial(Clusters, rows, columns), contenders, Clusters.check)


class Herded:
    """Rows of one class, and the MMD of the first accepted choice."""

    def __init__(self, rows: int, columns: int) -> None:
        self.x = draw(rows, columns)
        self.rows = torch.from_numpy(self.x)
        self.embedding = Embedding.of(self.x, Distance())
        self.first: float | None = None

    def check(self, indices: Any, rtol: float) -> None:
        """Raise ValueError unless the chosen rows stand for all as well as the first accepted ones."""
        error = self.embedding.select(indices).error
        self.first = error if self.first is None else self.first
        if not abs(error / self.first - 1) <= rtol:
            raise ValueError(f"MMD {error:.6g}, the first one's is {self.first:.6g}")


def herding(rows: int, columns: int) -> Group:
    def greedy(data: Herded, distances: torch.Tensor) -> Any:
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

    def by_products(data: Herded) -> Any:
        squares = (data.rows * data.rows).sum(1)
        products = torch.addmm(squares[:, None], data.rows, data.rows.T, alpha=-2)
        return greedy(data, products.add_(squares).clamp_min_(0).sqrt_())

    def half_product(data: Herded) -> None:
        buffer = np.empty((1024, rows), np.float32)
        for start in range(0, rows // 2, 1024):
            part = data.x[start : min(start + 1024, rows // 2)]
            np.matmul(part, data.x.T, out=buffer[: len(part)])

    contenders = {
        "dap": Contender(lambda data: selection.herding(data.x, HERDED).indices, "dap"),
        "torch.cdist": Contender(lambda data: greedy(data, torch.cdist(data.rows, data.rows))),
        "torch, products in place": Contender(by_products),
        "numpy half product": Contender(half_product, "limit"),
    }
    return Group(
        named(f"herding, {HERDED} rows", rows, columns), partial(Herded, rows, columns), contenders, Herded.check
    )
