from typing import Literal, TypedDict, final

import numpy as np
import numpy.typing as npt

__all__ = ["build_info", "mean_distance", "row_sums"]

@final
class _BuildInfo(TypedDict):
    version: str
    profile: Literal["debug", "release"]
    target: str
    simd: Literal["avx512", "avx2", "portable"]
    features: list[str]

def mean_distance(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    kernel: str,
    bandwidth: float | None = None,
    threads: int | None = None,
) -> npt.NDArray[np.float64]: ...
def row_sums(
    x: npt.NDArray[np.float32],
    y: npt.NDArray[np.float32],
    kernel: str,
    bandwidth: float | None = None,
    threads: int | None = None,
) -> npt.NDArray[np.float64]: ...
def build_info() -> _BuildInfo: ...
