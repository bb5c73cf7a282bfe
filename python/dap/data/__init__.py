"""Labelled images on their way in and out: sources, class names and maps, atomic files, the built-in data."""

from typing import TYPE_CHECKING

from dap.lazy import submodules

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
