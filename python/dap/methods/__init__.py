"""Methods: one paper, one file. ``get_method`` turns a name, a preset or an object into a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dap.config import from_options
from dap.errors import OptionError
from dap.methods.base import Context, Method, Slot, Unit
from dap.methods.coda import CoDA
from dap.methods.common.registry import METHODS, MethodInfo, check_method, list_methods, register_method
from dap.methods.d3m import D3M
from dap.methods.d4m import D4M
from dap.methods.dap import DAP
from dap.methods.dap_set import DAPSet
from dap.methods.dit import DiT
from dap.methods.guided import TERMS, Guide, Guided, SingleGuide
from dap.methods.herding import Herding
from dap.methods.igd import IGD
from dap.methods.k_center import KCenter
from dap.methods.k_medoids import KMedoids
from dap.methods.ld3m import LD3M
from dap.methods.manifold_gd import ManifoldGD
from dap.methods.mgd3 import MGD3
from dap.methods.plug_and_play import PlugAndPlay
from dap.methods.random import Random
from dap.registry import unknown_name_error

__all__ = [
    "D3M", "D4M", "DAP", "IGD", "LD3M", "METHODS", "MGD3", "TERMS", "CoDA", "Context", "DAPSet", "DiT", "Guide",
    "Guided", "Herding", "KCenter", "KMedoids", "ManifoldGD", "Method", "MethodInfo", "PlugAndPlay", "Random",
    "SingleGuide", "Slot", "Unit", "get_method", "list_methods", "register_method",
]  # fmt: skip

for _method in (
    Random, Herding, KCenter, KMedoids, DiT, DAP, MGD3, ManifoldGD, IGD, D4M, D3M, LD3M, CoDA, PlugAndPlay, DAPSet,
    Guided,
):  # fmt: skip
    register_method(_method)


def get_method(method: str | Method | Guide, options: Mapping[str, Any] | None = None) -> Method:
    """A method by name ("dap"), by preset ("dap:paper"), or as it is.

    Args:
        method: Name, preset, or object; a term of :mod:`dap.terms` is taken for the sum of it alone.
        options: Options by name, which overrule those of the preset; only with a name.

    Raises:
        OptionError: Unknown method, preset or option, options beside an object, or an object that is no method.

    Example:
        >>> get_method("dap:paper", {"scale": 0.5}).scale
        0.5
    """
    if not isinstance(method, str):
        given: Any = Guided((method,)) if isinstance(method, Guide) and not hasattr(method, "make") else method
        if not hasattr(given, "make") or isinstance(given, type):
            raise OptionError(f"method: expected a name or a method object, got {given!r}")
        if options:
            raise OptionError("options go into the method object; they were given beside one")
        check_method(type(given))
        own: Method = given
        return own
    name, _, preset = method.partition(":")
    cls = METHODS[name]
    if preset and preset not in cls.presets:
        raise unknown_name_error(f"preset of method {name!r}", preset, cls.presets)
    result: Method = from_options(cls, {**cls.presets.get(preset, {}), **(options or {})}, f"method {name!r}")
    return result
