"""Which real images stand for a class."""

from __future__ import annotations

from dap.selection.random import permutation, random_per_class

__all__ = ["permutation", "random_per_class"]
