"""Frozen diffusion models behind one interface, :class:`Prior`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from dap.config import check_path
from dap.errors import OptionError
from dap.lazy import submodules
from dap.priors.base import Prediction, Prior
from dap.priors.capabilities import ClassEmbeddingPrior, TextPrior
from dap.priors.demand import Demand, StepBytes
from dap.priors.no_prior import NoPrior
from dap.registry import unknown_name_error

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from dap.priors.pipeline import PipelinePrior

__all__ = [
    "BUILTIN", "ClassEmbeddingPrior", "Demand", "NoPrior", "Prediction", "Prior", "PriorLike", "StepBytes", "TextPrior",
    "load_prior",
]  # fmt: skip

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

PriorLike: TypeAlias = "str | Path | DiffusionPipeline | Prior"
"""A name, folder, hub id, pipeline object of diffusers, or a prior."""

LOADING = ("use_safetensors", "variant", "subfolder", "revision", "token", "vae_dtype")  # options of from_pretrained
NO_OPTIONS = ("self", "pipeline", "name", "recommended", "learned")  # what dap gives itself, from a prior's files
BUILTIN = {"fashion-dit": Path(__file__).parents[1] / "assets" / "fashion_dit"}


def load_prior(
    prior: PriorLike,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    options: Mapping[str, Any] | None = None,
) -> Prior:
    """Load a prior, or check one that is an object already.

    Args:
        prior: "fashion-dit" (built in); the folder, hub id or object of a ``DiTPipeline``, a
            ``StableDiffusionPipeline``, ``StableDiffusionXLPipeline``, ``StableDiffusion3Pipeline``, ``FluxPipeline``,
            ``PixArtAlphaPipeline``, ``PixArtSigmaPipeline`` or ``SanaPipeline``, or a pipeline with a ``UNet2DModel``
            (``DDPMPipeline``, ``DDIMPipeline``, ``LDMPipeline``); the folder of an adapter (:func:`dap.adapt_prior`);
            or an object of a subclass of :class:`Prior` (``DiTPrior.from_pretrained(folder, learned_variance=True)``).
        device: Where to put a prior that is loaded from a folder or id; the GPU if there is one.
        dtype: Dtype in which a prior that is loaded computes, such as torch.bfloat16 or "bfloat16"; float32 if left
            out. Its first stage computes in float32, unless the option ``vae_dtype`` says otherwise.
        options: Options of the prior's class by name, for example ``{"template": "art of {}"}``, and those of loading
            it: ``use_safetensors``, ``variant``, ``subfolder``, ``revision``, ``token``, ``vae_dtype``; see
            :meth:`dap.priors.pipeline.PipelinePrior.from_pretrained`.

    Raises:
        OptionError: ``prior`` is none of these; the object has another ``device`` or ``dtype``; ``options`` are given
            with a :class:`Prior` object; or the class has no such option.
        SourceError: The folder or hub id cannot be loaded.

    Example:
        >>> load_prior("fashion-dit").image_shape
        (1, 32, 32)
    """
    from diffusers import DiffusionPipeline

    from dap.device import named_device, named_dtype, resolve_device
    from dap.priors.adapter import is_adapter, load_adapted

    dtype = None if dtype is None else named_dtype(dtype)
    if isinstance(prior, str | Path):
        resolve_device(device)
        folder = BUILTIN.get(str(prior)) or check_path("prior", prior)
        if is_adapter(folder):
            base = {name: value for name, value in (options or {}).items() if name != "vae_dtype"}
            vae_dtype = named_dtype((options or {}).get("vae_dtype", "float32"), option="vae_dtype")
            return load_adapted(
                folder, partial(load_prior, device=device, options=base), dtype=dtype, vae_dtype=vae_dtype
            )
        return _load_pipeline(folder, str(prior), device, dtype, options or {})
    if isinstance(prior, DiffusionPipeline):
        kind = _adapter(type(prior).__name__)
        _check_options(kind, options or {})
        model: Prior = kind(prior, **(options or {}))
    elif not isinstance(prior, Prior):
        raise OptionError(
            f"prior: expected a name, a folder, a pipeline or a dap.priors.Prior, got {type(prior).__name__}"
        )
    elif options:
        raise OptionError(f"prior options {', '.join(options)}: the prior is an object, give them when it is made")
    else:
        model = prior
    if device is not None:
        wanted, has = named_device(device), model.device
        if wanted.type != has.type or (wanted.index is not None and wanted.index != (has.index or 0)):
            raise OptionError(f"device: expected that of the prior object, {has}, got {device}; move the object first")
    if dtype not in (None, model.dtype):
        raise OptionError(f"dtype: expected that of the prior object, {model.dtype}, got {dtype}; convert it first")
    return model


def _load_pipeline(
    folder: str | Path,
    name: str,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    options: Mapping[str, Any],
) -> PipelinePrior:
    """Load a pipeline's folder or hub id, whose ``model_index.json`` says which class of priors it is."""
    import torch

    from dap.priors.hub import Files
    from dap.priors.pipeline_folder import pipeline_type

    files = Files(folder, **{key: options[key] for key in LOADING if key in options and key != "vae_dtype"})
    kind = _adapter(pipeline_type(files))
    _check_options(kind, options, LOADING)
    return kind.from_pretrained(folder, device=device, dtype=dtype or torch.float32, name=name, **options)


def _check_options(kind: type[PipelinePrior], options: Mapping[str, object], more: Sequence[str] = ()) -> None:
    """Raise unless the class of priors has all of these options; ``more`` are those of loading a folder."""
    parameters = inspect.signature(kind.__init__).parameters
    known = [*(name for name in parameters if name not in NO_OPTIONS), *more]
    for name in options:
        if name not in known:
            raise unknown_name_error(f"option of a {kind.__name__}", name, known)


def _adapter(pipeline_type: str) -> type[PipelinePrior]:
    """Return the class of priors for pipelines of this class name."""
    from dap.priors.dit import DiTPrior
    from dap.priors.flux import FluxPrior
    from dap.priors.pixart import PixArtPrior
    from dap.priors.sana import SanaPrior
    from dap.priors.stable_diffusion import StableDiffusionPrior
    from dap.priors.stable_diffusion_3 import StableDiffusion3Prior
    from dap.priors.stable_diffusion_xl import StableDiffusionXLPrior
    from dap.priors.unet import UNetPrior

    kinds: tuple[type[PipelinePrior], ...] = (
        DiTPrior, FluxPrior, PixArtPrior, SanaPrior, StableDiffusionPrior, StableDiffusion3Prior,
        StableDiffusionXLPrior, UNetPrior,
    )  # fmt: skip
    adapters = {name: kind for kind in kinds for name in kind.pipeline_types}
    if pipeline_type not in adapters:
        raise unknown_name_error("kind of pipeline", pipeline_type, adapters)
    return adapters[pipeline_type]
