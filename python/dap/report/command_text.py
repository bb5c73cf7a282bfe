"""The command that made a run, from its manifest."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from dap.config import to_json
from dap.data.builtin import BUILTIN
from dap.data.open import open_source
from dap.methods import METHODS

__all__ = ["command_of"]

MOST_CLASSES = 50  # that a command names


def command_of(manifest: Mapping[str, Any], out: str = "distilled") -> str:
    """Return the ``dap distill`` that makes the images of a run, with the values that the run used.

    Options at the defaults of the method are left out. So are the classes of a run of more than 50, which the manifest
    lists, and labels that were chosen by hand.

    Args:
        manifest: That of the run.
        out: The folder to write.
    """
    options, prior, source = manifest["options"], manifest["prior"], manifest["source"]["name"]
    words = ["dap", "distill", source, "--out", out, *_method(options["method"]), *_ipc(manifest["ipc"])]
    words += ["--seed", str(options["seed"])]
    names = [entry["name"] for entry in manifest["class_map"]]
    if len(names) <= MOST_CLASSES and not (source in BUILTIN and list(open_source(source).class_names) == names):
        words += ["--classes", ",".join(names)]
    if prior is not None:
        words += ["--prior", str(prior["name"])]
    for name, value in (options.get("sampling") or {}).items():
        if value is not None and not (name == "eta" and value == 0):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if options.get("dtype") not in (None, "torch.float32"):
        words += ["--dtype", options["dtype"].removeprefix("torch.")]
    return shlex.join([*words, *(["--tf32"] if options.get("tf32") else [])])


def _method(method: Mapping[str, Any]) -> list[str]:
    name = str(method["name"])
    defaults = to_json(METHODS[name]()) if name in METHODS else {}
    changed = {key: value for key, value in method.items() if key != "name" and (key, value) not in defaults.items()}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in changed.items()}
    return ["--method", name, *(word for key, text in texts.items() for word in ("--set", f"{key}={text}"))]


def _ipc(ipc: int | Mapping[str, int]) -> list[str]:
    if isinstance(ipc, int):
        return ["--ipc", str(ipc)]
    return [word for name, count in ipc.items() for word in ("--ipc", f"{name}={count}")]
