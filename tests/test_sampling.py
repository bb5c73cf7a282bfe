"""The denoising loop without terms: against diffusers' own pipeline and float64 oracles; its settings."""

from __future__ import annotations

import oracles
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from dap import rng
from dap.errors import OptionError
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings, sample

# diffusers meets numpy 2 here
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LABELS = torch.tensor([3, 0, 3, 9, 5])


def slots(count=5):
    return [rng.generator(1, "slot", number) for number in range(count)]


def latents_of(pipeline, **options):
    """The latents that ``DiTPipeline`` hands to its decoder, in the units of the denoiser."""
    seen = []
    decode = pipeline.vae.decode

    def spy(latents, *args, **kwargs):
        seen.append(latents * pipeline.vae.config.scaling_factor)
        return decode(latents, *args, **kwargs)

    pipeline.vae.decode = spy
    try:
        pipeline(LABELS.tolist(), generator=slots(), output_type="pt", **options)
    finally:
        del pipeline.vae.decode
    return seen[0]


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
@pytest.mark.parametrize("kind", [DDIMScheduler, DPMSolverMultistepScheduler])
@pytest.mark.parametrize("fixture", ["tiny_pipeline", "tiny_learned_pipeline"])
def test_unguided_loop_gives_the_latents_of_diffusers_pipeline(fixture, kind, guidance_scale, request):
    pipeline = request.getfixturevalue(fixture)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    settings = SamplingSettings(num_inference_steps=7, guidance_scale=guidance_scale)
    ours = sample(DiTPrior(pipeline), LABELS, slots(), settings=settings)
    theirs = latents_of(pipeline, num_inference_steps=7, guidance_scale=guidance_scale)
    assert ours.dtype == torch.float32 and theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_ddpm_hands_each_slots_generator_to_the_step(tiny_pipeline):
    """``DiTPipeline`` gives no generator to ``step``, so that the reference is the formula in float64."""
    prior = DiTPrior(tiny_pipeline)
    x = chain_of_oracle(prior, tiny_pipeline, steps=6)
    settings = SamplingSettings(num_inference_steps=6, guidance_scale=4.0, scheduler="ddpm")
    torch.testing.assert_close(sample(prior, LABELS, slots(), settings=settings).double(), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("guided_channels", [None, 3])
def test_learned_variance_is_iddpms(tiny_learned_pipeline, guided_channels):
    prior = DiTPrior(tiny_learned_pipeline, learned_variance=True, guided_channels=guided_channels)
    settings = SamplingSettings(num_inference_steps=8, guidance_scale=4.0)
    ours = sample(prior, LABELS, slots(), settings=settings).double()
    expected = chain_of_oracle(
        prior, tiny_learned_pipeline, steps=8, learned_variance=True, guided_channels=guided_channels
    )
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    others = {None: 3, 3: None}[guided_channels]
    other = chain_of_oracle(prior, tiny_learned_pipeline, steps=8, learned_variance=True, guided_channels=others)
    assert (ours - other).abs().max() > 0.1
    fixed = chain_of_oracle(prior, tiny_learned_pipeline, steps=8, guided_channels=guided_channels)
    assert (ours - fixed).abs().max() > 0.01


def chain_of_oracle(prior, pipeline, *, steps, learned_variance=False, guided_channels=None):
    transformer = oracles.double(pipeline.transformer)
    scheduler = prior.scheduler("ddpm", steps)
    generators = slots()

    def draw(shape):
        return torch.stack([torch.randn(shape, generator=g) for g in generators]).double()

    x = draw((4, 8, 8))
    with torch.no_grad():
        for t, (now, after) in zip(scheduler.timesteps, oracles.cumulative_products(scheduler), strict=True):
            eps, rest = oracles.noise_estimate(transformer, x, t, LABELS, 4.0, guided_channels)
            noise = draw((4, 8, 8)) if int(t) > 0 else None
            x = oracles.ddpm_step(x, eps, now, after, noise, rest if learned_variance else None)
    return x


def test_eta_is_ddims(tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    settings = SamplingSettings(num_inference_steps=5, guidance_scale=1.0, scheduler="ddim", eta=0.6)
    ours = sample(prior, LABELS, slots(), settings=settings).double()
    transformer, generators = oracles.double(tiny_pipeline.transformer), slots()
    scheduler = prior.scheduler("ddim", 5)
    x = torch.stack([torch.randn((4, 8, 8), generator=g) for g in generators]).double()
    with torch.no_grad():
        for t, (now, after) in zip(scheduler.timesteps, oracles.cumulative_products(scheduler), strict=True):
            eps, _ = oracles.noise_estimate(transformer, x, t, LABELS, 1.0)
            noise = torch.stack([torch.randn((4, 8, 8), generator=g) for g in generators]).double()
            x = oracles.ddim_step(x, eps, now, after, noise, eta=0.6)
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-4)


def test_eta_and_scheduler_are_checked(tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    for name in ("ddpm", "dpm++"):
        settings = SamplingSettings(num_inference_steps=2, scheduler=name, eta=0.5)
        with pytest.raises(OptionError, match=r"eta=0\.5.*scheduler='ddim'"):
            sample(prior, LABELS, slots(), settings=settings)
    with pytest.raises(OptionError, match="unknown scheduler 'ddmp'; did you mean 'ddpm'"):
        sample(prior, LABELS, slots(), settings=SamplingSettings(scheduler="ddmp"))


@pytest.mark.parametrize("options", [{"num_inference_steps": 0}, {"guidance_scale": 0.5}, {"eta": -0.1}, {"eta": 1.5}])
def test_settings_refuse_what_is_out_of_range(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        SamplingSettings(**options)


def test_settings_are_chosen_explicit_first_then_recommended():
    recommended = {"num_inference_steps": 20, "guidance_scale": 1.5, "block": 2}
    chosen = SamplingSettings.choose(recommended, guidance_scale=2.0, num_inference_steps=None, eta=None)
    assert chosen == SamplingSettings(num_inference_steps=20, guidance_scale=2.0)


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm++"])
def test_a_slots_noise_does_not_depend_on_its_batch(tiny_pipeline, scheduler):
    prior = DiTPrior(tiny_pipeline)
    settings = SamplingSettings(num_inference_steps=5, scheduler=scheduler)
    whole = sample(prior, LABELS, slots(), settings=settings)
    parts = [sample(prior, LABELS[own], slots()[own], settings=settings) for own in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-4)
    assert (whole[0] - whole[2]).abs().max() > 0.1  # the same class, another slot


def test_global_randomness_is_neither_used_nor_changed(tiny_pipeline):
    prior, settings = DiTPrior(tiny_pipeline), SamplingSettings(num_inference_steps=3)
    with torch.random.fork_rng(devices=[]):
        state = torch.random.get_rng_state()
        first = sample(prior, LABELS, slots(), settings=settings)
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.rand(7)
        assert torch.equal(sample(prior, LABELS, slots(), settings=settings), first)
