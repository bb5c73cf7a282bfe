"""The pages of the API: the names that each public module exports."""

from __future__ import annotations

from types import ModuleType

import dap

OPTIONS = "    options: {show_root_heading: false, show_root_toc_entry: false, members: %s}"
BEYOND = {  # what users meet and no package exports
    "dap.data": ("dap.data.source.Source", "dap.data.names.escape", "dap.data.names.unescape"),
    "dap.methods": ("dap.methods.common.feature_guide.FeatureGuide",),
}


def pages() -> dict[str, str]:
    """Return the pages in Markdown, by the module's name: the functions of dap first, then its public modules."""
    modules = [name for name in sorted(dap.__all__) if isinstance(getattr(dap, name), ModuleType)]
    names = [name for name in dap.__all__ if name not in modules and not name.startswith("_")]
    seen = {id(getattr(dap, name)): f"dap.{name}" for name in names}
    text = ["# dap", *(f"::: dap.{name}\n    options: {{heading_level: 2}}" for name in sorted(names, key=str.lower))]
    return {"dap": "\n\n".join(text) + "\n"} | {f"dap.{name}": _page(f"dap.{name}", seen) for name in modules}


def _page(module: str, seen: dict[int, str]) -> str:
    """Return a module's page; what is on an earlier page is only linked."""
    package = getattr(dap, module.removeprefix("dap."))
    own, elsewhere = [], []
    for name in getattr(package, "__all__", []):
        value = getattr(package, name)
        if callable(value) and id(value) in seen:
            elsewhere.append(f"[`{name}`][{seen[id(value)]}]")
        else:
            own.append(name)
            seen[id(value)] = f"{module}.{name}"
    also = f"Also here: {', '.join(elsewhere)}." if elsewhere else ""
    parts = [f"# {module}", f"::: {module}\n{OPTIONS % own}", also, *(f"::: {name}" for name in BEYOND.get(module, ()))]
    return "\n\n".join(part for part in parts if part) + "\n"
