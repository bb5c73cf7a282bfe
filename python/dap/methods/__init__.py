"""Methods: one paper, one file. ``get_method`` turns a name, a preset or an object into a method."""

from __future__ import annotations

from dap.methods.base import AnyMethod, Context, Method, Slot, Unit
from dap.methods.cao2 import CaO2
from dap.methods.cgs import CGS
from dap.methods.coda import CoDA
from dap.methods.common.guides import TERMS, AnyGuide, Guide, Guided, SingleGuide
from dap.methods.common.registry import METHODS, MethodInfo, get_method, list_methods, register_method
from dap.methods.d3hr import D3HR
from dap.methods.d3m import D3M
from dap.methods.d4m import D4M
from dap.methods.dap import DAP
from dap.methods.dap_networks import DAPNetworks
from dap.methods.dap_set import DAPSet
from dap.methods.dit import DiT
from dap.methods.dm import DM
from dap.methods.dmgd import DMGD
from dap.methods.filtered import Filtered
from dap.methods.herding import Herding
from dap.methods.igd import IGD
from dap.methods.k_center import KCenter
from dap.methods.k_medoids import KMedoids
from dap.methods.ld3m import LD3M
from dap.methods.lgd import LGD
from dap.methods.manifold_gd import ManifoldGD
from dap.methods.mgd3 import MGD3
from dap.methods.minimax import Minimax
from dap.methods.plug_and_play import PlugAndPlay
from dap.methods.random import Random
from dap.methods.rded import RDED

__all__ = [
    "CGS", "D3HR", "D3M", "D4M", "DAP", "DM", "DMGD", "IGD", "LD3M", "LGD", "METHODS", "MGD3", "RDED", "TERMS",
    "AnyGuide", "AnyMethod", "CaO2", "CoDA", "Context", "DAPNetworks", "DAPSet", "DiT", "Filtered", "Guide", "Guided",
    "Herding", "KCenter", "KMedoids", "ManifoldGD", "Method", "MethodInfo", "Minimax", "PlugAndPlay", "Random",
    "SingleGuide", "Slot", "Unit", "get_method", "list_methods", "register_method",
]  # fmt: skip

for _method in (
    Random, Herding, KCenter, KMedoids, DiT, DAP, MGD3, ManifoldGD, IGD, D4M, D3M, LD3M, CoDA, PlugAndPlay, DAPSet,
    DAPNetworks, Guided, DM, RDED, CaO2, D3HR, Minimax, DMGD, CGS, LGD, Filtered,
):  # fmt: skip
    register_method(_method)
