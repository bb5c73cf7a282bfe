"""``dap bench kernels``: the kernel reductions beside torch, numpy, scikit-learn, SciPy, KeOps and faiss."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dap._core import build_info
from dap.bench.cases import Case, Referee
from dap.bench.contenders import line_up
from dap.bench.memory import peak_of_row_means
from dap.bench.race import Timing, race
from dap.bench.threads import equal_threads
from dap.errors import OptionError

__all__ = ["Row", "describe_machine", "measure", "measure_memory"]

Row = dict[str, Any]
"""One contender in one case, JSON-able; what is not known is None."""

_PACKAGES = ("torch", "numpy", "scikit-learn", "scipy", "pykeops", "faiss-cpu")


def measure(case: Case, rounds: int, with_compiled: bool = True) -> list[Row]:
    """All contenders in one case.

    Args:
        case: Which reduction, at which size, on how many threads.
        rounds: Calls that are timed, for each contender; at least 1, and 9 or more for numbers that are written down.
        with_compiled: Whether torch.compile and KeOps take part, whose compilers need seconds for each size.

    Returns:
        The rows from the fastest to the slowest, then those without a time, with the ``reason``. ``role`` is "dap",
        "rival" or "beside" (shown, but no rival: float32 copies made before, less exact arithmetic).
        ``ratio_to_best_rival`` is the median of the best rival over that of the row: above 1, the row is faster.

    Raises:
        OptionError: If dap is a debug build, or threadpoolctl is not installed.
    """
    if build_info()["profile"] != "release":
        raise OptionError(
            "dap is built for debugging, which measures nothing: build it with 'maturin develop --release'"
        )
    x, y = case.rows()
    referee = Referee(case, x, y)
    with equal_threads(case.threads):
        contenders, missing = line_up(case, x, y, with_compiled)
    with equal_threads(case.threads):  # again, for the libraries that were loaded just now
        timings, failures = race(contenders, rounds, referee.check)
    roles = {contender.name: contender.role for contender in contenders}
    rivals = {name: timing.quartiles[1] for name, timing in timings.items() if roles[name] == "rival"}
    best = min(rivals, key=lambda name: rivals[name], default=None)
    order = sorted(timings, key=lambda name: timings[name].quartiles[1])
    measured = [_row(case, name, roles[name], timings[name], best, rivals) for name in order]
    absent = [
        _row(case, name, roles.get(name, "rival"), reason=reason) for name, reason in (failures | missing).items()
    ]
    return measured + absent


def measure_memory(threads: int, quick: bool = False) -> Row:
    """The row means of an RBF kernel over 200,000 × 20,000 rows of 64 features, in a process of its own.

    Returns:
        A row as those of :func:`measure`, with ``peak_beyond_inputs_mb``, in 10⁶ bytes, and the seconds of one call.

    Raises:
        OptionError: If the other process fails.
    """
    n, m, d = (2_000, 500, 8) if quick else (200_000, 20_000, 64)
    rise, seconds = peak_of_row_means(n, m, d, threads)
    return _row(Case("rbf", "row_means", n, m, d, threads), "dap", "dap", Timing((seconds,)), peak=rise / 1e6)


def describe_machine() -> dict[str, str]:
    """The processor, the system, its load over a minute, how dap was built, and the versions of the rivals."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    build = build_info()
    facts = {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "system": platform.platform(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "dap": f"{build['version']} ({build['profile']}, {build['simd']})",
    }
    for package in _PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _row(
    case: Case,
    contender: str,
    role: str,
    timing: Timing | None = None,
    best: str | None = None,
    rivals: dict[str, float] | None = None,
    reason: str | None = None,
    peak: float | None = None,
) -> Row:
    first, median, third = timing.quartiles if timing else (None, None, None)
    return {
        "kernel": case.kernel,
        "reduction": case.reduction,
        "contender": contender,
        "role": role,
        "n": case.n,
        "m": case.m,
        "d": case.d,
        "dtype": case.dtype,
        "threads": case.threads,
        "rounds": len(timing.seconds) if timing else 0,
        "median_s": median,
        "q1_s": first,
        "q3_s": third,
        "best_rival": best,
        "ratio_to_best_rival": rivals[best] / median if rivals and best and median else None,
        "peak_beyond_inputs_mb": peak,
        "reason": reason,
    }
