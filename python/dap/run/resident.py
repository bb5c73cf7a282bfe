"""The memory of this process, and of its GPU."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

__all__ = ["process_peak", "resident_bytes"]

UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def process_peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def resident_bytes(device: torch.device) -> int:
    """Return the memory that is held now, in bytes: on the GPU of a device, or by this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    with suppress(OSError):  # only Linux has the file
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return process_peak()
