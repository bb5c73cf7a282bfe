"""Frozen diffusion models, behind one face."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from dap.errors import OptionError
from dap.priors.base import Prediction, Prior
from dap.priors.capabilities import ClassEmbeddingPrior, TextPrior
from dap.priors.no_prior import NoPrior
from dap.registry import unknown_name_error

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

__all__ = [
    "BUILTIN", "ClassEmbeddingPrior", "NoPrior", "Prediction", "Prior", "PriorLike", "TextPrior", "load_prior",
]  # fmt: skip

PriorLike: TypeAlias = "str | Path | DiffusionPipeline | Prior"
"""A name, folder, hub id, pipeline object of diffusers, or a prior."""

BUILTIN = {"fashion-dit": Path(__file__).parents[1] / "assets" / "fashion_dit"}


def load_prior(
    prior: Any,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
) -> Prior:
    """Opens a prior.

    Args:
        prior: "fashion-dit" (built in); the folder, hub id or object of a ``DiTPipeline``, a
            ``StableDiffusionPipeline``, or a pipeline with a ``UNet2DModel`` (``DDPMPipeline``, ``DDIMPipeline``,
            ``LDMPipeline``); the folder of an adapter (:func:`dap.adapt_prior`); or a :class:`Prior`
            (``DiTPrior.from_pretrained(folder, learned_variance=True)``).
        device: Where to put a prior that is loaded here; the GPU if there is one.
        dtype: Of the weights of a prior that is loaded here; float32 if left out.
        options: Of the prior's class by name, for example ``{"template": "art of {}"}``.

    Raises:
        OptionError: It is none of these; ``device``, ``dtype`` or ``options`` are given for an object that has them
            already; or the class has no such option.
        SourceError: The folder or hub id cannot be loaded.

    Example:
        >>> load_prior("fashion-dit").image_shape
        (1, 32, 32)
    """
    import torch
    from diffusers import DiffusionPipeline

    from dap.device import named_device
    from dap.priors.adapter import is_adapter, load_adapted
    from dap.priors.pipeline import pipeline_type

    if isinstance(prior, str | Path):
        folder = BUILTIN.get(str(prior), prior)
        if is_adapter(folder):
            return load_adapted(folder, device=device, dtype=dtype, options=options)
        kind = _adapter(pipeline_type(folder))
        more = _checked(kind, options)
        loaded: Prior = kind.from_pretrained(
            folder, device=device, dtype=dtype or torch.float32, name=str(prior), **more
        )
        return loaded
    if isinstance(prior, DiffusionPipeline):
        kind = _adapter(type(prior).__name__)
        opened: Prior = kind(prior, **_checked(kind, options))
    elif not isinstance(prior, Prior):
        raise OptionError(
            f"prior: expected a name, a folder, a pipeline or a dap.priors.Prior, got {type(prior).__name__}"
        )
    elif options:
        raise OptionError(f"options of the prior go into the object; {', '.join(options)} came beside one")
    else:
        opened = prior
    if device is not None:
        wanted, has = named_device(device), opened.device
        if wanted.type != has.type or (wanted.index is not None and wanted.index != (has.index or 0)):
            raise OptionError(f"device={device} was asked for, the prior object is on {has}: move the object first")
    if dtype not in (None, opened.dtype):
        raise OptionError(f"dtype={dtype} was asked for, the prior object has {opened.dtype}: convert the object first")
    return opened


def _checked(kind: Any, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options that the class of priors has."""
    known = [name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "pipeline", "name")]
    for name in options or {}:
        if name not in known:
            raise unknown_name_error(f"option of a {kind.__name__}", name, known)
    return dict(options or {})


def _adapter(pipeline_type: str) -> Any:
    """The class of priors for such a pipeline."""
    from dap.priors.dit import DiTPrior
    from dap.priors.stable_diffusion import StableDiffusionPrior
    from dap.priors.unet import UNetPrior

    adapters = {name: kind for kind in (DiTPrior, StableDiffusionPrior, UNetPrior) for name in kind.pipeline_types}
    if pipeline_type not in adapters:
        raise unknown_name_error("kind of pipeline", pipeline_type, adapters)
    return adapters[pipeline_type]
