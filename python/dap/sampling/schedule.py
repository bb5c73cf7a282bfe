"""Checks of a scheduler against the run's settings, the steps that it runs, and the arguments of its ``step``."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch

from dap.errors import OptionError
from dap.priors import Prior
from dap.priors.pipeline import PipelinePrior
from dap.priors.schedulers import is_spaced, of_flow, remembers, scheduler_name, with_steps
from dap.sampling.named import named_sampling
from dap.sampling.settings import SamplingSettings

__all__ = [
    "as_sampled", "check_recurrences", "check_settings", "ddim_of", "differences", "scheduler_of", "skipped_steps",
    "step_arguments", "steps_taken",
]  # fmt: skip


def as_sampled(prior: Prior, name: str, given: Collection[str] = ()) -> Prior:
    """Return a prior as the named sampling uses it, except for the attributes that are ``given`` by the user.

    Raises:
        OptionError: There is no such sampling, or the prior cannot be sampled so.
    """
    named = named_sampling(name)
    if isinstance(prior, PipelinePrior) and of_flow(prior.noise_schedule()):
        raise OptionError(f"sampling={name!r}: {prior.name} was trained by flow matching, leave it out")
    try:
        return prior.with_sampling(
            learned_variance=None if "learned_variance" in given else named.learned_variance,
            guided_channels=None if "guided_channels" in given else named.guided_channels,
        )
    except OptionError as error:
        raise OptionError(f"sampling={name!r}: {error}") from error


def differences(prior: Prior, settings: SamplingSettings, name: str) -> list[str]:
    """Return how a run samples otherwise than the named sampling, such as "scheduler ddim instead of ddpm"."""
    scheduler, published = scheduler_of(prior, settings), named_sampling(name)
    used: dict[str, object] = {
        "num_inference_steps": settings.num_inference_steps, "guidance_scale": settings.guidance_scale,
        "scheduler": scheduler_name(scheduler),
        "timestep_spacing": scheduler.config.get("timestep_spacing"),
        "clip_sample": scheduler.config.get("clip_sample", False),
        "learned_variance": prior.learned_variance, "guided_channels": prior.guided_channels,
    }  # fmt: skip
    of_prior = {"learned_variance": published.learned_variance, "guided_channels": published.guided_channels}
    wanted = {**published.settings, **of_prior}
    return [f"{key} {used[key]} instead of {value}" for key, value in wanted.items() if used[key] != value]


def scheduler_of(prior: Prior, settings: SamplingSettings) -> Any:
    """Return a fresh diffusers scheduler of a prior, with the steps and options of these settings.

    Raises:
        OptionError: An unknown name, more steps than the schedule has, or an option that the scheduler does not have.
    """
    scheduler = prior.scheduler(settings.scheduler, settings.num_inference_steps)
    options = {"timestep_spacing": settings.timestep_spacing, "clip_sample": settings.clip_sample}
    changes = {name: value for name, value in options.items() if value is not None}
    if not changes:
        return scheduler
    kind = type(scheduler)
    if of_flow(scheduler):
        if refused := [name for name, value in changes.items() if value is not False]:
            raise OptionError(f"{', '.join(refused)}: {prior.name} was trained by flow matching, leave it out")
        return scheduler  # what it does not have, it does not do
    for name in changes.keys() - inspect.signature(kind.__init__).parameters.keys():
        if changes.pop(name) is not False:  # what a scheduler does not have, it does not do
            raise OptionError(f"{name}: {kind.__name__} has no such option; leave it out, or choose scheduler='ddpm'")
    if "timestep_spacing" in changes and not is_spaced(scheduler):
        raise OptionError(
            f"timestep_spacing: it changes no step of scheduler={scheduler_name(scheduler)!r}; leave it out, or choose "
            "scheduler='ddim'"
        )
    return with_steps(kind, scheduler.config, changes, settings.num_inference_steps, prior.device)


def ddim_of(prior: Prior, settings: SamplingSettings) -> Any:
    """Return a fresh scheduler of DDIM without noise, with the steps and their spacing of these settings.

    It is for methods that follow DDIM's equation whatever the sampler of the run is; a learned variance is left out.

    Raises:
        OptionError: As for :func:`scheduler_of`.
    """
    if prior.learned_variance and isinstance(prior, PipelinePrior):
        prior = prior.with_sampling(learned_variance=False)
    return scheduler_of(prior, replace(settings, scheduler="ddim", eta=0.0))


def steps_taken(prior: Prior, settings: SamplingSettings, strength: float = 1.0) -> int:
    """Return the number of denoiser steps that :func:`dap.sampling.sample` runs with this ``strength``."""
    scheduler = scheduler_of(prior, settings)
    return len(scheduler.timesteps) - skipped_steps(scheduler, settings.num_inference_steps, strength)


def skipped_steps(scheduler: Any, num_inference_steps: int, strength: float) -> int:
    """Return the number of the scheduler's steps before the last share ``strength``; Heun has two for one."""
    taken = max(1, min(int(num_inference_steps * strength), num_inference_steps))
    skipped = int((num_inference_steps - taken) * scheduler.order)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return skipped


def check_settings(prior: Prior, settings: SamplingSettings, recurrences: int = 1) -> None:
    """Raise OptionError if this prior cannot be sampled with these settings.

    Raises:
        OptionError: Unknown scheduler, too many steps, classifier-free guidance without a null condition, or an ``eta``
            or recurrences that the scheduler does not take.
    """
    if settings.guidance_scale != 1 and not prior.has_null:
        raise OptionError(
            f"guidance_scale={settings.guidance_scale:g}: {prior.name} has no null condition to guide from; use 1"
        )
    scheduler = scheduler_of(prior, settings)
    step_arguments(scheduler, settings, [])
    check_recurrences(scheduler, recurrences)


def check_recurrences(scheduler: Any, recurrences: int) -> None:
    """Raise OptionError for recurrences with a scheduler that remembers earlier steps."""
    if recurrences > 1 and remembers(scheduler):
        raise OptionError(
            f"recurrences={recurrences}: {type(scheduler).__name__} remembers its steps; use 'ddpm' or 'ddim'"
        )


def step_arguments(scheduler: Any, settings: SamplingSettings, generators: list[torch.Generator]) -> dict[str, Any]:
    """Return the arguments of this scheduler's ``step`` beyond the state: generators, and η if it has one."""
    accepted = inspect.signature(scheduler.step).parameters
    arguments: dict[str, Any] = {"generator": generators} if "generator" in accepted else {}
    if "eta" in accepted:
        arguments["eta"] = settings.eta
    elif settings.eta and of_flow(scheduler):
        raise OptionError(f"eta={settings.eta}: a prior that was trained by flow matching has no eta, leave it out")
    elif settings.eta:
        raise OptionError(f"eta={settings.eta}: {type(scheduler).__name__} has no eta; choose scheduler='ddim'")
    return arguments
