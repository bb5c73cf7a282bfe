"""dap: dataset distillation with a diffusion model as prior.

    import dap

    distilled = dap.distill("fashion-mini", ipc=10, out="distilled")
    print(dap.evaluate(distilled, "fashion-mini").table())

Importing dap imports neither torch nor diffusers; they come with the first name that needs them. Every module of the
package can be used after it: ``dap.priors.dit.DiTPrior`` needs no other import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dap._core import build_info
from dap.lazy import submodules

if TYPE_CHECKING:
    from dap import (
        callbacks,
        data,
        errors,
        evaluation,
        features,
        index,
        kernels,
        methods,
        metrics,
        nets,
        pipelines,
        priors,
        rng,
        sampling,
        selection,
        terms,
        training,
    )
    from dap.api import (
        build_index,
        check_teacher,
        distill,
        evaluate,
        load,
        measure,
        open_index,
        open_teacher,
        plan,
        train_teacher,
    )
    from dap.data.open import open_source
    from dap.dataset import DistilledDataset
    from dap.kernels import list_kernels
    from dap.methods import list_methods, register_method
    from dap.nets import list_networks
    from dap.selector import Selector
    from dap.training import adapt_prior, train_prior

__version__: str = build_info()["version"]

__all__ = [
    "DistilledDataset", "Selector", "__version__", "adapt_prior", "build_index", "callbacks", "check_teacher", "data",
    "distill", "errors", "evaluate", "evaluation", "features", "index", "kernels", "list_kernels", "list_methods",
    "list_networks", "load", "measure", "methods", "metrics", "nets", "open_index", "open_source", "open_teacher",
    "pipelines", "plan", "priors", "register_method", "rng", "sampling", "selection", "terms", "train_prior",
    "train_teacher", "training",
]  # fmt: skip

_HOMES = {
    "build_index": "dap.api", "distill": "dap.api", "evaluate": "dap.api", "load": "dap.api", "measure": "dap.api",
    "plan": "dap.api",
    "check_teacher": "dap.evaluation", "open_teacher": "dap.evaluation", "train_teacher": "dap.evaluation",
    "open_index": "dap.index", "open_source": "dap.data.open", "list_kernels": "dap.kernels",
    "list_methods": "dap.methods", "list_networks": "dap.nets", "register_method": "dap.methods",
    "DistilledDataset": "dap.dataset", "Selector": "dap.selector", "adapt_prior": "dap.training",
    "train_prior": "dap.training",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    return submodules(__name__)(name)


def __dir__() -> list[str]:
    return sorted(__all__)
