"""Flow matching: against diffusers' own scheduler and a float64 oracle of guided steps in the variables of flow."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import oracles
import pytest
import tiny
import torch
from conftest import build_pipeline
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from dap import rng
from dap.errors import OptionError
from dap.priors import load_prior
from dap.priors.flow import flow_scheduler
from dap.priors.noise_levels import denoiser_level, level, noised_input
from dap.sampling import DeltaTerm, EnergyTerm, SamplingSettings, sample
from dap.sampling.objective import denoising_loss, noised_latents
from dap.sampling.term import Needs

LABELS = torch.tensor([0, 1])
CPU = torch.device("cpu")


def sit(**options):
    """A DiT under a schedule of flow matching, as SiT is."""
    pipeline = build_pipeline(image_channels=3, names=("cat", "oak tree"), classes=2)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(**options)
    return pipeline


def slots():
    return [rng.generator(1, "slot", number) for number in range(2)]


def drawn(prior, steps=5, guidance_scale=1.0, terms=(), **options):
    settings = SamplingSettings(num_inference_steps=steps, guidance_scale=guidance_scale)
    return sample(prior, LABELS, slots(), settings=settings, terms=terms, **options)


@dataclass(frozen=True, kw_only=True)
class Pull(EnergyTerm):
    """E = ½ ‖x̂_0 − 0.3‖²."""

    needs: Needs = "denoiser"
    scale: float = 0.05

    def energy(self, state):
        return ((state.x0 - 0.3) ** 2).flatten(1).sum(1) / 2


@dataclass(frozen=True, kw_only=True)
class Push(DeltaTerm):
    """A change that is a function of x̂_0."""

    scale: float = 0.1

    def delta(self, state):
        return 0.3 - state.x0


def by_dpm(**options):
    """A DiT under DPM-Solver++ for flow matching, as Sana is."""
    pipeline = sit()
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    pipeline.scheduler = DPMSolverMultistepScheduler(**flow | options)
    return pipeline


def solved_in_float64(x, x0, before, sigma, following):
    """DPM-Solver++(2M) of Lu et al. 2022, Algorithm 2, with α = 1 − σ; ``before``: x̂_0 and σ of the last step."""
    if following == 0:
        return x0
    now, after = math.log((1 - sigma) / sigma), math.log((1 - following) / following)
    if before is not None:
        r = (now - math.log((1 - before[1]) / before[1])) / (after - now)
        x0 = (1 + 1 / (2 * r)) * x0 - before[0] / (2 * r)
    return following / sigma * x - (1 - following) * math.expm1(now - after) * x0


def guided_in_float64(pipeline, steps, guidance_scale, term):
    """A sampler of x_t = (1 − σ) x_0 + σ ε, with a term's change in its place, written out."""
    network, scheduler = oracles.double(pipeline.transformer), copy.deepcopy(pipeline.scheduler)
    scheduler.set_timesteps(steps)
    before = None
    x = torch.stack([torch.randn((4, 8, 8), generator=generator) for generator in slots()]).double()
    for step, t in enumerate(scheduler.timesteps):
        sigma, following = (float(scheduler.sigmas[number]) for number in (step, step + 1))
        x = x.detach().requires_grad_()
        velocity = network(x, timestep=t.expand(2), class_labels=LABELS).sample
        if guidance_scale != 1:
            null = network(x, timestep=t.expand(2), class_labels=torch.tensor([2, 2])).sample
            velocity = null + guidance_scale * (velocity - null)
        x0 = x - sigma * velocity
        eps = x + (1 - sigma) * velocity
        changed = {"x0": 0.0, "eps": 0.0, "sample": 0.0}
        if isinstance(term, Push):
            changed[term.at] = term.scale * (0.3 - x0)
        elif term is not None:
            energy = term.scale * ((x0 - 0.3) ** 2).sum() / 2
            gradient = torch.autograd.grad(energy, x)[0]  # with respect to (1 − σ) x_0 + σ ε
            norm, after = ((1 - sigma) ** 2 + sigma**2) ** 0.5, ((1 - following) ** 2 + following**2) ** 0.5
            gradient = gradient * norm  # with respect to √ᾱ x_0 + √(1 − ᾱ) ε, in which the places are defined
            changed["x0"] = -gradient if term.at == "x0" else 0.0
            changed["eps"] = sigma / norm * gradient if term.at == "eps" else 0.0
            changed["sample"] = -gradient if term.at == "sample" else 0.0
        else:
            after = 1.0
        if isinstance(term, Push):
            after = ((1 - following) ** 2 + following**2) ** 0.5
        if term is not None and term.at == "eps":  # the same x_t, another noise: x_0 = (x_t − σ ε) / (1 − σ)
            if sigma < 0.999:
                eps = eps + changed["eps"]
                x0 = (x - sigma * eps) / (1 - sigma)
        elif term is not None and term.at == "x0":  # the same x_t, another x_0
            x0 = x0 + changed["x0"]
            eps = (x - (1 - sigma) * x0) / sigma
        if isinstance(scheduler, DPMSolverMultistepScheduler):
            x, before = solved_in_float64(x, x0, before, sigma, following), (x0, sigma)
        else:
            x = (1 - following) * x0 + following * eps
        x = x + after * changed["sample"]
    return x.detach()


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize(
    "term", [None, *(kind(at=at) for kind in (Pull, Push) for at in ("eps", "x0", "sample"))], ids=str
)
@pytest.mark.parametrize("make", [lambda: sit(shift=3.0), by_dpm], ids=["euler", "dpm++"])
def test_samples_are_those_of_its_sampler(make, term, guidance_scale):
    pipeline = make()
    ours = drawn(load_prior(pipeline), 5, guidance_scale, [] if term is None else [term])
    theirs = guided_in_float64(pipeline, 5, guidance_scale, term)
    assert term is None or (theirs - guided_in_float64(pipeline, 5, guidance_scale, None)).abs().max() > 0.01
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-4 * max(1.0, float(theirs.abs().max())))


