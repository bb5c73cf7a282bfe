"""Checks of a scheduler against the run's settings, the steps that it runs, and the arguments of its ``step``."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from dap.errors import OptionError
from dap.priors import Prior
from dap.priors.schedulers import remembers
from dap.sampling.settings import SamplingSettings

__all__ = ["check_recurrences", "check_settings", "skipped_steps", "step_arguments", "steps_taken"]


def steps_taken(prior: Prior, settings: SamplingSettings, strength: float = 1.0) -> int:
    """Return the number of denoiser steps that :func:`dap.sampling.sample` runs with this ``strength``."""
    scheduler = prior.scheduler(settings.scheduler, settings.num_inference_steps)
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
    scheduler = prior.scheduler(settings.scheduler, settings.num_inference_steps)
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
    elif settings.eta:
        raise OptionError(f"eta={settings.eta}: {type(scheduler).__name__} has no eta; choose scheduler='ddim'")
    return arguments
