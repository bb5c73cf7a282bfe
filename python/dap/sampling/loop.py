"""The denoising loop.

Each step evaluates the denoiser once and shares that evaluation with every term, so an energy on features only costs
the backward pass through the blocks below its tap. Each slot has its own CPU generator, which draws x_T first and then
the scheduler's noise, so the noise of a slot depends on its generator alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial

import torch
from torch import Tensor

from dap.errors import DivergedError, OptionError
from dap.priors import Prior
from dap.priors.schedulers import clip_range, level
from dap.sampling.parts import denoise_in_parts
from dap.sampling.schedule import check_recurrences, scheduler_of, skipped_steps, step_arguments
from dap.sampling.settings import SamplingSettings
from dap.sampling.term import DeltaTerm, EnergyTerm, StepState, Term
from dap.torch_state import own_torch_state

__all__ = ["ENERGY", "StepCallback", "sample"]

ENERGY = "energy."  # with the name of a term: the key of its energies

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
    _check_terms(terms)
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
    first_energies: dict[int, Tensor] = {}
    num_steps, clip = len(scheduler.timesteps), clip_range(scheduler)
    active_in = [
        [term for term in terms if term.scale != 0 and term.window.contains(step, num_steps)]
        for step in range(num_steps)
    ]
    for step in range(skipped, num_steps):
        if steps is not None and step not in steps:
            continue
        t, active = scheduler.timesteps[step], active_in[step]
        energies = [term for term in active if isinstance(term, EnergyTerm)]
        deltas = [term for term in active if isinstance(term, DeltaTerm)]
        differentiated = any(term.needs == "denoiser" for term in deltas)
        through = differentiated or any(term.needs == "denoiser" for term in energies)
        graph = through or bool(energies)
        noise_level = level(scheduler, step)
        alpha, sigma = noise_level.alpha, noise_level.sigma
        for repeat in range(recurrences if active else 1):
            if repeat:
                ratio = noise_level.cumulative / noise_level.after
                x = ratio**0.5 * x + (1 - ratio) ** 0.5 * _noise(prior, generators)
            x = x.detach().requires_grad_(graph)
            energies_now: dict[str, Tensor] = {}
            with torch.set_grad_enabled(graph):
                prediction = denoise(
                    scheduler.scale_model_input(x, t), t, labels, guidance_scale=settings.guidance_scale,
                    through=through, taps=frozenset().union(*(term.taps for term in active)), **noise_level.given,
                )  # fmt: skip
                with torch.set_grad_enabled(through):
                    x0 = _x0(x, prediction.eps, alpha, sigma, clip)
                    x0_conditional = x0 if settings.guidance_scale == 1 else None
                    if prediction.conditional is not None:
                        x0_conditional = _x0(x, prediction.conditional, alpha, sigma, clip)
                std = _std(noise_level.cumulative, noise_level.after, prediction.variance)
                state = StepState(
                    step, num_steps, int(t), alpha, sigma, std, x, prediction.eps, x0, labels, prediction.features,
                    x0_conditional,
                )  # fmt: skip
                gradients = _gradients(energies, state, first_energies, energies_now, keep_graph=differentiated)

            eps, to_sample = prediction.eps.detach(), torch.zeros_like(x)
            for place, gradient in gradients.items():
                # of √ᾱ_t x_0 + √(1 − ᾱ_t) ε, in whichever scale the sampler works
                gradient = noise_level.scale * gradient
                if place == "eps":
                    eps = eps + sigma / noise_level.scale * gradient
                elif place == "x0":
                    eps = eps + alpha / sigma * gradient
                else:
                    to_sample = to_sample - noise_level.scale_after * gradient
            for term in deltas:
                delta = term.scale * _checked(term, "delta", term.delta(state), x.shape, first_energies)
                if term.at == "eps":
                    eps = eps + delta
                elif term.at == "x0":
                    eps = eps - alpha / sigma * delta
                else:
                    to_sample = to_sample + noise_level.scale_after * delta
            output = eps if prediction.variance is None else torch.cat([eps, prediction.variance], dim=1)
            x = scheduler.step(output, t, x.detach(), **extra, return_dict=False)[0] + to_sample
            del state, prediction  # a graph that a delta term kept would stay beside that of the next step
        if callback_on_step_end is not None:
            x = callback_on_step_end(prior, step, int(t), {"latents": x, **energies_now}).get("latents", x)
    if not torch.isfinite(x).all():
        raise DivergedError("sampling left the finite numbers: lower the guidance scale or the method's scale")
    return x


def _noise(prior: Prior, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw the next standard normal latent of each slot, (B, C, h, w) on the prior's device."""
    draws = [torch.randn(prior.latent_shape, generator=generator) for generator in generators]
    return torch.stack(draws).to(prior.device)


