"""The one denoising loop.

Each step evaluates the denoiser once and shares that evaluation with every term: an energy on features costs the
backward pass through the blocks below its tap and nothing else. Noise comes from one CPU generator per slot, first
x_T, then what the scheduler draws, so a slot's noise depends on nothing but its generator.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from dap.errors import DivergedError, OptionError
from dap.priors import Prior
from dap.priors.schedulers import clip_range, level, remembers
from dap.sampling.settings import SamplingSettings
from dap.sampling.term import DeltaTerm, EnergyTerm, StepState, Term

__all__ = ["StepCallback", "check_settings", "sample"]

StepCallback = Callable[[Prior, int, int, dict[str, Tensor]], dict[str, Tensor]]


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
    callback_on_step_end: StepCallback | None = None,
) -> Tensor:
    """Draws one latent for each slot.

    Args:
        prior: The frozen diffusion model.
        labels: The prior's label of each slot, int64 (B,).
        generators: One CPU generator for each slot.
        settings: Steps, guidance scale, scheduler.
        terms: What guides; none gives the prior's own samples.
        recurrences: How often each guided step is taken: x_{t−1} goes back to x_t by fresh noise in between, so that
            guidance acts again (Bansal et al., "Universal Guidance for Diffusion Models", 2023, self-recurrence).
        init: Latents (B, C, h, w) that are noised to the first step that is taken, as diffusers' image-to-image does;
            None: pure noise.
        strength: Share of the steps that are taken from ``init``, in (0, 1]; at least one is.
        callback_on_step_end: Called as in diffusers, ``callback(prior, step, timestep, {"latents": x})``; the
            "latents" of the dict that it returns are used on.

    Returns:
        Latents with shape (B, C, h, w), float32, on the prior's device.

    Raises:
        OptionError: ``eta`` is set for a scheduler without it, or recurrences for one that remembers earlier steps.
        DivergedError: A latent is no longer finite.

    Example:
        >>> from dap.priors import load_prior
        >>> from dap.rng import generator
        >>> settings = SamplingSettings(num_inference_steps=4)
        >>> sample(load_prior("fashion-dit"), torch.tensor([3]), [generator(0, "a")], settings=settings).shape
        torch.Size([1, 8, 8, 8])
    """
    labels = labels.to(prior.device)
    scheduler = prior.scheduler(settings.scheduler, settings.num_inference_steps)
    extra = _step_arguments(scheduler, settings, list(generators))
    _check_recurrences(scheduler, recurrences)
    noise = torch.stack([torch.randn(prior.latent_shape, generator=g) for g in generators]).to(prior.device)
    skipped = 0 if init is None else _skipped(scheduler, settings.num_inference_steps, strength)
    x: Tensor = (
        noise * scheduler.init_noise_sigma
        if init is None
        else scheduler.add_noise(init.to(prior.device), noise, scheduler.timesteps[skipped].expand(len(noise)))
    )
    first_energies: dict[int, Tensor] = {}
    num_steps, clip = len(scheduler.timesteps), clip_range(scheduler)
    for step in range(skipped, num_steps):
        t = scheduler.timesteps[step]
        active = [term for term in terms if term.scale != 0 and term.window.contains(step, num_steps)]
        energies = [term for term in active if isinstance(term, EnergyTerm)]
        deltas = [term for term in active if isinstance(term, DeltaTerm)]
        differentiated = any(term.needs == "denoiser" for term in deltas)
        through = differentiated or any(term.needs == "denoiser" for term in energies)
        graph = through or bool(energies)
        now = level(scheduler, step)
        alpha, sigma = now.alpha, now.sigma
        for repeat in range(recurrences if active else 1):
            if repeat:
                ratio = now.cumulative / now.after
                noise = torch.stack([torch.randn(prior.latent_shape, generator=g) for g in generators])
                x = ratio**0.5 * x + (1 - ratio) ** 0.5 * noise.to(prior.device)
            x = x.detach().requires_grad_(graph)
            with torch.set_grad_enabled(graph):
                prediction = prior.denoise(
                    scheduler.scale_model_input(x, t), t, labels,
                    guidance_scale=settings.guidance_scale, through=through,
                    taps=frozenset().union(*(term.taps for term in active)),
                )  # fmt: skip
                with torch.set_grad_enabled(through):
                    x0 = (x - sigma * prediction.eps) / alpha
                    if clip is not None:
                        x0 = x0.clamp(-clip, clip)
                std = _std(now.cumulative, now.after, prediction.variance)
                state = StepState(
                    step, num_steps, int(t), alpha, sigma, std, x, prediction.eps, x0, labels, prediction.features
                )
                gradients = _gradients(energies, state, first_energies, keep_graph=differentiated)

            eps, to_sample = prediction.eps.detach(), torch.zeros_like(x)
            for place, gradient in gradients.items():
                gradient = now.scale * gradient  # that of √ᾱ_t x_0 + √(1 − ᾱ_t) ε, in whichever scale the sampler works
                if place == "eps":
                    eps = eps + sigma / now.scale * gradient
                elif place == "x0":
                    eps = eps + alpha / sigma * gradient
                else:
                    to_sample = to_sample - now.scale_after * gradient
            for term in deltas:
                delta = term.scale * term.delta(state)
                if term.at == "eps":
                    eps = eps + delta
                elif term.at == "x0":
                    eps = eps - alpha / sigma * delta
                else:
                    to_sample = to_sample + now.scale_after * delta
            output = eps if prediction.variance is None else torch.cat([eps, prediction.variance], dim=1)
            x = scheduler.step(output, t, x.detach(), **extra, return_dict=False)[0] + to_sample
            del state, prediction  # a graph that a delta term kept would stay beside that of the next step
        if callback_on_step_end is not None:
            x = callback_on_step_end(prior, step, int(t), {"latents": x}).get("latents", x)
    if not torch.isfinite(x).all():
        raise DivergedError("sampling left the finite numbers: lower the guidance scale or the method's scale")
    return x


def _skipped(scheduler: Any, num_inference_steps: int, strength: float) -> int:
    """How many of the scheduler's steps are left out before ``strength`` of all; Heun has two for one."""
    taken = max(1, min(int(num_inference_steps * strength), num_inference_steps))
    skipped = int((num_inference_steps - taken) * scheduler.order)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return skipped


