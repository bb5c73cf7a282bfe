"""The terms of all methods, as options: they add, and a sum is a method.

    dap.distill("fashion-mini", method=dap.terms.SetEnergy(scale=0.3) + dap.terms.Mode(), out="distilled")

Each is defined in the file of its paper, in :mod:`dap.methods`.
"""

from __future__ import annotations

from dap.methods.dap import KernelDistance
from dap.methods.dap_set import SetEnergy

__all__ = ["KernelDistance", "SetEnergy"]
