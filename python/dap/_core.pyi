from typing import Literal, TypeAlias, TypedDict, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "build_info",
    "facility_location",
    "farthest_points",
    "gram",
    "herding",
    "k_means",
    "mean_distance",
    "nearest",
    "pair_sums",
    "plus_plus",
    "row_sums",
]

@final
class _BuildInfo(TypedDict):
    version: str
    profile: Literal["debug", "release"]
    target: str
    simd: Literal["avx512", "avx2", "portable"]
    features: list[str]

_Rows: TypeAlias = npt.NDArray[np.float32 | np.float64 | np.float16 | np.uint16]
_Kernel: TypeAlias = list[tuple[str, list[float]]]
_Sums: TypeAlias = npt.NDArray[np.float64]
_Indices: TypeAlias = npt.NDArray[np.int64]

def mean_distance(x: _Rows, y: _Rows | None, kernel: _Kernel, threads: int | None = None) -> _Sums: ...
def row_sums(
    x: _Rows, y: _Rows | None, kernel: _Kernel, weights: _Sums | None = None, threads: int | None = None
) -> _Sums: ...
def pair_sums(x: _Rows, y: _Rows | None, kernel: _Kernel, threads: int | None = None) -> tuple[_Sums, _Sums, float]: ...
def gram(
    x: _Rows,
    y: _Rows | None,
    kernel: _Kernel,
    out: npt.NDArray[np.float32 | np.float64],
    threads: int | None = None,
) -> None: ...
def nearest(
    x: _Rows, y: _Rows | None, kernel: _Kernel | None, k: int, threads: int | None = None
) -> tuple[_Sums, _Indices]: ...
def k_means(
    x: _Rows, start: _Sums, max_iter: int, tol: float, threads: int | None = None
) -> tuple[_Sums, _Indices, float, int]: ...
def plus_plus(x: _Rows, clusters: int, trials: int, seed: int, threads: int | None = None) -> _Indices: ...
def herding(
    x: _Rows, kernel: _Kernel, means: _Sums, diagonal: _Sums, count: int, threads: int | None = None
) -> _Indices: ...
def farthest_points(x: _Rows, first: int, count: int, threads: int | None = None) -> tuple[_Indices, _Sums]: ...
def facility_location(x: _Rows, kernel: _Kernel, count: int, threads: int | None = None) -> _Indices: ...
def build_info() -> _BuildInfo: ...
