"""By how much RBF row means raise the peak of a process's memory: python benches/kernel_memory.py

200,000 × 20,000 rows of 64 features, float32, which are in memory before. The matrix itself would take 16 GB.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from dap import kernels as K


def peak_bytes() -> int:
    """The peak of this process's resident memory; not ru_maxrss, which Linux hands down from the parent."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs=3, default=(200_000, 20_000, 64), metavar=("N", "M", "D"))
    n, m, d = parser.parse_args().sizes
    random = np.random.default_rng(0)
    x, y = (random.standard_normal((rows, d), dtype=np.float32) for rows in (n, m))
    before, start = peak_bytes(), time.perf_counter()
    K.row_means(x, y, K.RBF(bandwidth=(2 * d) ** 0.5), "rust")
    seconds = time.perf_counter() - start
    print(f"{n:,} × {m:,} × {d}: the peak rose by {(peak_bytes() - before) / 1e6:.1f} MB in {seconds:.1f} s")


if __name__ == "__main__":
    main()
