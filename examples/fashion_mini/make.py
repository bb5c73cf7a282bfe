"""Makes dap's built-in source ``fashion-mini`` from Fashion-MNIST: 1,000 train images a class, all test images.

    python examples/fashion_mini/make.py --data /usr/share/datasets/fashion-mnist

The train images are the first of each class; all keep the order of Fashion-MNIST's own files. Takes some seconds; the
same input gives the same files.
"""

from __future__ import annotations

import argparse
import lzma
import struct
from pathlib import Path

import numpy as np

from dap.data.idx import read_idx
from dap.storage.files import write_atomic

PER_CLASS, MAX_BYTES = 1000, 9_000_000


def idx_bytes(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in np.unique(labels)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path("python/dap/assets/fashion_mini"))
    args = parser.parse_args()

    total = 0
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(args.data / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(args.data / f"{prefix}-labels-idx1-ubyte.gz")
        kept = first_of_each_class(labels, PER_CLASS) if split == "train" else np.arange(len(labels))
        for kind, values in (("images", images[kept]), ("labels", labels[kept])):
            data = lzma.compress(idx_bytes(values), preset=9 | lzma.PRESET_EXTREME)
            write_atomic(args.out / f"{split}-{kind}.idx.xz", data)
            total += len(data)
            print(f"{split}-{kind}.idx.xz: {values.shape}, {len(data):,} bytes")
    if total > MAX_BYTES:
        raise SystemExit(f"{total:,} bytes together, more than the {MAX_BYTES:,} that may ship")


if __name__ == "__main__":
    main()
