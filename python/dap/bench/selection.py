"""``dap bench selection``: nearest rows, k-means, its start, herding, index reads; faiss, scikit-learn, torch beside.

Sizes are those of real use: 100,000 rows of 384 features are searched, 100,000 of 64 clustered, and herding takes 10
of a class of 6,000; a read of the index fills a tensor. All contenders start from the same rows and centres, and do the
same number of rounds; what a search index holds is prepared before, for all of them. The rules of the race are those of
:mod:`dap.bench.race`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dap import _core
from dap.bench.fields import Field
from dap.bench.index_read import index_read
from dap.bench.race import Contender
from dap.kernels import Distance, backend_rust, nearest
from dap.selection.base import Embedding

__all__ = ["CASES", "SelectionCase", "list_selection_cases"]

Floats = npt.NDArray[np.float32]

NEIGHBOURS, CLUSTERS, ROUNDS, HERDED = 10, 50, 20, 10
_TRIALS = 5  # 2 + ln 50, scikit-learn's


@dataclass(frozen=True)
class SelectionCase:
    """One task at one size.

    Args:
        task: One of :data:`CASES`.
        rows: Rows that are searched, clustered or chosen from.
        columns: Features.
        queries: Of a search.
        threads: Threads of every contender.

    Example:
        >>> print(SelectionCase("search", 100_000, 384, 1, threads=2))
        search of 100,000 × 384, 1 query, 2 threads
    """

    task: str
    rows: int
    columns: int
    queries: int
    threads: int

    @property
    def bytes_read(self) -> int | None:
        """Of the float16 rows, where a task does nothing but read them."""
        return 2 * self.rows * self.columns if self.task == "index read to torch" else None

    def field(self) -> Field:
        """The contenders and their check."""
        return CASES[self.task](self)

    def __str__(self) -> str:
        """One line for people."""
        queries = f", {self.queries:,} quer{'y' if self.queries == 1 else 'ies'}" if self.queries else ""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.task} of {self.rows:,} × {self.columns}{queries}, {threads}"


def list_selection_cases(quick: bool = False, threads: tuple[int, ...] = ()) -> list[SelectionCase]:
    """The cases of ``dap bench selection``, with one thread and with torch's own number unless told.

    Example:
        >>> len(list_selection_cases(quick=True, threads=(1,)))
        7
    """
    many, class_rows = (2_000, 300) if quick else (100_000, 6_000)
    sizes = [
        ("search", many, 384, 1), ("search, float16", many, 384, 1), ("search", many, 384, 1_000),
        ("k-means", many, 64, 0), ("k-means++", many, 64, 0), ("herding", class_rows, 384, 0),
        ("index read to torch", many, 384, 0),
    ]  # fmt: skip
    counts = dict.fromkeys(threads or (1, torch.get_num_threads()))
    return [SelectionCase(*size, threads=count) for count in counts for size in sizes]


def _draw(rows: int, columns: int, seed: int) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)


def _search(case: SelectionCase) -> Field:
    import faiss

    faiss.cvar.distance_compute_blas_threshold = 20
    y, x = _draw(case.rows, case.columns, 0), _draw(case.queries, case.columns, 1)
    if half := case.task.endswith("float16"):
        y, x = (rows.astype(np.float16).astype(np.float32) for rows in (y, x))
    kept = y.astype(np.float16) if half else y
    index = faiss.IndexFlatL2(case.columns)
    index.add(y)
    sample = slice(0, 20)
    queries = x[sample].astype(np.float64)
    expected = np.array([np.sqrt(np.sort(((y - query) ** 2).sum(1))[:NEIGHBOURS]) for query in queries])

    def check(result: Any, rtol: float) -> None:
        found = np.asarray(result, np.float64)[sample]
        if not np.allclose(found, expected, rtol=rtol, atol=0):
            raise ValueError(f"distances off by {np.abs(found / expected - 1).max():.1e} of their value")

    contenders = [
        Contender("dap", lambda: backend_rust.nearest(x, kept, None, NEIGHBOURS, threads=case.threads)[0], "dap"),
        Contender("faiss Flat", lambda: np.sqrt(index.search(x, NEIGHBOURS)[0])),
    ]
    if half:
        scalar = faiss.IndexScalarQuantizer(case.columns, faiss.ScalarQuantizer.QT_fp16)
        scalar.train(y[:1])
        scalar.add(y)
        contenders.append(Contender("faiss float16", lambda: np.sqrt(scalar.search(x, NEIGHBOURS)[0]), "beside"))
    return contenders, check


def _k_means(case: SelectionCase) -> Field:
    import faiss
    from sklearn.cluster import KMeans

    x = _draw(case.rows, case.columns, 0)
    start = x[np.random.default_rng(1).choice(case.rows, CLUSTERS, replace=False)].copy()
    inertias: list[float] = []

    def by_dap() -> Any:
        return _core.k_means(x, start.astype(np.float64), ROUNDS, 0.0, case.threads)[0].astype(np.float32)

    def by_scikit_learn() -> Any:
        means = KMeans(CLUSTERS, init=start, n_init=1, max_iter=ROUNDS, tol=0, algorithm="lloyd")
        return means.fit(x).cluster_centers_

    def by_faiss() -> Any:
        means = faiss.Kmeans(case.columns, CLUSTERS, niter=ROUNDS, max_points_per_centroid=case.rows)
        means.train(x, init_centroids=start)
        return means.centroids

    def check(centers: Any, rtol: float) -> None:
        inertia = float((nearest(x, centers)[0] ** 2).sum())
        inertias.append(inertia)
        if abs(inertia / inertias[0] - 1) > rtol:
            raise ValueError(f"inertia {inertia:.6g}, the first one's is {inertias[0]:.6g}")

    rivals = [Contender("scikit-learn", _quietly(by_scikit_learn)), Contender("faiss", by_faiss)]
    return [Contender("dap", by_dap, "dap"), *rivals], check


def _plus_plus(case: SelectionCase) -> Field:
    from sklearn.cluster import kmeans_plusplus

    x = _draw(case.rows, case.columns, 0)
    sums: list[float] = []

    def check(indices: Any, rtol: float) -> None:
        potential = float((nearest(x, x[indices])[0] ** 2).sum())
        sums.append(potential)
        if abs(potential / sums[0] - 1) > rtol or len(set(indices.tolist())) < CLUSTERS:
            raise ValueError(f"sum of squared distances {potential:.4g}, the first one's is {sums[0]:.4g}")

    # Each draws by itself, so that the sums differ by chance.
    return [
        Contender("dap", lambda: _core.plus_plus(x, CLUSTERS, _TRIALS, 0, case.threads), "dap", rtol=0.03),
        Contender("scikit-learn", lambda: kmeans_plusplus(x, CLUSTERS, random_state=0)[1], rtol=0.03),
    ], check


def _herding(case: SelectionCase) -> Field:
    x, kernel = _draw(case.rows, case.columns, 0), Distance()
    rows = torch.from_numpy(x)
    embedding = Embedding.of(x, kernel)
    errors: list[float] = []

    def by_dap() -> Any:
        means = backend_rust.row_sums(x, None, kernel, threads=case.threads) / len(x)
        diagonal = backend_rust.diagonal(x, kernel)
        return _core.herding(x, backend_rust.specification(kernel), means, diagonal, HERDED, case.threads)

    def greedy(matrix: torch.Tensor) -> Any:
        means, sums = matrix.mean(1), matrix.diagonal() / 2
        chosen: list[int] = []
        for turn in range(1, HERDED + 1):
            scores = means - sums / turn
            scores[chosen] = -torch.inf
            chosen.append(int(scores.argmax()))
            sums = sums + matrix[chosen[-1]]
        return np.array(chosen)

    def by_cdist() -> Any:
        norms = rows.norm(dim=1)
        return greedy(torch.cdist(rows, rows).neg_().add_(norms[:, None]).add_(norms))

    def by_products() -> Any:
        squares = (rows * rows).sum(1)
        distances = torch.addmm(squares[:, None], rows, rows.T, alpha=-2).add_(squares).clamp_min_(0).sqrt_()
        norms = squares.sqrt()
        return greedy(distances.neg_().add_(norms[:, None]).add_(norms))

    def check(indices: Any, rtol: float) -> None:
        errors.append(embedding.select(indices).error)
        if abs(errors[-1] / errors[0] - 1) > rtol:
            raise ValueError(f"MMD {errors[-1]:.6g}, the first one's is {errors[0]:.6g}")

    rivals = [Contender("torch.cdist", by_cdist), Contender("torch, products in place", by_products)]
    return [Contender("dap", by_dap, "dap"), *rivals], check


def _quietly(call: Callable[[], Any]) -> Callable[[], Any]:
    """Without scikit-learn's warning that so few rounds do not converge."""
    import warnings

    def quiet() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()

    return quiet


CASES: dict[str, Callable[[SelectionCase], Field]] = {
    "search": _search,
    "search, float16": _search,
    "k-means": _k_means,
    "k-means++": _plus_plus,
    "herding": _herding,
    "index read to torch": lambda case: index_read(case.rows, case.columns),
}
"""What makes the contenders of a task, and the check of their results."""