def _check_terms(terms: Sequence[Term]) -> None:
    """Raise OptionError unless every term is an EnergyTerm or a DeltaTerm with valid fields."""
    for term in terms:
        if not isinstance(term, EnergyTerm | DeltaTerm):
            raise OptionError(
                f"terms: expected subclasses of dap.sampling.EnergyTerm or DeltaTerm, got {type(term).__name__}"
            )
        term.check()  # again, for a subclass that has its own __init__ or __post_init__


def _checked(term: Term, part: str, value: Tensor, shape: torch.Size, first: dict[int, Tensor]) -> Tensor:
    """Check the shape of a term's result and, in the first step in which the term acts, its values; return the result.

    Raises:
        OptionError: It has another shape.
        DivergedError: It is not finite.
    """
    if not isinstance(value, Tensor) or value.shape != shape:
        result = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise OptionError(f"term {type(term).__name__}: {part} has to return shape {tuple(shape)}, got {result}")
    if id(term) not in first:
        first[id(term)] = value.detach()
        if not torch.isfinite(value).all():
            raise DivergedError(f"term {type(term).__name__}: {part} is not finite in the first step in which it acts")
    return value


def _x0(x: Tensor, eps: Tensor, alpha: float, sigma: float, clip: float | None) -> Tensor:
    """Return the estimate of x_0 that belongs to a noise estimate."""
    x0 = (x - sigma * eps) / alpha
    return x0 if clip is None else x0.clamp(-clip, clip)


def _std(now: float, after: float, variance: Tensor | None) -> float | Tensor:
    """Return the standard deviation of an ancestral step's noise.

    Ho et al. 2020, Eq. 7, or with a learned variance Nichol and Dhariwal 2021, Eq. 15.
    """
    beta = 1 - now / after
    posterior = (1 - after) / (1 - now) * beta
    if variance is None:
        return math.sqrt(posterior)
    share = (variance.detach() + 1) / 2
    return torch.exp(0.5 * (share * math.log(beta) + (1 - share) * math.log(max(posterior, 1e-20))))


def _gradients(
    terms: Sequence[EnergyTerm], state: StepState, first: dict[int, Tensor], now: dict[str, Tensor], *,
    keep_graph: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Return ∇_{x_t} of the weighted energies by place, one backward pass for each place.

    ``first`` holds the energies of each term in the first step in which it acted, ``now`` gets those of this step;
    ``keep_graph`` keeps the graph for delta terms.
    """
    totals: dict[str, Tensor] = {}
    for term in terms:
        energy = _checked(term, "energy", term.energy(state), state.labels.shape, first)
        name = f"{ENERGY}{type(term).__name__}"
        now[name if name not in now else f"{name} {len(now) + 1}"] = energy.detach()
        if term.normalise:
            start = first[id(term)]
            energy = energy / torch.where(start > 0, start, 1)
        totals[term.at] = totals.get(term.at, torch.zeros(())) + term.scale * energy.sum()
    last = len(totals) - 1
    if not all(total.requires_grad for total in totals.values()):
        names = ", ".join(sorted({type(term).__name__ for term in terms}))
        raise OptionError(
            f"terms: an energy of {names} has no gradient with respect to x_t; quantised layers give none, so use "
            "their plain weights or guidance that needs no denoiser"
        )
    return {
        place: torch.autograd.grad(total, state.sample, retain_graph=keep_graph or number < last)[0]
        for number, (place, total) in enumerate(totals.items())
    }