def test_levels_are_those_of_scale_noise():
    scheduler = flow_scheduler(
        FlowMatchEulerDiscreteScheduler(shift=3.0), None, 6, device=CPU, tokens=16, spaced_to_zero=False
    )
    ones = torch.ones((1, 1, 1, 1))
    for step, t in enumerate(scheduler.timesteps):
        now = level(scheduler, step)
        alpha, sigma = scheduler.add_noise(ones, 0 * ones, t[None]), scheduler.add_noise(0 * ones, ones, t[None])
        assert (now.alpha, now.sigma) == pytest.approx((alpha.item(), sigma.item()), abs=1e-6)
        assert now.cumulative == pytest.approx(alpha.item() ** 2 / (alpha.item() ** 2 + sigma.item() ** 2), abs=1e-6)
        assert now.scale == pytest.approx((now.alpha**2 + now.sigma**2) ** 0.5)
        assert [float(value) for value in denoiser_level(scheduler, t)] == pytest.approx(
            [now.alpha, now.sigma], abs=1e-6
        )
        if step + 1 < len(scheduler.timesteps):
            following = level(scheduler, step + 1)
            assert now.after == following.cumulative and now.scale_after == pytest.approx(following.scale)
    assert now.after == 1 and now.scale_after == 1
    a, b = torch.randn((2, 1, 4, 4, 4), generator=rng.generator(0))
    torch.testing.assert_close(noised_input(scheduler, a, b, 250), 0.75 * a + 0.25 * b)


@pytest.mark.parametrize(("tokens", "zero"), [(64, False), (4096, True)])
def test_dynamic_shifting_is_that_of_the_pipelines(tokens, zero):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    own = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    ours = flow_scheduler(own, None, 4, device=CPU, tokens=tokens, spaced_to_zero=zero)
    more = {"sigmas": [1.0, 0.75, 0.5, 0.25]} if zero else {}
    own.set_timesteps(4, mu=calculate_shift(tokens), **more)
    torch.testing.assert_close(ours.sigmas, own.sigmas)


def test_the_objective_and_starts_from_images_use_its_noise():
    prior = load_prior(sit())
    x0, noise = torch.randn((2, 2, 4, 8, 8), generator=rng.generator(0))
    times = torch.tensor([250, 500])
    expected = torch.stack([0.75 * x0[0] + 0.25 * noise[0], 0.5 * x0[1] + 0.5 * noise[1]])
    torch.testing.assert_close(noised_latents(prior, x0, noise, times), expected)
    assert torch.isfinite(denoising_loss(prior, x0, noise, times, LABELS)).all()
    near, far = (drawn(prior, 10, init=x0, strength=strength) for strength in (0.1, 1.0))
    assert (near - x0).abs().mean() < 0.5 * (far - x0).abs().mean()


