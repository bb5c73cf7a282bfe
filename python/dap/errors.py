"""The errors that dap raises on purpose. The command line prints each as one line and exits with code 2."""

from __future__ import annotations

__all__ = [
    "ClassMapError",
    "DapError",
    "DivergedError",
    "FormatError",
    "OptionError",
    "RunMismatchError",
    "SourceError",
]


class DapError(Exception):
    """Base of every error that dap raises on purpose."""


class OptionError(DapError, ValueError):
    """An option has an unknown name or a value outside its range."""


class SourceError(DapError, ValueError):
    """A source of images is missing, empty or of an unknown kind."""


class FormatError(DapError, ValueError):
    """A file is corrupt or not of the format that its name promises."""


class ClassMapError(DapError, ValueError):
    """The source has classes that the prior does not know, and nothing says how to map them."""


class RunMismatchError(DapError, ValueError):
    """An output folder holds another run, or files that do not match its manifest."""


class DivergedError(DapError, ArithmeticError):
    """Sampling produced a value that is not finite."""
