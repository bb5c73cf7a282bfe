"""How far a reduction raises the peak of its process's memory, in a process of its own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["peak_bytes", "peak_of_row_means", "rise_of_peak"]


def peak_of_row_means(n: int, m: int, d: int, threads: int) -> tuple[int, float]:
    """The row means of an RBF kernel over float32 rows, (n, d) and (m, d), by dap in a new Python.

    Returns:
        The bytes by which the peak of resident memory rose during the call, the inputs being in memory before, and the
        seconds that the call took (a single one, the first).

    Example:
        >>> rise, seconds = peak_of_row_means(2_000, 500, 8, threads=1)
        >>> rise < 200e6
        True
    """
    command = [sys.executable, "-m", "dap.bench.memory", *map(str, (n, m, d, threads))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    answer = json.loads(done.stdout)
    return answer["bytes"], answer["seconds"]


def rise_of_peak(call: Callable[[], Any]) -> tuple[int, float]:
    """The bytes by which the peak of this process rises during the call, and the seconds that the call takes."""
    before, start = peak_bytes(), time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return peak_bytes() - before, seconds


def peak_bytes() -> int:
    """The peak of this process's resident memory so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: Linux hands that of the parent down through exec, and a large parent would hide every rise.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: in bytes, and of this process alone


def _measure(n: int, m: int, d: int, threads: int) -> None:
    import numpy as np

    from dap.kernels import RBF, backend_rust

    random = np.random.default_rng(0)
    x, y = (random.standard_normal((rows, d), dtype=np.float32) for rows in (n, m))
    kernel = RBF(bandwidth=math.sqrt(2 * d))
    rise, seconds = rise_of_peak(lambda: backend_rust.row_sums(x, y, kernel, threads=threads) / m)
    json.dump({"bytes": rise, "seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    _measure(*map(int, sys.argv[1:]))
