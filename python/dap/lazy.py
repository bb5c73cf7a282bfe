"""Modules of a package that are imported when they are first used: ``import dap`` then suffices for all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType

__all__ = ["submodules"]


def submodules(package: str) -> Callable[[str], ModuleType]:
    """Return a ``__getattr__`` for a package, which imports the package's module of that name.

    Args:
        package: The package's ``__name__``.

    Example:
        >>> submodules("dap")("rng").derive_seed is not None
        True
    """

    def __getattr__(name: str) -> ModuleType:
        if name.startswith("_") or find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return importlib.import_module(f"{package}.{name}")

    return __getattr__
