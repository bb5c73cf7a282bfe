"""Flow matching: the noise schedule of SD3, FLUX, Sana and SiT, in the terms of the others.

x_t = (1 − σ) x_0 + σ ε for σ from 1 to 0, and the network predicts v = ε − x_0 (Lipman et al., "Flow Matching for
Generative Modeling", ICLR 2023; Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image
Synthesis", ICML 2024). So α_t = 1 − σ and σ_t = σ, and

    x̂_0 = x_t − σ v,    ε̂ = x_t + (1 − σ) v.

A step of Euler's method, x + (σ' − σ) v, is (1 − σ') x̂_0 + σ' ε̂: the step of DDIM without noise. Divided by
√((1 − σ)² + σ²), x_t is √ᾱ_t x_0 + √(1 − ᾱ_t) ε with ᾱ_t = (1 − σ)² / ((1 − σ)² + σ²). In these terms every method
works as with the other schedules. At the first step σ is 1, or above 0.999: x_t is noise alone, and ε̂ does not tell
x̂_0. Terms that change ε̂ do nothing there.

Sana is sampled by DPM-Solver++ over the same σ, as its pipeline has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from dap.errors import OptionError
from dap.priors.schedulers import public, with_steps

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

__all__ = ["FlowScheduler", "flow_scheduler"]

UNUSABLE = {"invert_sigmas": "its σ rise from 0 to 1"}
EULER = ("ddim", "euler")  # Euler's step of flow matching is that of DDIM without noise


class FlowScheduler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Euler's method for flow matching, with the methods that diffusers' other schedulers have."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Return x_t as it is: the network takes the sampler's own scale."""
        return sample

    def add_noise(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return (1 − σ) x_0 + σ ε at the timesteps of steps that are set."""
        noised: Tensor = self.scale_noise(sample, timesteps, noise)
        return noised


def flow_scheduler(
    base: SchedulerMixin,
    name: str | None,
    num_inference_steps: int,
    *,
    device: torch.device,
    tokens: int,
    spaced_to_zero: bool,
) -> SchedulerMixin:
    """Return a fresh scheduler with its steps set.

    Args:
        base: The pipeline's scheduler: Euler's method, or DPM-Solver++.
        name: "euler" or "ddim", or "dpm++" where ``base`` is that; None: the kind of ``base``.
        num_inference_steps: Number of steps.
        device: Where its timesteps live.
        tokens: Tokens of an image, by which dynamic shifting shifts the noise levels.
        spaced_to_zero: Space σ from 1 to 1 / steps before shifting, as FLUX does; otherwise to the schedule's smallest.

    Raises:
        OptionError: Another name, a configuration that cannot be used, or more steps than the schedule has.
    """
    config, by_dpm = base.config, isinstance(base, DPMSolverMultistepScheduler)
    known = (*EULER, "dpm++") if by_dpm else EULER
    if name is not None and name not in known:
        raise OptionError(
            f"scheduler={name!r}: expected {' or '.join(known)}, or none, for a prior that was trained by flow matching"
        )
    for option, reason in UNUSABLE.items():
        if config.get(option):
            raise OptionError(f"{type(base).__name__}: {option}=True cannot be guided, {reason}; turn it off")
    if num_inference_steps > config.num_train_timesteps:
        raise OptionError(
            f"num_inference_steps: {type(base).__name__} takes at most {config.num_train_timesteps} here, got "
            f"{num_inference_steps}"
        )
    if by_dpm and name not in EULER:
        solver = {"algorithm_type": "dpmsolver++", "variance_type": None}
        return with_steps(DPMSolverMultistepScheduler, config, solver, num_inference_steps, device)
    known_options = inspect.signature(FlowMatchEulerDiscreteScheduler.__init__).parameters
    options = {key: value for key, value in public(config).items() if key in known_options}
    shift = {"shift": config.flow_shift} if by_dpm else {}
    scheduler: FlowScheduler = FlowScheduler.from_config(options | shift)
    given: dict[str, object] = {"mu": _shift(config, tokens)} if config.use_dynamic_shifting else {}
    if spaced_to_zero:
        given["sigmas"] = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
    try:
        scheduler.set_timesteps(num_inference_steps, device=device, **given)
    except (ArithmeticError, ImportError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise OptionError(
            f"num_inference_steps: {type(base).__name__} cannot take {num_inference_steps} with its configuration "
            f"({error}); choose another number"
        ) from error
    return scheduler


def _shift(config: Mapping[str, float], tokens: int) -> float:
    """Return µ of dynamic shifting: linear in the number of tokens, as diffusers' pipelines compute it."""
    slope = (config["max_shift"] - config["base_shift"]) / (config["max_image_seq_len"] - config["base_image_seq_len"])
    return tokens * slope + config["base_shift"] - slope * config["base_image_seq_len"]
