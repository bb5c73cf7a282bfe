"""The guides under their short names; only ``lgd`` has none. Guides can be added, and a sum is a method.

    dap.distill("fashion-mini", method=dap.terms.SetEnergy() + dap.terms.Mode(), out="distilled")

Each guide is defined in the file of its paper, in :mod:`dap.methods`.
"""

from __future__ import annotations

from dap.methods.cgs import ClassMean
from dap.methods.coda import Representative
from dap.methods.common.network_guide import NetworkKernel
from dap.methods.dap import KernelDistance
from dap.methods.dap_set import SetEnergy
from dap.methods.dmgd import Transport
from dap.methods.igd import Influence
from dap.methods.manifold_gd import ManifoldMode
from dap.methods.mgd3 import Mode

__all__ = [
    "ClassMean", "Influence", "KernelDistance", "ManifoldMode", "Mode", "NetworkKernel", "Representative", "SetEnergy",
    "Transport",
]  # fmt: skip