@pytest.mark.parametrize("make", [lambda: sit(shift=3.0), by_dpm], ids=["euler", "dpm++"])
@pytest.mark.parametrize("graph", [True, False])
def test_the_state_has_the_noise_levels_that_terms_are_written_for(make, graph):
    seen, spy, part = [], Pull(scale=1e-9) if graph else Push(scale=1e-9), "energy" if graph else "delta"
    usual = getattr(type(spy), part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(spy), part, lambda term, state: (seen.append(state), usual(term, state))[1])
        drawn(load_prior(make()), 5, 1.0, [spy])
    assert len(seen) == 5
    for state in seen[1:]:  # at the first x_t is noise alone
        assert math.isclose(state.alpha**2 + state.sigma**2, 1, rel_tol=1e-9) and 0 < state.sigma < 1
        noised = state.alpha * state.x0 + state.sigma * state.eps
        torch.testing.assert_close(noised, state.sample, rtol=0, atol=1e-5 * float(state.sample.detach().abs().max()))


def test_parts_of_a_batch_keep_the_estimates():
    prior = load_prior(sit())
    whole, parts = (drawn(prior, 4, 4.0, [Push(at="x0")], pass_size=size) for size in (None, 1))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_what_flow_matching_cannot_do_is_refused():
    prior = load_prior(sit())
    assert torch.equal(prior.scheduler("ddim", 4).sigmas, prior.scheduler(None, 4).sigmas)
    with pytest.raises(OptionError, match="scheduler='ddpm': expected ddim or euler, or none, for a prior that was tr"):
        prior.scheduler("ddpm", 4)
    with pytest.raises(OptionError, match="takes at most 1000 here, got 1001"):
        prior.scheduler(None, 1001)
    with pytest.raises(OptionError, match="invert_sigmas=True cannot be guided"):
        load_prior(sit(invert_sigmas=True)).scheduler(None, 4)
    with pytest.raises(OptionError, match="flow matching has no variance"):
        prior.with_sampling(learned_variance=True)
    with pytest.raises(OptionError, match="remembers its steps"):
        drawn(prior, recurrences=2)
    with pytest.raises(OptionError, match="scheduler='heun': expected ddim or euler or dpm\\+\\+, or none"):
        load_prior(by_dpm()).scheduler("heun", 4)
    with pytest.raises(OptionError, match="expected a network that predicts epsilon or v, got flow_prediction"):
        load_prior(by_dpm(use_flow_sigmas=False))


def test_by_dpm_the_noise_level_is_not_that_of_the_rounded_timestep():
    prior = load_prior(by_dpm())
    scheduler = prior.scheduler(None, 7)
    assert prior.scheduler("dpm++", 7).sigmas.equal(scheduler.sigmas)
    a, b = torch.randn((2, 1, 4, 4, 4), generator=rng.generator(0))
    for step, t in enumerate(scheduler.timesteps):
        now = level(scheduler, step)
        alpha, sigma = denoiser_level(prior.noise_schedule(), t, now.given["sigma"])
        assert (float(alpha), float(sigma)) == pytest.approx((now.alpha, now.sigma), abs=1e-6)
        assert 0 <= 1000 * now.sigma - int(t) < 1
        torch.testing.assert_close(noised_input(scheduler, a, b, int(t)), now.alpha * a + now.sigma * b)
    torch.testing.assert_close(noised_input(scheduler, a, b, 250), 0.75 * a + 0.25 * b)
    assert level(scheduler, 0).per_eps == 0 and level(scheduler, 1).per_eps > 1
    euler = prior.scheduler("euler", 7)
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(7)
    torch.testing.assert_close(euler.sigmas, theirs.sigmas)


def test_a_saved_folder_is_the_same_prior(tmp_path):
    pipeline = tiny.stable_diffusion_3()
    pipeline.save_pretrained(tmp_path)
    loaded, own = load_prior(tmp_path, device="cpu"), load_prior(pipeline)
    assert loaded.describe()["sha256"] == own.describe()["sha256"]
    assert loaded.describe()["vocabulary"] == own.describe()["vocabulary"]
