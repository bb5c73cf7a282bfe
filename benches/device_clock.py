"""The clock of benches/device.py: the time that is left, and the memory and duration of what runs on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from scale import GB


class Clock:
    """The time that is left, and the memory and duration of what runs on a device."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self.end = device, time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def measure(self, run: Callable[[], object]) -> tuple[float, int | None]:
        """Seconds and peak bytes of the second of two calls; None where the device does not tell its memory."""
        cuda = self.device.type == "cuda"
        run()
        self.wait()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        held = torch.cuda.memory_allocated(self.device) if cuda else 0
        start = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - start, torch.cuda.max_memory_allocated(self.device) - held if cuda else None


def shown(peak: int | None) -> str:
    """A peak of memory in GB."""
    return "" if peak is None else f"{peak / GB:.2f}"
