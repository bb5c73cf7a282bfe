"""Methods: one paper, one file. ``get_method`` turns a name, a preset or an object into a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dap.config import from_options
from dap.errors import OptionError
from dap.methods.base import Context, Method, Slot, Unit
from dap.methods.dap import DAP
from dap.methods.dap_set import DAPSet
from dap.methods.dit import DiT
from dap.methods.guided import TERMS, Guide, Guided
from dap.methods.herding import Herding
from dap.methods.k_center import KCenter
from dap.methods.k_medoids import KMedoids
from dap.methods.random import Random
from dap.registry import Registry, unknown_name

__all__ = [
    "DAP", "METHODS", "TERMS", "Context", "DAPSet", "DiT", "Guide", "Guided", "Herding", "KCenter", "KMedoids", "Method", "Random", "Slot", "Unit",
    "get_method",
]  # fmt: skip

METHODS: Registry[type[Any]] = Registry("method")
for _method in (Random, Herding, KCenter, KMedoids, DiT, DAP, DAPSet, Guided):
    METHODS.register(_method.name)(_method)


def get_method(method: str | Method, options: Mapping[str, Any] | None = None) -> Method:
    """A method by name ("dap"), by preset ("dap:paper"), or as it is.

    Args:
        method: Name, preset, or object.
        options: Options by name, which overrule those of the preset; only with a name.

    Raises:
        OptionError: Unknown method, preset or option, or options beside an object.

    Example:
        >>> get_method("dap:paper", {"scale": 0.5}).scale
        0.5
    """
    if isinstance(method, Guide) and not hasattr(method, "make"):
        method = Guided((method,))
    if not isinstance(method, str):
        if not hasattr(method, "make") or isinstance(method, type):
            raise OptionError(f"method: expected a name or a method object, got {method!r}")
        if options:
            raise OptionError("options go into the method object; they were given beside one")
        return method
    name, _, preset = method.partition(":")
    cls = METHODS[name]
    if preset and preset not in cls.presets:
        raise unknown_name(f"preset of method {name!r}", preset, cls.presets)
    result: Method = from_options(cls, {**cls.presets.get(preset, {}), **(options or {})}, f"method {name!r}")
    return result
