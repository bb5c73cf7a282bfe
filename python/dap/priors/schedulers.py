"""diffusers' schedulers: making one by name, and the scale in which each keeps x.

Most keep x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε. Euler and Heun keep x = x_0 + σ ε with σ² = (1 − ᾱ) / ᾱ (Karras et al.,
"Elucidating the Design Space of Diffusion-Based Generative Models", 2022); ``scale_model_input`` converts it to the
scale that the denoiser was trained on. Heun evaluates the denoiser twice for each step but the last: once for the step,
once at its end to correct it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

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

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

__all__ = [
    "EXPLODING", "Level", "check_guidable", "check_schedule", "clip_range", "denoiser_level", "level", "make_scheduler",
    "noised_input", "public", "remembers", "with_steps",
]  # fmt: skip

SCHEDULERS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
}
EXPLODING = (EulerDiscreteScheduler, HeunDiscreteScheduler)
KNOWN = (*SCHEDULERS.values(), PNDMScheduler)
SPACED = (*EXPLODING, DPMSolverMultistepScheduler)
SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
NEEDED = ("prediction_type", "num_train_timesteps", "beta_schedule")  # what every schedule of ᾱ has
UNUSABLE = {  # settings under which a timestep no longer stands for its ᾱ
    "use_flow_sigmas": (True, "its noise levels are those of flow matching"),
    "timestep_type": ("continuous", "its timesteps are logarithms of σ"),
    "rescale_betas_zero_snr": (True, "it starts from pure noise, where ε does not give x_0"),
}


class Level(NamedTuple):
    """The noise level of x at one step.

    Attributes:
        alpha: x = alpha · x_0 + sigma · ε, in the sampler's own scale.
        sigma: See ``alpha``.
        cumulative: ᾱ before the step; of Heun's correction, before the step that it corrects.
        after: ᾱ after the step.
        spaced: Whether the steps are spaced by σ (Karras, exponential, beta, λ), so that σ is not that of the timestep.
    """

    alpha: float
    sigma: float
    cumulative: float
    after: float
    spaced: bool = False

    @property
    def scale(self) -> float:
        """The sampler's x_t divided by √ᾱ_t x_0 + √(1 − ᾱ_t) ε; 1 for schedulers that keep this x_t."""
        return 1.0 if self.alpha != 1 else (1 + self.sigma**2) ** 0.5

    @property
    def scale_after(self) -> float:
        """``scale`` for x after the step."""
        return 1.0 if self.alpha != 1 else self.after**-0.5

    @property
    def given(self) -> dict[str, Any]:
        """Arguments of ``Prior.denoise`` that tell it the noise level, if its timestep does not."""
        return {"sigma": self.sigma / self.alpha} if self.spaced else {}


def make_scheduler(
    base: SchedulerMixin,
    name: str | None,
    num_inference_steps: int,
    *,
    device: torch.device,
    learned_variance: bool = False,
) -> SchedulerMixin:
    """Return a fresh scheduler with its steps set; it takes noise estimates ε, even if the network predicts v.

    Args:
        base: The pipeline's scheduler, whose noise schedule is kept.
        name: "ddpm", "ddim", "dpm++", "euler" or "heun"; None: the kind of ``base``.
        num_inference_steps: Number of steps.
        device: Where its timesteps live.
        learned_variance: Use the variance that the network predicts; only DDPM can.

    Raises:
        OptionError: An unknown name, more steps than the schedule has, or a scheduler that cannot be used.
    """
    if name is not None and name not in SCHEDULERS:
        raise unknown_name_error("scheduler", name, SCHEDULERS)
    kind = SCHEDULERS[name] if name else type(base)
    check_guidable(kind, base.config)
    config = base.config
    if kind is PNDMScheduler and config.prediction_type != "epsilon":
        raise OptionError(
            "PNDMScheduler: works with networks that predict ε, this one predicts v; choose scheduler='ddim'"
        )
    # DPM-Solver++ cannot take every step of the schedule
    longest = config.num_train_timesteps - (kind is DPMSolverMultistepScheduler)
    if num_inference_steps > longest:
        raise OptionError(
            f"num_inference_steps: {kind.__name__} takes at most {longest} here, got {num_inference_steps}"
        )
    overrides: dict[str, object] = {"prediction_type": "epsilon"}
    if kind is DPMSolverMultistepScheduler:
        # With a learned variance it would cut the latents to three channels. It cannot clip x_0: with the
        # squared-cosine schedule the log-SNR of the first steps has to be bounded instead.
        overrides |= {"variance_type": None, "algorithm_type": "dpmsolver++"}
        if config.beta_schedule == "squaredcos_cap_v2":
            overrides["lambda_min_clipped"] = -5.1
    if learned_variance and kind is not DDPMScheduler:
        raise OptionError(f"learned_variance needs scheduler='ddpm', got {kind.__name__}")
    if kind is DDPMScheduler:
        variance = config.get("variance_type") or "fixed_small"
        fixed = "fixed_small" if variance.startswith("learned") else variance
        overrides["variance_type"] = "learned_range" if learned_variance else fixed
    return with_steps(kind, config, overrides, num_inference_steps, device)


