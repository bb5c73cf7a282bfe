"""The machine that a bench runs on: its processor, and whether it executes 512-bit products at full or at half rate."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import torch
from cpuinfo import get_cpu_info
from turns import thread_count

from dap import _core

PACKAGES = ("torch", "numpy", "scikit-learn", "scipy", "pykeops", "faiss-cpu", "torchvision", "webdataset", "Pillow",
            "simplejpeg", "opencv-python-headless")  # fmt: skip

_SGEMM = """
import time, numpy, threadpoolctl
a = numpy.random.default_rng(0).standard_normal((1024, 1024), dtype=numpy.float32)
b, out = a.T.copy(), numpy.empty_like(a)
with threadpoolctl.threadpool_limits(1):
    best = 1e9
    for _ in range(8):
        start = time.perf_counter()
        numpy.matmul(a, b, out=out)
        best = min(best, time.perf_counter() - start)
names = [pool.get("architecture", "") for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
print(2e-9 * 1024**3 / best, *names)
"""


@functools.cache
def describe_machine() -> dict[str, object]:
    """Return what is written beside each time: processor, threads, build of dap, versions of the libraries."""
    cpu = get_cpu_info()
    flags = [flag for flag in cpu.get("flags", []) if flag.startswith(("avx", "fma", "f16c", "amx", "sse4", "asimd"))]
    return {
        "cpu": cpu.get("brand_raw", "unknown"),
        "family": cpu.get("family"),
        "model": cpu.get("model"),
        "flags": flags,
        "avx512": avx512_rate(flags),
        "threads": thread_count(),
        "load": round(os.getloadavg()[0], 1),
        "build": _core.build_info(),
        "torch_simd": torch.backends.cpu.get_cpu_capability(),
        "versions": {package: _version(package) for package in PACKAGES},
    }


def avx512_rate(flags: list[str]) -> str:
    """Return "full", "half", "none" or "unknown", from the time of one SGEMM by OpenBLAS with and without AVX-512.

    A core that executes 512-bit products at half rate (Zen 4) is hardly quicker with them than with 256-bit ones;
    one that executes them at full rate (Zen 5, Intel's servers) is nearly twice as quick.
    """
    if "avx512f" not in flags:
        return "none"
    wide, narrow = _sgemm("SkylakeX"), _sgemm("Haswell")
    if wide is None or narrow is None:
        return "unknown"
    return "full" if wide / narrow > 1.4 else "half"


def _sgemm(core: str) -> float | None:
    """Return GFLOP/s of one thread with OpenBLAS's kernels for ``core``; None if numpy has another BLAS."""
    environment = os.environ | {"OPENBLAS_CORETYPE": core}
    done = subprocess.run([sys.executable, "-c", _SGEMM], env=environment, capture_output=True, text=True, check=True)
    speed, *names = done.stdout.split()
    return float(speed) if core in names else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
