"""The denoising loop.

Each step evaluates the denoiser once and shares that evaluation with every term, so an energy on features only costs
the backward pass through the blocks below its tap. Each slot has its own CPU generator, which draws x_T first and then
the scheduler's noise, so the noise of a slot depends on its generator alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor

from dap.errors import DivergedError
from dap.priors import Prior
from dap.priors.noise_levels import level
from dap.priors.schedulers import clip_range
from dap.sampling.parts import denoise_in_parts
from dap.sampling.schedule import check_recurrences, scheduler_of, skipped_steps, step_arguments
from dap.sampling.settings import SamplingSettings
from dap.sampling.steering import active_terms, ancestral_std, changed, check_terms, estimated_x0
from dap.sampling.term import StepState, Term
from dap.torch_state import own_torch_state

__all__ = ["StepCallback", "sample"]

StepCallback = Callable[[Prior, int, int, dict[str, Tensor]], dict[str, Tensor]]


@own_torch_state()
@torch.no_grad()
def sample(
    prior: Prior,
    labels: Tensor,
    generators: Sequence[torch.Generator],
    *,
    settings: SamplingSettings,
    terms: Sequence[Term] = (),
    recurrences: int = 1,
    init: Tensor | None = None,
    strength: float = 1.0,
    pass_size: int | None = None,
    steps: Collection[int] | None = None,
    callback_on_step_end: StepCallback | None = None,
) -> Tensor:
    """Draw one latent for each slot.

    Args:
        prior: The frozen diffusion model.
        labels: The prior's label of each slot, int64 (B,).
        generators: One CPU generator for each slot.
        settings: Steps, guidance scale, scheduler.
        terms: The terms that guide; without terms, latents are the prior's own samples.
        recurrences: How often each guided step is taken. Fresh noise takes x_{t−1} back to x_t in between, so that
            guidance acts again (Bansal et al., "Universal Guidance for Diffusion Models", 2023, self-recurrence).
        init: Latents (B, C, h, w) that are noised to the first step that is taken, as diffusers' image-to-image does;
            None: pure noise.
        strength: Share of the steps that are taken from ``init``, in (0, 1]; at least one step is taken.
        pass_size: The most slots in one evaluation of the denoiser; None: all. With more slots the evaluation is done
            in parts (:mod:`dap.sampling.parts`).
        steps: The numbers of the steps that are taken, to time them: the result is then no sample. None: all.
        callback_on_step_end: Called as in diffusers, ``callback(prior, step, timestep, {"latents": x})``. The loop goes
            on with the "latents" of the dict that it returns. Beside the latents are the energies (B,) of each energy
            term that acts in the step, before its scale, as "energy." and the name of its class.

    Returns:
        Latents with shape (B, C, h, w), float32, on the prior's device.

    Raises:
        OptionError: ``eta`` is set for a scheduler without it, or recurrences for one that remembers earlier steps; or
            a term is neither an energy nor a delta, has an invalid field, or returns another shape.
        DivergedError: A latent is no longer finite, or a term is not finite in the first step in which it acts.

    Example:
        >>> from dap.priors import load_prior
        >>> from dap.rng import generator
        >>> settings = SamplingSettings(num_inference_steps=4)
        >>> sample(load_prior("fashion-dit"), torch.tensor([3]), [generator(0, "a")], settings=settings).shape
        torch.Size([1, 8, 8, 8])
    """
    check_terms(terms)
    labels = labels.to(prior.device)
    scheduler = scheduler_of(prior, settings)
    extra = step_arguments(scheduler, settings, list(generators))
    check_recurrences(scheduler, recurrences)
    noise = _noise(prior, generators)
    skipped = skipped_steps(scheduler, settings.num_inference_steps, 1.0 if init is None else strength)
    x: Tensor = (
        noise * scheduler.init_noise_sigma
        if init is None
        else scheduler.add_noise(init.to(prior.device), noise, scheduler.timesteps[skipped].expand(len(noise)))
    )
    whole = pass_size is None or len(labels) <= pass_size
    denoise = prior.denoise if whole else partial(denoise_in_parts, prior, pass_size=pass_size)
    first: dict[int, Tensor] = {}  # the energies or deltas of each term in the first step in which it acted
    num_steps, clip = len(scheduler.timesteps), clip_range(scheduler)
    for step in range(skipped, num_steps):
        if steps is not None and step not in steps:
            continue
        t, active = scheduler.timesteps[step], active_terms(terms, step, num_steps)
        noise_level = level(scheduler, step)
        for repeat in range(recurrences if active else 1):
            if repeat:
                ratio = noise_level.cumulative / noise_level.after
                x = ratio**0.5 * x + (1 - ratio) ** 0.5 * _noise(prior, generators)
            own = (x / noise_level.scale).detach().requires_grad_(active.graph)  # √ᾱ_t x_0 + √(1 − ᾱ_t) ε
            energies: dict[str, Tensor] = {}
            with torch.set_grad_enabled(active.graph):
                x = noise_level.scale * own if active.graph else x
                prediction = denoise(
                    scheduler.scale_model_input(x, t), t, labels, guidance_scale=settings.guidance_scale,
                    through=active.through, taps=active.taps, **noise_level.given,
                )  # fmt: skip
                with torch.set_grad_enabled(active.through):
                    x0 = prediction.x0
                    if x0 is None:
                        x0 = estimated_x0(x, prediction.eps, noise_level, clip)
                    x0_conditional = x0 if settings.guidance_scale == 1 else prediction.x0_conditional
                    if prediction.conditional is not None and x0_conditional is None:
                        x0_conditional = estimated_x0(x, prediction.conditional, noise_level, clip)
            state = StepState(
                step, num_steps, int(t), noise_level.signal, noise_level.noise,
                ancestral_std(noise_level, prediction.variance), own, prediction.eps, x0, labels, prediction.features,
                x0_conditional,
            )  # fmt: skip
            output = (prediction.eps - x0 if noise_level.flow else prediction.eps).detach()
            output, to_sample = changed(active, state, output, noise_level, first, energies)
            if prediction.variance is not None:
                output = torch.cat([output, prediction.variance], dim=1)
            x = scheduler.step(output, t, x.detach(), **extra, return_dict=False)[0] + to_sample
            del state, prediction  # a graph that a delta term kept would stay beside that of the next step
        if callback_on_step_end is not None:
            x = callback_on_step_end(prior, step, int(t), {"latents": x, **energies}).get("latents", x)
    if not torch.isfinite(x).all():
        raise DivergedError("sampling left the finite numbers: lower the guidance scale or the method's scale")
    return x


def _noise(prior: Prior, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw the next standard normal latent of each slot, (B, C, h, w) on the prior's device."""
    draws = [torch.randn(prior.latent_shape, generator=generator) for generator in generators]
    return torch.stack(draws).to(prior.device)
