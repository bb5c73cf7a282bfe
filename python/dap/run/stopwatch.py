"""Time that a part of a run takes: on the clock, and of the processor."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

__all__ = ["NO_TIME", "Spent", "Stopwatch", "since_start"]


class Spent(tuple[float, float]):
    """Seconds on the clock, and seconds of this process on all cores; they add, and a number multiplies them.

    Example:
        >>> Spent((1.0, 2.0)) + Spent((0.5, 0.5)) * 2
        (2.0, 3.0)
    """

    __slots__ = ()

    def __add__(self, other: tuple[float, float]) -> Spent:  # type: ignore[override]
        return Spent(mine + theirs for mine, theirs in zip(self, other, strict=True))

    def __mul__(self, factor: float) -> Spent:  # type: ignore[override]
        return Spent(value * factor for value in self)

    def __sub__(self, other: tuple[float, float]) -> Spent:
        return Spent(max(0.0, mine - theirs) for mine, theirs in zip(self, other, strict=True))


NO_TIME = Spent((0.0, 0.0))


class Stopwatch:
    """Counts from when it is made; a GPU's work that was begun is waited for.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begin = self._now()

    def read(self) -> Spent:
        """Return the time since the start."""
        return self._now() - self._begin

    def _now(self) -> Spent:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return Spent((time.perf_counter(), time.process_time()))


def since_start() -> Spent:
    """Return the time of this process since it was started; on systems without /proc that of its processor alone."""
    cpu = time.process_time()
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # since the machine's start
    except OSError:
        return Spent((cpu, cpu))
    return Spent((time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"), cpu))
