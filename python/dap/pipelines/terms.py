"""The terms of one call of a pipeline: those that the caller made, or those of a guide, prepared from real images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from dap.config import check_choice
from dap.data.open import SourceLike, open_source
from dap.errors import OptionError
from dap.methods import Guided, SingleGuide, Slot, Unit, get_method
from dap.priors import Prior
from dap.run import Request, resolve
from dap.sampling import Term
from dap.sampling.steering import check_terms
from dap.storage.cache import cache_in_use

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

__all__ = ["PipelineCall", "TermsOfCall", "given_terms", "prepared_terms"]


@dataclass(frozen=True)
class PipelineCall:
    """What a call of a pipeline makes, as its first step shows it.

    Attributes:
        prior: The pipeline's networks as a prior.
        scheduler: The pipeline's scheduler, with its steps set.
        shape: That of the latents, (N, C, h, w).
        labels: The label of each image that a DiT was given, int64 (N,); None under text.
    """

    prior: Prior
    scheduler: SchedulerMixin
    shape: torch.Size
    labels: Tensor | None


TermsOfCall: TypeAlias = Callable[[PipelineCall], tuple[Sequence[Term], Tensor]]
"""Returns the terms of a call, and the label of each image, int64 (N,)."""


def given_terms(terms: Sequence[Term]) -> TermsOfCall:
    """Return the same terms for each call; their labels are those of the call, or 0."""
    check_terms(terms)

    def of(call: PipelineCall) -> tuple[Sequence[Term], Tensor]:
        return terms, torch.zeros(call.shape[0], dtype=torch.int64) if call.labels is None else call.labels

    return of


def prepared_terms(
    term: Any, source: SourceLike | None, classes: Sequence[str] | str | None, *, channels: str | None, seed: int
) -> TermsOfCall:
    """Return a function that prepares the terms of a guide for a call, once for the same classes and steps.

    Raises:
        OptionError: The guide is none, lacks real images or the classes of the images, or the source lacks a class.
    """
    recipe = get_method(term)
    if not isinstance(recipe, Guided | SingleGuide):
        raise OptionError(f"term: method {recipe.name!r} is more than a term; take one of dap.terms")
    if source is None or classes is None:
        raise OptionError(
            f"{recipe.name}: a pipeline has no real images and knows no classes of them; give source= and classes=, "
            "the class of each image that you ask the pipeline for"
        )
    images = open_source(source)
    for name in [classes] if isinstance(classes, str) else classes:
        check_choice("class", name, images.class_names)
    prepared: dict[object, tuple[Any, Any]] = {}

    def of(call: PipelineCall) -> tuple[Sequence[Term], Tensor]:
        names = [classes] * call.shape[0] if isinstance(classes, str) else list(classes)
        _check_call(call, len(names))
        labels = None if call.labels is None else _label_of_each(names, call.labels.tolist())
        steps = int(call.scheduler.num_inference_steps)
        key = tuple(names), None if labels is None else tuple(labels.items()), steps
        if key not in prepared:
            with cache_in_use():
                job = resolve(
                    Request(
                        source=images, classes=list(dict.fromkeys(names)), ipc=Counter(names), prior=call.prior,
                        method=recipe, label_map=labels, seed=seed, channels=channels, num_inference_steps=steps,
                        guidance_scale=1.0,
                    )
                )  # fmt: skip
                planned = job.prior.scheduler(None, steps).timesteps
                if not torch.equal(planned.cpu(), call.scheduler.timesteps.cpu()):
                    raise OptionError(
                        "timesteps: the call has its own, real images are prepared for those of num_inference_steps "
                        "alone; leave timesteps= and sigmas= out, or give a dap.sampling.Term"
                    )
                context = job.context()
                prepared[key] = context, recipe.prepare(context)
        context, artefact = prepared[key]
        unit = _unit(names, [entry.name for entry in context.classes])
        return recipe.terms_of(context, unit, artefact), context.labels(unit)

    return of


def _check_call(call: PipelineCall, names: int) -> None:
    """Raise OptionError unless a call makes as many images as there are classes, of the prior's size."""
    count, *latent = call.shape
    if names != count:
        raise OptionError(f"classes: expected {count}, one for each image of the call, got {names}")
    if tuple(latent) != call.prior.latent_shape:
        _, height, width = call.prior.image_shape
        raise OptionError(
            f"the call's latents are {' x '.join(map(str, latent))}: real images are prepared at the size of the "
            f"network, so call the pipeline with height={height}, width={width}"
        )


def _label_of_each(names: Sequence[str], labels: Sequence[int]) -> dict[str, str | int | None]:
    """Return the label under which the call makes each class."""
    of: dict[str, str | int | None] = {}
    for name, label in zip(names, labels, strict=True):
        if of.setdefault(name, label) != label:
            raise OptionError(f"class_labels: class {name!r} has the labels {of[name]} and {label}; give it one")
    return of


def _unit(names: Sequence[str], order: Sequence[str]) -> Unit:
    """Return a slot for each image; those of a class are numbered as they come."""
    counts: Counter[str] = Counter()
    slots = []
    for name in names:
        slots.append(Slot(order.index(name), counts[name]))
        counts[name] += 1
    return Unit(0, tuple(slots))
