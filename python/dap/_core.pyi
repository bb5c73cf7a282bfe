import os
from typing import Literal, TypeAlias, TypedDict, final

import numpy as np
import numpy.typing as npt

__all__ = [
    "TarWriter",
    "augment",
    "build_info",
    "create_tensors",
    "crop_square",
    "decode_image",
    "decode_square",
    "encode_image",
    "facility_location",
    "farthest_points",
    "finish_tensors",
    "gram",
    "hash_blocks",
    "herding",
    "image_info",
    "k_means",
    "mean_distance",
    "nearest",
    "pair_sums",
    "plus_plus",
    "read_layout",
    "resized_crops",
    "row_sums",
    "scan_tar",
    "verify_blocks",
    "write_rows",
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
_Path: TypeAlias = str | os.PathLike[str]
_Indices: TypeAlias = npt.NDArray[np.int64]
_Bytes: TypeAlias = npt.NDArray[np.uint8]

def mean_distance(
    x: _Rows, y: _Rows | None, kernel: _Kernel, weights: _Sums | None = None, threads: int | None = None
) -> _Sums: ...
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
def create_tensors(path: _Path, tensors: list[tuple[str, str, list[int]]]) -> None: ...
def write_rows(path: _Path, row: int, tensors: list[tuple[str, npt.NDArray[np.float32 | np.float16]]]) -> None: ...
def finish_tensors(path: _Path) -> None: ...
def read_layout(path: _Path) -> list[tuple[str, str, list[int], int]]: ...
def hash_blocks(path: _Path, block_bytes: int, threads: int | None = None) -> list[str]: ...
def verify_blocks(path: _Path, block_bytes: int, hashes: list[str], threads: int | None = None) -> None: ...
def k_means(
    x: _Rows, start: _Sums, max_iter: int, tol: float, threads: int | None = None
) -> tuple[_Sums, _Indices, float, int]: ...
def plus_plus(x: _Rows, clusters: int, trials: int, seed: int, threads: int | None = None) -> _Indices: ...
def herding(
    x: _Rows, kernel: _Kernel, means: _Sums, diagonal: _Sums, count: int, threads: int | None = None
) -> _Indices: ...
def farthest_points(x: _Rows, first: int, count: int, threads: int | None = None) -> tuple[_Indices, _Sums]: ...
def facility_location(x: _Rows, kernel: _Kernel, count: int, threads: int | None = None) -> _Indices: ...
def image_info(
    data: bytes, max_pixels: int
) -> tuple[Literal["png", "jpeg"], int, bytes | None, bytes | None] | None: ...
def decode_image(data: bytes, max_pixels: int) -> _Bytes: ...
def decode_square(data: bytes, orientation: int, out: _Bytes, filter: str, max_pixels: int) -> None: ...
def crop_square(pixels: _Bytes, orientation: int, out: _Bytes, filter: str) -> None: ...
def augment(
    images: _Bytes,
    rows: npt.NDArray[np.int64],
    corners: npt.NDArray[np.int64],
    flips: npt.NDArray[np.bool_],
    factors: npt.NDArray[np.float32] | None,
    normal: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
    threads: int | None = None,
) -> None: ...
def resized_crops(
    images: _Bytes,
    rows: npt.NDArray[np.int64],
    strips: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.int64],
    flips: npt.NDArray[np.bool_],
    colours: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
    threads: int | None = None,
) -> None: ...
def encode_image(planes: _Bytes, format: str) -> bytes: ...
def scan_tar(path: _Path) -> tuple[list[str], npt.NDArray[np.uint64], npt.NDArray[np.uint64]]: ...

@final
class TarWriter:
    def __new__(cls, path: _Path) -> TarWriter: ...
    def append(self, members: list[tuple[str, bytes]]) -> None: ...
    def finish(self) -> str: ...
    def discard(self) -> None: ...

def build_info() -> _BuildInfo: ...
