"""The errors that dap raises on purpose. The command line prints each as one line.

It exits with code 2; with 1 if memory was too short, and with 75 if a run was stopped.
"""

from __future__ import annotations

__all__ = [
    "ClassMapError",
    "DapError",
    "DivergedError",
    "FormatError",
    "OptionError",
    "OutOfMemoryError",
    "RunMismatchError",
    "SourceError",
    "StoppedError",
    "StorageError",
    "UnitError",
]


class DapError(Exception):
    """Base of every error that dap raises on purpose."""


class OptionError(DapError, ValueError):
    """An option has an unknown name or a value outside its range."""


class SourceError(DapError, ValueError):
    """A source of images is missing, empty or of an unknown kind."""


class FormatError(DapError, ValueError):
    """A file is damaged, or its format is not that of its name."""


class ClassMapError(DapError, ValueError):
    """Classes cannot be matched: to the labels of a prior, or to the class map of a set that is loaded."""


class RunMismatchError(DapError, ValueError):
    """An output folder holds another run, or files that differ from the hashes in its manifest."""


class StorageError(DapError, OSError):
    """A folder is being written by another process, or its disk is full."""


class DivergedError(DapError, ArithmeticError):
    """Sampling produced a value that is infinite or not a number."""


class OutOfMemoryError(DapError, MemoryError):
    """The memory of the machine or of a device was too short."""


class UnitError(DapError, RuntimeError):
    """Some units of a run could not be made; the others are there."""


class StoppedError(DapError, RuntimeError):
    """A run was stopped before it was finished, by a signal or after its time; the same call continues it."""
