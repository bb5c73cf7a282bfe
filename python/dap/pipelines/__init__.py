"""Guidance by dap's terms inside a diffusers pipeline that you call yourself.

    pipe = DiTPipeline.from_pretrained("facebook/DiT-XL-2-256")
    with dap.pipelines.guide(pipe, dap.terms.SetEnergy(), "path/to/train", classes=["n01440764"] * 4):
        images = pipe(class_labels=[0] * 4).images

The pipeline keeps its call, its scheduler and its options; dap changes the noise estimate that the pipeline gives to
``scheduler.step``, and the sample that comes back. A term that only reads x̂_0 costs no evaluation of the network. One
that reads features, or differentiates through the network, evaluates it once more in each step in which it acts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

from dap.config import check_seed
from dap.data.open import SourceLike
from dap.errors import OptionError
from dap.methods import AnyGuide, Guided
from dap.pipelines.guidance import Guidance
from dap.pipelines.terms import given_terms, prepared_terms
from dap.priors import load_prior
from dap.priors.pipeline import PipelinePrior
from dap.priors.schedulers import EXPLODING, check_guidable, is_kind
from dap.sampling import Term
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["guide"]

PIPELINES = ("DiTPipeline", "StableDiffusionPipeline", "StableDiffusionXLPipeline")

AnyTerm: TypeAlias = Term | AnyGuide | Guided | Sequence[Term]


@contextmanager
def guide(
    pipe: DiffusionPipeline,
    term: AnyTerm,
    source: SourceLike | None = None,
    *,
    classes: Sequence[str] | str | None = None,
    channels: str | None = None,
    prior_options: Mapping[str, object] | None = None,
    seed: int = 0,
) -> Iterator[None]:
    """Guide the calls of a diffusers pipeline inside this block.

    At its end the pipeline is as it was before. With a scale of 0 its images have the same bytes as without dap.

    Args:
        pipe: A ``DiTPipeline``, ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``.
        term: One of :mod:`dap.terms`, a sum of them, a method that is one (``dap.methods.MGD3()``), or one or several
            :class:`dap.sampling.Term` of your own.
        source: The real images from which ``term`` takes its references or modes, as in :func:`dap.distill`. A
            :class:`dap.sampling.Term` takes none.
        classes: The class in ``source`` of each image that a call makes, in order; or one class for all.
        channels: "grey" or "rgb": convert the real images, as in :func:`dap.distill`.
        prior_options: Options of the prior that computes features of the real images. For Stable Diffusion they are
            seen under "a photo of a {class}", unless ``{"prompts": {"tench": "a tench in a net"}}`` says otherwise.
        seed: Root of the choice of references and of the modes.

    Raises:
        OptionError: The pipeline, its scheduler, its call or the term cannot be used; the message says how they could.
        DapError: The source cannot be read.

    Example:
        >>> import dap
        >>> from diffusers import StableDiffusionPipeline
        >>> pipe = StableDiffusionPipeline.from_pretrained("your/pipeline")  # doctest: +SKIP
        >>> with dap.pipelines.guide(pipe, dap.terms.Mode(), "photos", classes=["teapot"] * 4):  # doctest: +SKIP
        ...     images = pipe(["a teapot on a table"] * 4, num_inference_steps=25).images
    """
    kind = type(pipe).__name__
    if kind not in PIPELINES:
        raise OptionError(f"pipe: expected a {' or '.join(PIPELINES)} of diffusers, got a {kind}")
    scheduler = pipe.scheduler
    check_guidable(type(scheduler), scheduler.config)
    if kind == "DiTPipeline" and is_kind(scheduler, *EXPLODING):
        raise OptionError(
            f"{type(scheduler).__name__}: DiTPipeline gives it latents of another scale; use DDIM, DDPM or DPM++"
        )
    own = _own_terms(term)
    with _as_it_was(pipe):
        if own is not None:
            if source is not None or classes is not None:
                raise OptionError(
                    "source, classes: a dap.sampling.Term has all that it compares with; they are for dap.terms"
                )
            prior, terms = _prior(pipe, prior_options), given_terms(own)
        else:
            terms = prepared_terms(term, source, classes, channels=channels, seed=check_seed(seed))
            prior = _prior(pipe, prior_options)
        with Guidance(pipe, prior, terms).installed():
            yield
        if pipe.scheduler is not scheduler:
            raise OptionError("pipe.scheduler: it was replaced inside guide(), which guided nothing; replace it before")


def _own_terms(term: AnyTerm) -> tuple[Term, ...] | None:
    """Return terms that need no preparation, or None if ``term`` is one of dap.terms."""
    if isinstance(term, Term):
        return (term,)
    return tuple(term) if isinstance(term, list | tuple) else None


@own_torch_state()
def _prior(pipe: DiffusionPipeline, options: Mapping[str, object] | None) -> PipelinePrior:
    prior = load_prior(pipe, options=options)
    if not isinstance(prior, PipelinePrior):
        raise OptionError(f"pipe: expected a pipeline whose blocks dap can name, got {type(pipe).__name__}")
    return prior


@contextmanager
def _as_it_was(pipe: DiffusionPipeline) -> Iterator[None]:
    """Give the pipeline's modules back as they were: a prior freezes them and puts them in eval mode."""
    networks = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    training = [(module, module.training) for network in networks for module in network.modules()]
    trainable = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        for module, was in training:
            module.training = was
        for parameter in trainable:
            parameter.requires_grad_(True)
