"""Methods: one paper, one file. ``get_method`` turns a name, a preset or an object into a method."""

from __future__ import annotations

from collections.abc import Mapping

from dap.config import check_choice, from_options
from dap.errors import OptionError
from dap.methods.base import AnyMethod, Context, Method, Slot, Unit
from dap.methods.cao2 import CaO2
from dap.methods.cgs import CGS
from dap.methods.coda import CoDA
from dap.methods.common.guides import TERMS, AnyGuide, Guide, Guided, SingleGuide
from dap.methods.common.registry import METHODS, MethodInfo, check_method, list_methods, register_method
from dap.methods.d3hr import D3HR
from dap.methods.d3m import D3M
from dap.methods.d4m import D4M
from dap.methods.dap import DAP
from dap.methods.dap_networks import DAPNetworks
from dap.methods.dap_set import DAPSet
from dap.methods.dit import DiT
from dap.methods.dm import DM
from dap.methods.dmgd import DMGD
from dap.methods.herding import Herding
from dap.methods.igd import IGD
from dap.methods.k_center import KCenter
from dap.methods.k_medoids import KMedoids
from dap.methods.ld3m import LD3M
from dap.methods.manifold_gd import ManifoldGD
from dap.methods.mgd3 import MGD3
from dap.methods.minimax import Minimax
from dap.methods.plug_and_play import PlugAndPlay
from dap.methods.random import Random
from dap.methods.rded import RDED

__all__ = [
    "CGS", "D3HR", "D3M", "D4M", "DAP", "DM", "DMGD", "IGD", "LD3M", "METHODS", "MGD3", "RDED", "TERMS", "AnyGuide",
    "AnyMethod", "CaO2", "CoDA", "Context", "DAPNetworks", "DAPSet", "DiT", "Guide", "Guided", "Herding", "KCenter",
    "KMedoids", "ManifoldGD", "Method", "MethodInfo", "Minimax", "PlugAndPlay", "Random", "SingleGuide", "Slot", "Unit",
    "get_method", "list_methods", "register_method",
]  # fmt: skip

for _method in (
    Random, Herding, KCenter, KMedoids, DiT, DAP, MGD3, ManifoldGD, IGD, D4M, D3M, LD3M, CoDA, PlugAndPlay, DAPSet,
    DAPNetworks, Guided, DM, RDED, CaO2, D3HR, Minimax, DMGD, CGS,
):  # fmt: skip
    register_method(_method)


def get_method(method: str | AnyMethod | AnyGuide, options: Mapping[str, object] | None = None) -> AnyMethod:
    """Return a method by name ("dap"), by preset ("dap:paper"), or as it is.

    Args:
        method: Name, preset, or object; a guide of :mod:`dap.terms` stands for the method ``guided`` with it alone.
        options: Options by name, which overrule those of the preset; only with a name.

    Raises:
        OptionError: Unknown method, preset or option, options given with an object, or an object that is no method.

    Example:
        >>> get_method("dap:paper", {"scale": 0.5}).scale
        0.5
    """
    if not isinstance(method, str):
        if not isinstance(method, Method | Guide):
            raise OptionError(f"method: expected a name or an object of dap.methods.Method, got {method!r}")
        if options:
            raise OptionError("method_options: they go into the method object, leave them out beside one")
        recipe = method if isinstance(method, Method) else Guided((method,))
        check_method(type(recipe))
        return recipe
    name, _, preset = method.partition(":")
    cls = METHODS[name]
    if preset:
        check_choice(f"preset of method {name!r}", preset, cls.presets)
    return from_options(cls, {**cls.presets.get(preset, {}), **(options or {})}, f"method {name!r}")
