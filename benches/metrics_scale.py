"""Seconds and peak memory of metrics at the size of ImageNet-1K: python benches/metrics_scale.py

1,000 distilled rows and 1,280,000 real ones of 256 random features, which take 1.2 GiB. Memory is by how much the peak
of the process has risen since the features were there.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from dap import metrics

BLOCK = 64_000


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=int, default=1_280_000)
    parser.add_argument("--distilled", type=int, default=1_000)
    parser.add_argument("--features", type=int, default=256)
    args = parser.parse_args()
    draw = np.random.default_rng(0)
    real = np.empty((args.real, args.features), np.float32)
    for start in range(0, args.real, BLOCK):
        part = real[start : start + BLOCK]
        part[:] = draw.standard_normal(part.shape, np.float32)
    distilled = draw.standard_normal((args.distilled, args.features), np.float32)
    before = peak_mib()
    computed = {
        "fid": lambda: metrics.fid(distilled, real),
        "nearest_real, authenticity": lambda: metrics.nearest_real(distilled, real),
        "kid, 20 subsets": lambda: metrics.kid(distilled, real, subsets=20),
    }
    print("| metric | seconds | MiB beside the features |\n|---|---|---|")
    for name, compute in computed.items():
        start_time = time.perf_counter()
        compute()
        print(f"| {name} | {time.perf_counter() - start_time:.0f} | {peak_mib() - before:.0f} |", flush=True)


if __name__ == "__main__":
    main()
