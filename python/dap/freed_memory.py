"""Freed memory that stays with the process, which makes trainings of small networks on a CPU quicker."""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["keep_freed_memory"]

OPTIONS = {"MALLOC_TRIM_THRESHOLD_": (-1, 2**30), "MALLOC_MMAP_THRESHOLD_": (-3, 2**26)}
"""glibc's variables of the environment, with the number of each option in ``mallopt`` and its value in bytes."""


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory in this process and in those that it starts from now on.

    Without it, glibc returns large blocks to the system and asks for them again in each step of a training, and the
    system fills their pages with zeros. Blocks above 64 MiB are returned as before, so that the peak grows little.
    This is a setting of the whole process that cannot be taken back, so that only commands call it. Values that the
    user gives in the environment stay.

    Example:
        >>> keep_freed_memory()
    """
    if platform.libc_ver()[0] != "glibc" or "GLIBC_TUNABLES" in os.environ:
        return
    mallopt = ctypes.CDLL(None).mallopt
    for variable, (number, value) in OPTIONS.items():
        if variable not in os.environ:
            mallopt(number, value)
            os.environ[variable] = str(value)
