"""diffusers' schedulers: which are made, and in which scale each has x.

Most have x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε. Euler and Heun have x = x_0 + σ ε with σ² = (1 − ᾱ) / ᾱ (Karras et al.,
"Elucidating the Design Space of Diffusion-Based Generative Models", 2022); ``scale_model_input`` makes of it what the
denoiser was trained on. Heun takes each step but the last twice: once there, and once corrected by where it led.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from dap.errors import OptionError
from dap.registry import unknown_name_error

__all__ = ["Level", "clip_range", "denoiser_level", "level", "make_scheduler", "noised_input", "public", "remembers"]

SCHEDULERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
}
EXPLODING = (EulerDiscreteScheduler, HeunDiscreteScheduler)
KNOWN = (*SCHEDULERS.values(), PNDMScheduler)


class Level(NamedTuple):
    """The noise of x at one step.

    Attributes:
        alpha: x = alpha · x_0 + sigma · ε, in the sampler's own scale.
        sigma: See ``alpha``.
        cumulative: ᾱ before the step; of Heun's correction, before the step that it corrects.
        after: ᾱ after the step.
    """

    alpha: float
    sigma: float
    cumulative: float
    after: float

    @property
    def scale(self) -> float:
        """The sampler's x_t over √ᾱ_t x_0 + √(1 − ᾱ_t) ε; 1 where they are the same."""
        return 1.0 if self.alpha != 1 else (1 + self.sigma**2) ** 0.5

    @property
    def scale_after(self) -> float:
        """As ``scale``, of what the step leads to."""
        return 1.0 if self.alpha != 1 else self.after**-0.5


def make_scheduler(
    own: Any, name: str | None, num_inference_steps: int, *, device: torch.device, learned_variance: bool = False
) -> Any:
    """A fresh scheduler with its steps set, for noise estimates ε whatever the network predicts.

    Args:
        own: The pipeline's scheduler, whose schedule is kept.
        name: "ddpm", "ddim", "dpm++", "euler" or "heun"; None: the kind of ``own``.
        num_inference_steps: Number of steps.
        device: Where its timesteps live.
        learned_variance: Use the variance that the network predicts, which DDPM alone takes.

    Raises:
        OptionError: An unknown name, more steps than there are, or a kind that does not fit.
    """
    if name is not None and name not in SCHEDULERS:
        raise unknown_name_error("scheduler", name, SCHEDULERS)
    kind = SCHEDULERS[name] if name else type(own)
    if kind not in KNOWN:
        raise OptionError(
            f"{kind.__name__}: not among the schedulers that guidance knows; choose scheduler={' or '.join(SCHEDULERS)}"
        )
    config = own.config
    if kind is PNDMScheduler and config.prediction_type != "epsilon":
        raise OptionError("PNDMScheduler: averages what the network predicts, v, and not ε; choose scheduler='ddim'")
    if config.get("rescale_betas_zero_snr"):
        raise OptionError(
            f"{kind.__name__}: at zero signal (rescale_betas_zero_snr) ε tells nothing of x_0; set it off"
        )
    # DPM-Solver++ cannot take every step of the schedule
    longest = config.num_train_timesteps - (kind is DPMSolverMultistepScheduler)
    if num_inference_steps > longest:
        raise OptionError(
            f"num_inference_steps: {kind.__name__} takes at most {longest} here, got {num_inference_steps}"
        )
    overrides: dict[str, Any] = {"prediction_type": "epsilon"}
    if kind is DPMSolverMultistepScheduler:
        # It would cut the latents to three channels where it reads a learned variance, and it cannot clip x0:
        # with the squared-cosine schedule the log-SNR of the first steps has to be bounded instead.
        overrides |= {"variance_type": None, "algorithm_type": "dpmsolver++"}
        if config.beta_schedule == "squaredcos_cap_v2":
            overrides["lambda_min_clipped"] = -5.1
    if learned_variance and kind is not DDPMScheduler:
        raise OptionError(f"learned_variance needs scheduler='ddpm', got {kind.__name__}")
    if kind is DDPMScheduler:
        given = config.get("variance_type") or "fixed_small"
        fixed = "fixed_small" if given.startswith("learned") else given
        overrides["variance_type"] = "learned_range" if learned_variance else fixed
    # all that is public, so that a pipeline and its saved folder give the same samples: of an object diffusers would
    # take another kind's defaults where its own were left at theirs
    scheduler = kind.from_config(public(config), **overrides)
    scheduler.set_timesteps(num_inference_steps, device=device)
    return scheduler


def level(scheduler: Any, step: int) -> Level:
    """The noise at step ``step`` of a scheduler whose steps are set."""
    if isinstance(scheduler, EXPLODING):
        now, following = float(scheduler.sigmas[step]), float(scheduler.sigmas[step + 1])
        corrects = now == following  # Heun
        before, after = (float(scheduler.sigmas[step - 1]), now) if corrects else (now, following)
        return Level(1.0, now, 1 / (1 + before**2), 1 / (1 + after**2))
    times = scheduler.timesteps
    cumulative = float(scheduler.alphas_cumprod[int(times[step])])
    after = float(scheduler.alphas_cumprod[int(times[step + 1])]) if step + 1 < len(times) else 1.0
    return Level(cumulative**0.5, (1 - cumulative) ** 0.5, cumulative, after)


def denoiser_level(scheduler: Any, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """√ᾱ_t and √(1 − ᾱ_t) of what the denoiser sees; between two whole t, σ is interpolated, as Euler does it."""
    cumulative = scheduler.alphas_cumprod.double().cpu().numpy()
    sigmas = ((1 - cumulative) / cumulative) ** 0.5
    sigma = torch.as_tensor(np.interp(timestep.double().cpu().numpy(), np.arange(len(sigmas)), sigmas))
    alpha = (1 + sigma**2) ** -0.5
    return alpha.float().to(timestep.device), (sigma * alpha).float().to(timestep.device)


def noised_input(scheduler: Any, latents: Tensor, noise: Tensor, timestep: int) -> Tensor:
    """What the denoiser sees of real latents at t: the scheduler's own ``add_noise`` and ``scale_model_input``.

    Euler and Heun look t up among their steps, and scale by the step that they are at, so their form is written out.
    """
    t = torch.tensor(timestep, device=latents.device)
    if isinstance(scheduler, EXPLODING):
        alpha, sigma = denoiser_level(scheduler, t)
        return alpha * latents + sigma * noise
    noised: Tensor = scheduler.scale_model_input(scheduler.add_noise(latents, noise, t.expand(len(latents))), t)
    return noised


def clip_range(scheduler: Any) -> float | None:
    """The largest |x̂_0| that the scheduler allows; None if it does not clip."""
    if isinstance(scheduler, DDPMScheduler | DDIMScheduler) and scheduler.config.clip_sample:
        return float(scheduler.config.clip_sample_range)
    return None


def remembers(scheduler: Any) -> bool:
    """Whether a step depends on the steps before, so that none can be taken twice."""
    return not isinstance(scheduler, DDPMScheduler | DDIMScheduler)


def public(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration without what depends on where and by which version it was saved."""
    return {key: value for key, value in config.items() if not key.startswith("_")}
