"""The noise level of each step of diffusers' schedulers, and of each timestep.

Most keep x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε. Euler and Heun keep x = x_0 + σ ε with σ² = (1 − ᾱ) / ᾱ (Karras et al.,
"Elucidating the Design Space of Diffusion-Based Generative Models", 2022); ``scale_model_input`` converts it to the
scale that the denoiser was trained on. Heun evaluates the denoiser twice for each step but the last: once for the step,
once at its end to correct it. Flow matching keeps (1 − σ) x_0 + σ ε (:mod:`dap.priors.flow`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dap.priors.schedulers import DPM, EXPLODING, FLOW, SPACED, SPACINGS, is_kind, of_flow

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

__all__ = ["Level", "denoiser_level", "level", "noised_input"]

PURE_NOISE = 1e-3  # of flow matching: with a smaller share of x_0 in x_t, ε̂ does not tell x̂_0


class Level(NamedTuple):
    """The noise level of x at one step.

    Attributes:
        alpha: x = alpha · x_0 + sigma · ε, in the sampler's own scale.
        sigma: See ``alpha``.
        cumulative: ᾱ before the step; of Heun's correction, before the step that it corrects.
        after: ᾱ after the step.
        spaced: Whether the steps are spaced by σ (Karras, exponential, beta, λ, or DPM-Solver++ for flow matching), so
            that σ is not that of the timestep.
        flow: Whether the sampler takes v = ε − x_0 (:mod:`dap.priors.flow`) and not ε.
    """

    alpha: float
    sigma: float
    cumulative: float
    after: float
    spaced: bool = False
    flow: bool = False

    @property
    def scale(self) -> float:
        """The sampler's x_t divided by √ᾱ_t x_0 + √(1 − ᾱ_t) ε; 1 for schedulers that keep this x_t."""
        if self.flow:
            return math.hypot(self.alpha, self.sigma)
        return 1.0 if self.alpha != 1 else (1 + self.sigma**2) ** 0.5

    @property
    def signal(self) -> float:
        """√ᾱ_t, in whichever scale the sampler works."""
        return self.alpha / self.scale

    @property
    def noise(self) -> float:
        """√(1 − ᾱ_t)."""
        return self.sigma / self.scale

    @property
    def scale_after(self) -> float:
        """``scale`` for x after the step."""
        if self.flow:  # σ' / (1 − σ') is the ratio of noise to signal
            ratio = math.sqrt(1 / self.after - 1)
            return math.hypot(1, ratio) / (1 + ratio)
        return 1.0 if self.alpha != 1 else self.after**-0.5

    @property
    def per_eps(self) -> float:
        """How much the sampler's input, ε or v, changes with ε, at the same x_t; of v at pure noise, 0."""
        if not self.flow:
            return 1.0
        return 1 / self.alpha if self.alpha >= PURE_NOISE else 0.0

    @property
    def per_x0(self) -> float:
        """How much the sampler's input, ε or v, changes with x_0, at the same x_t."""
        return -1 / self.sigma if self.flow else -self.alpha / self.sigma

    @property
    def given(self) -> dict[str, Any]:
        """Arguments of ``Prior.denoise`` that tell it the noise level, if its timestep does not."""
        return {"sigma": self.sigma / self.alpha} if self.spaced else {}


def level(scheduler: SchedulerMixin, step: int) -> Level:
    """Return the noise level at step ``step`` of a scheduler whose steps are set."""
    if of_flow(scheduler):
        sigma, following = (float(sigma) for sigma in scheduler.sigmas[step : step + 2])
        before, after = ((1 - own) ** 2 / ((1 - own) ** 2 + own**2) for own in (sigma, following))
        # DPM-Solver++ rounds its timesteps, so that they do not tell σ
        return Level(1 - sigma, sigma, before, after, is_kind(scheduler, DPM), flow=True)
    # DDIM keeps these options of another scheduler in its configuration, without their effect
    spaced = is_kind(scheduler, *SPACED) and any(scheduler.config.get(option) for option in SPACINGS)
    if is_kind(scheduler, *EXPLODING):
        sigma, following = float(scheduler.sigmas[step]), float(scheduler.sigmas[step + 1])
        corrects = sigma == following  # Heun
        before, after = (float(scheduler.sigmas[step - 1]), sigma) if corrects else (sigma, following)
        return Level(1.0, sigma, 1 / (1 + before**2), 1 / (1 + after**2), spaced)
    if spaced:  # DPM-Solver++, whose timesteps are rounded: its own σ is not that of the timestep
        before, after = (1 / (1 + float(sigma) ** 2) for sigma in scheduler.sigmas[step : step + 2])
        return Level(before**0.5, (1 - before) ** 0.5, before, after, spaced)
    times = scheduler.timesteps
    cumulative = float(scheduler.alphas_cumprod[int(times[step])])
    after = float(scheduler.alphas_cumprod[int(times[step + 1])]) if step + 1 < len(times) else 1.0
    return Level(cumulative**0.5, (1 - cumulative) ** 0.5, cumulative, after)


def denoiser_level(scheduler: SchedulerMixin, timestep: Tensor, ratio: float | None = None) -> tuple[Tensor, Tensor]:
    """Return √ᾱ_t and √(1 − ᾱ_t) of the denoiser's input; between two whole t, σ is interpolated, as Euler does.

    Args:
        scheduler: The scheduler, for its ᾱ.
        timestep: t, of any shape.
        ratio: σ_t / α_t of all, where it is not that of the timestep.
    """
    if of_flow(scheduler):
        sigma = timestep.float() / scheduler.config.num_train_timesteps
        if ratio is not None:
            sigma = torch.full_like(sigma, ratio / (1 + ratio))
        return 1 - sigma, sigma
    cumulative = scheduler.alphas_cumprod.double().cpu().numpy()
    sigmas = ((1 - cumulative) / cumulative) ** 0.5
    t = timestep.double().cpu()
    known = np.interp(t.numpy(), np.arange(len(sigmas)), sigmas)
    sigma = torch.as_tensor(known) if ratio is None else torch.full_like(t, ratio)
    alpha = (1 + sigma**2) ** -0.5
    return alpha.float().to(timestep.device), (sigma * alpha).float().to(timestep.device)


def noised_input(scheduler: SchedulerMixin, latents: Tensor, noise: Tensor, timestep: int) -> Tensor:
    """Return the denoiser's input for real latents noised to t: ``add_noise`` and ``scale_model_input``.

    For Euler, Heun and DPM-Solver++ the formula is written out, because their methods work only at the steps that are
    set.
    """
    t = torch.tensor(timestep, device=latents.device)
    elsewhere = is_kind(scheduler, DPM) and timestep not in scheduler.timesteps.tolist()
    if is_kind(scheduler, *EXPLODING, FLOW) or elsewhere:
        alpha, sigma = denoiser_level(scheduler, t)
        return alpha * latents + sigma * noise
    noised: Tensor = scheduler.scale_model_input(scheduler.add_noise(latents, noise, t.expand(len(latents))), t)
    return noised