def check_guidable(kind: type, config: Mapping[str, object]) -> None:
    """Raise OptionError unless dap can guide with a kind of scheduler under a configuration."""
    if kind not in KNOWN:
        raise OptionError(
            f"{kind.__name__}: dap cannot guide with this scheduler; choose scheduler={' or '.join(SCHEDULERS)}"
        )
    for option, (value, reason) in UNUSABLE.items():
        if config.get(option) == value:
            raise OptionError(f"{kind.__name__}: {option}={value!r} cannot be guided, {reason}; turn it off")


def with_steps(
    kind: Any, config: Mapping[str, object], overrides: Mapping[str, object], steps: int, device: torch.device
) -> SchedulerMixin:
    """Return a scheduler of a configuration with some values replaced and its steps set, or raise OptionError."""
    # Pass all public values: a pipeline and its saved folder then give the same samples. From an object, from_config
    # would replace values that were left at the old kind's defaults by the new kind's defaults.
    try:
        scheduler: SchedulerMixin = kind.from_config(public(config), **overrides)
        scheduler.set_timesteps(steps, device=device)
    except (ArithmeticError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise OptionError(
            f"num_inference_steps: {kind.__name__} cannot take {steps} with its configuration ({error}); "
            "choose another number, or scheduler='ddim'"
        ) from error
    return scheduler


def check_schedule(name: str, scheduler: SchedulerMixin) -> str:
    """Return what a network predicts, "epsilon" or "v_prediction", from the configuration of its scheduler.

    Args:
        name: Name of the prior, for errors.
        scheduler: The pipeline's scheduler.

    Raises:
        OptionError: The scheduler has no schedule of ᾱ (flow matching, consistency models), or the network predicts
            something else.
    """
    missing = [key for key in NEEDED if key not in scheduler.config]
    if missing:
        raise OptionError(
            f"{name}: expected a scheduler with a schedule of ᾱ, such as DDIMScheduler; {type(scheduler).__name__} has "
            f"no {' and no '.join(missing)}"
        )
    predicts = scheduler.config.prediction_type
    if predicts not in ("epsilon", "v_prediction"):
        raise OptionError(f"{name}: expected a network that predicts epsilon or v, got {predicts}")
    return str(predicts)


def level(scheduler: SchedulerMixin, step: int) -> Level:
    """Return the noise level at step ``step`` of a scheduler whose steps are set."""
    # DDIM keeps these options of another scheduler in its configuration, without their effect
    spaced = isinstance(scheduler, SPACED) and any(scheduler.config.get(option) for option in SPACINGS)
    if isinstance(scheduler, EXPLODING):
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
    elsewhere = isinstance(scheduler, DPMSolverMultistepScheduler) and timestep not in scheduler.timesteps.tolist()
    if isinstance(scheduler, EXPLODING) or elsewhere:
        alpha, sigma = denoiser_level(scheduler, t)
        return alpha * latents + sigma * noise
    noised: Tensor = scheduler.scale_model_input(scheduler.add_noise(latents, noise, t.expand(len(latents))), t)
    return noised


def clip_range(scheduler: SchedulerMixin) -> float | None:
    """Return the largest |x̂_0| that the scheduler allows; None if it does not clip."""
    if isinstance(scheduler, DDPMScheduler | DDIMScheduler) and scheduler.config.clip_sample:
        return float(scheduler.config.clip_sample_range)
    return None


def remembers(scheduler: SchedulerMixin) -> bool:
    """Return whether a step depends on earlier steps, so that it cannot be repeated."""
    return not isinstance(scheduler, DDPMScheduler | DDIMScheduler)


def public(config: Mapping[str, object]) -> dict[str, object]:
    """Return a diffusers configuration without the entries that depend on the file and version that it came from."""
    return {key: value for key, value in config.items() if not key.startswith("_")}