def check_settings(prior: Prior, settings: SamplingSettings, recurrences: int = 1) -> None:
    """Fails early where this prior cannot be sampled with these settings.

    Raises:
        OptionError: Unknown scheduler, too many steps, classifier-free guidance without a null condition, or an ``eta``
            or recurrences that the scheduler does not take.
    """
    if settings.guidance_scale != 1 and not prior.has_null:
        raise OptionError(
            f"guidance_scale={settings.guidance_scale:g}: {prior.name} has no null condition to guide from; use 1"
        )
    scheduler = prior.scheduler(settings.scheduler, settings.num_inference_steps)
    _step_arguments(scheduler, settings, [])
    _check_recurrences(scheduler, recurrences)


def _check_recurrences(scheduler: Any, recurrences: int) -> None:
    """A scheduler that remembers earlier steps cannot take one twice."""
    if recurrences > 1 and remembers(scheduler):
        raise OptionError(
            f"recurrences={recurrences}: {type(scheduler).__name__} remembers its steps; use 'ddpm' or 'ddim'"
        )


def _step_arguments(scheduler: Any, settings: SamplingSettings, generators: list[torch.Generator]) -> dict[str, Any]:
    """What this scheduler's ``step`` takes beyond the state: the slots' generators, and η where it has one."""
    accepted = inspect.signature(scheduler.step).parameters
    arguments: dict[str, Any] = {"generator": generators} if "generator" in accepted else {}
    if "eta" in accepted:
        arguments["eta"] = settings.eta
    elif settings.eta:
        raise OptionError(f"eta={settings.eta}: {type(scheduler).__name__} has no eta; choose scheduler='ddim'")
    return arguments


def _std(now: float, after: float, variance: Tensor | None) -> float | Tensor:
    """The standard deviation of an ancestral step's noise (Ho et al. 2020, Eq. 7; Nichol, Dhariwal 2021, Eq. 15)."""
    beta = 1 - now / after
    posterior = (1 - after) / (1 - now) * beta
    if variance is None:
        return math.sqrt(posterior)
    share = (variance.detach() + 1) / 2
    return torch.exp(0.5 * (share * math.log(beta) + (1 - share) * math.log(max(posterior, 1e-20))))


def _gradients(
    terms: Sequence[EnergyTerm], state: StepState, first: dict[int, Tensor], *, keep_graph: bool
) -> dict[str, Tensor]:
    """∇_{x_t} of the weighted energies by place, one backward pass for each place.

    ``first`` keeps each normalised term's energies of the first step in which it acted; ``keep_graph`` leaves the graph
    to delta terms.
    """
    totals: dict[str, Tensor] = {}
    for term in terms:
        energy = term.energy(state)
        if term.normalise:
            start = first.setdefault(id(term), energy.detach())
            energy = energy / torch.where(start > 0, start, 1)
        totals[term.at] = totals.get(term.at, torch.zeros(())) + term.scale * energy.sum()
    last = len(totals) - 1
    return {
        place: torch.autograd.grad(total, state.sample, retain_graph=keep_graph or number < last)[0]
        for number, (place, total) in enumerate(totals.items())
    }
