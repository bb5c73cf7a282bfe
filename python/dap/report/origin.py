"""Where the images of a run come from: whether they are real ones, and names that can be published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dap.data.hub import is_hub_set
from dap.methods import METHODS
from dap.methods.common.real_images import RealImages

__all__ = ["are_real", "without_folders"]


def are_real(manifest: Mapping[str, Any]) -> bool:
    """Return whether the method of a run chose its images among the real ones, with a prior's features or without.

    Args:
        manifest: That of the run; empty for images of others, of which it is not known.
    """
    name = manifest["options"]["method"]["name"] if manifest else ""
    return name in METHODS and issubclass(METHODS[name], RealImages)


def without_folders(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest in which paths of the source, the prior and the method's options have their last part alone.

    A name such as "facebook/DiT-XL-2-256" stays, unless there is a folder "facebook" here.

    Args:
        manifest: That of a run.
    """
    prior = manifest["prior"]
    options = {**manifest["options"]}
    options["method"] = {
        key: _last_part(value) if _is_path(value) else value for key, value in options["method"].items()
    }
    if "prior" in options.get("features", {}):
        options["features"] = {**options["features"], "prior": _named(options["features"]["prior"])}
    return {**manifest, "options": options, "source": _named(manifest["source"]), "prior": prior and _named(prior)}


def _named(described: Mapping[str, Any]) -> dict[str, Any]:
    return {**described, "name": _last_part(described["name"])}


def _is_path(value: object) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()


def _last_part(name: str) -> str:
    return name if is_hub_set(name) else Path(name).name or name
