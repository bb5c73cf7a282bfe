"""Samplers: against diffusers' own pipelines, and Euler and Heun against DDIM, whose scale is another."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import tiny
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from dap import rng
from dap.errors import OptionError
from dap.methods.common.igd_steps import DeviationTerm, sized_as_noise
from dap.methods.common.modes import ModeTerm
from dap.methods.manifold_gd import Cloud, ManifoldModeTerm
from dap.priors.noise_levels import denoiser_level, level, noised_input
from dap.priors.schedulers import SCHEDULERS, clip_range, make_scheduler, public
from dap.priors.stable_diffusion import StableDiffusionPrior
from dap.priors.unet import UNetPrior
from dap.sampling import DeltaTerm, EnergyTerm, SamplingSettings, sample
from dap.sampling.schedule import check_settings, scheduler_of
from dap.sampling.term import Needs, Place

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KINDS = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "lcm": LCMScheduler,
}
NAMES = ["cat", "oak tree", "lorry"]


def slots(count=3):
    return [rng.generator(1, "slot", number) for number in range(count)]


def labels_of(prior):
    return torch.tensor(list(prior.labels_of(NAMES).values()))


def drawn(prior, name, steps=6, guidance_scale=1.0, terms=()):
    settings = SamplingSettings(num_inference_steps=steps, guidance_scale=guidance_scale, scheduler=name)
    return sample(prior, labels_of(prior), slots(), settings=settings, terms=terms)


def final_latents(pipeline, decoder, call):
    """What a pipeline hands to its decoder."""
    seen, decode = [], decoder.decode

    def spy(latents, *args, **kwargs):
        seen.append(latents * decoder.config.scaling_factor)
        return decode(latents, *args, **kwargs)

    decoder.decode = spy
    try:
        call(pipeline)
    finally:
        decoder.decode = decode
    return seen[0]


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize(("name", "v"), [*((name, v) for name in KINDS for v in (False, True)), (None, False)])
def test_stable_diffusion_samples_as_its_own_pipeline(name, v, guidance_scale):
    own = PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_end=0.004) if name is None else None  # of version 1.5
    pipeline = tiny.stable_diffusion(v=v, scheduler=own)
    prior = StableDiffusionPrior(pipeline, template="a picture of a {}", negative_prompt="blurred").for_classes(NAMES)
    ours = drawn(prior, name, guidance_scale=guidance_scale)
    if name is not None:
        pipeline.scheduler = KINDS[name].from_config(public(pipeline.scheduler.config))
    theirs = final_latents(
        pipeline, pipeline.vae,
        lambda own: own(
            [f"a picture of a {each}" for each in NAMES], negative_prompt=["blurred"] * 3, num_inference_steps=6,
            guidance_scale=guidance_scale, generator=slots(), output_type="pt",
        ),
    )  # fmt: skip
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++"])
def test_a_latent_unet_samples_as_its_own_pipeline(name):
    """``LDMPipeline`` reads ``init_noise_sigma`` before it sets the steps, where that of Euler and Heun is another."""
    pipeline = tiny.latent()
    prior = UNetPrior(pipeline)
    ours = drawn(prior, name)
    pipeline.scheduler = KINDS[name].from_config(public(pipeline.scheduler.config))
    generators = slots()
    noise = torch.stack([torch.randn((4, 8, 8), generator=each) for each in generators])
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        # the pipeline draws its first noise, and that of DDPM's steps, from the global generator
        module = "diffusers.pipelines.deprecated.latent_diffusion_uncond.pipeline_latent_diffusion_uncond"
        patch.setattr(f"{module}.randn_tensor", lambda *_, **__: noise)
        step = pipeline.scheduler.step
        if name == "ddpm":
            patch.setattr(pipeline.scheduler, "step", lambda *args: step(*args, generator=generators))
        theirs = final_latents(pipeline, pipeline.vqvae, lambda own: own(batch_size=3, num_inference_steps=6))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++"])
def test_a_pixel_unet_samples_as_its_own_pipeline(name):
    """``DDPMPipeline`` multiplies nothing by ``init_noise_sigma``, so Euler and Heun are held to DDIM alone."""
    pipeline = tiny.pixels()
    prior = UNetPrior(pipeline)
    ours = drawn(prior, name)
    overrides = {"lambda_min_clipped": prior.scheduler(name, 6).config.lambda_min_clipped} if name == "dpm++" else {}
    pipeline.scheduler = KINDS[name].from_config(public(pipeline.scheduler.config), **overrides)
    theirs = pipeline(batch_size=3, generator=slots(), num_inference_steps=6, output_type="pt").images
    torch.testing.assert_close((ours / 2 + 0.5).clamp(0, 1), theirs, rtol=0, atol=1e-4)


@dataclass(frozen=True, kw_only=True)
class Pull(EnergyTerm):
    """E = ½ ‖y − 0.3‖² of the tokens after the mid block, or of x̂_0."""

    on: str = "features"
    needs: Needs = "denoiser"
    taps: frozenset[int] = frozenset({3})
    scale: float = 0.02

    def energy(self, state):
        y = state.features[3] if self.on == "features" else state.x0
        return ((y - 0.3) ** 2).flatten(1).sum(1) / 2


@dataclass(frozen=True, kw_only=True)
class Push(DeltaTerm):
    """A change that is a function of x̂_0."""

    scale: float = 0.1

    def delta(self, state):
        return 0.3 - state.x0


@dataclass(frozen=True, kw_only=True)
class Sized(DeltaTerm):
    """A change as long as those of igd and lgd."""

    at: Place = "sample"
    scale: float = 100.0

    def delta(self, state):
        return sized_as_noise(0.3 - state.x0, state)


def points(count=3):
    return Cloud.draw(4 * 8 * 8, [rng.generator(2, number) for number in range(count)], torch.device("cpu"))


MODES = torch.full((3, 4, 8, 8), 0.3)
OWN = [
    Sized(),
    DeviationTerm(memories=(MODES[:1],) * 3, scale=30.0),
    *(ModeTerm(modes=MODES, at=at, scale=0.3) for at in ("eps", "x0", "sample")),
    ModeTerm(modes=MODES, at="sample", by_signal=True, scale=0.3),
    ManifoldModeTerm(modes=MODES, cloud=points(), radius=0.5, bandwidth=20.0),
]


@pytest.mark.parametrize("term", [Pull(at=at, on=on) for at in ("eps", "x0", "sample") for on in ("features", "x0")]
                         + [Push(at=at) for at in ("eps", "x0", "sample")] + OWN)  # fmt: skip
def test_a_guided_euler_step_is_ddims(term):
    """Without noise both follow one equation by one rule, in two scales (Karras et al. 2022, Appendix C.3)."""
    prior = UNetPrior(tiny.latent())
    ddim, euler, unguided = (
        drawn(prior, "ddim", 5, 1, [term]),
        drawn(prior, "euler", 5, 1, [term]),
        drawn(prior, "ddim", 5),
    )
    scale = float(ddim.abs().max())
    torch.testing.assert_close(euler, ddim, rtol=0, atol=2e-4 * scale)
    assert (ddim - unguided).abs().max() > 0.02 * scale


def test_heun_corrects_with_guidance():
    """As the steps become many, Heun's and DDIM's guided samples meet; without half of its guidance they would not."""
    prior = UNetPrior(tiny.latent())
    term = Pull(at="eps", on="x0", scale=0.05)
    fine, heun, unguided = (
        drawn(prior, "ddim", 200, 1, [term]),
        drawn(prior, "heun", 50, 1, [term]),
        drawn(prior, "ddim", 200),
    )
    guided = float((fine - unguided).abs().mean())
    assert float((heun - fine).abs().mean()) < 0.1 * guided


@pytest.mark.parametrize("name", KINDS)
def test_levels_are_those_of_add_noise(name):
    own = DDIMScheduler(**tiny.SCHEDULE)
    scheduler = make_scheduler(own, name, 5, device=torch.device("cpu"))
    ones = torch.ones((1, 1, 1, 1))
    times = scheduler.timesteps
    for step, t in enumerate(times):
        now, fresh = level(scheduler, step), make_scheduler(own, name, 5, device=torch.device("cpu"))
        assert fresh.add_noise(ones, 0 * ones, t[None]).item() == pytest.approx(now.alpha, rel=1e-5)
        assert fresh.add_noise(0 * ones, ones, t[None]).item() == pytest.approx(now.sigma, rel=1e-5)
        cumulative = own.alphas_cumprod[int(t)].item()
        before = own.alphas_cumprod[int(times[step - 1])].item()
        corrects = name == "heun" and step > 0 and int(times[step - 1]) != int(t) and step % 2 == 1
        assert now.cumulative == pytest.approx(before if corrects else cumulative, rel=1e-5)
        assert 1 >= now.after > now.cumulative
        a, b = torch.randn((2, 3, 4, 4), generator=rng.generator(step)).split(1)
        expected = fresh.scale_model_input(fresh.add_noise(a, b, t[None]), t)
        torch.testing.assert_close(noised_input(scheduler, a, b, int(t)), expected, rtol=1e-5, atol=1e-5)
        alpha, sigma = denoiser_level(scheduler, t)
        assert (float(alpha), float(sigma)) == pytest.approx((cumulative**0.5, (1 - cumulative) ** 0.5), rel=1e-5)


def test_what_clips_is_said_by_the_scheduler_that_clips():
    own = DDPMScheduler(clip_sample=True, clip_sample_range=2.0)
    found = {name: clip_range(make_scheduler(own, name, 4, device=torch.device("cpu"))) for name in KINDS}
    assert found == {
        "ddpm": 2.0,
        "ddim": 2.0,
        "dpm++": None,
        "euler": None,
        "euler-ancestral": None,
        "heun": None,
        "lcm": 2.0,
    }


def test_what_cannot_be_guided_is_refused():
    with pytest.raises(OptionError, match="DEISMultistepScheduler: dap cannot guide"):
        make_scheduler(DEISMultistepScheduler(), None, 4, device=torch.device("cpu"))
    with pytest.raises(OptionError, match="pure noise"):
        make_scheduler(DDIMScheduler(rescale_betas_zero_snr=True), None, 4, device=torch.device("cpu"))
    with pytest.raises(OptionError, match="PNDMScheduler: works with networks that predict ε"):
        make_scheduler(PNDMScheduler(prediction_type="v_prediction"), None, 4, device=torch.device("cpu"))
    for name in ("euler", "heun", "dpm++"):
        settings = SamplingSettings(num_inference_steps=3, guidance_scale=1.0, scheduler=name)
        prior = UNetPrior(tiny.pixels())
        with pytest.raises(OptionError, match="remembers its steps"):
            sample(prior, torch.tensor([0]), slots(1), settings=settings, recurrences=2)


SPACINGS = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas"]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_steps_spaced_by_sigma_have_their_own_level(spacing):
    """Their timesteps are rounded: ᾱ of the timestep is up to 28 % away from the sampler's σ."""
    own = DPMSolverMultistepScheduler(beta_schedule="scaled_linear", **{spacing: True})
    scheduler = make_scheduler(own, None, 20, device=torch.device("cpu"))
    levels = [level(scheduler, step) for step in range(20)]
    assert [each.sigma / each.alpha for each in levels] == pytest.approx(scheduler.sigmas[:20].tolist(), rel=1e-5)
    assert [each.after for each in levels[:-1]] == [each.cumulative for each in levels[1:]]
    assert levels[-1].after == 1.0
    a, b = torch.randn((2, 3, 4, 4), generator=rng.generator(0)).split(1)
    distinct = [t for t in scheduler.timesteps.tolist() if scheduler.timesteps.tolist().count(t) == 1]
    step = scheduler.timesteps.tolist().index(distinct[len(distinct) // 2])
    expected = levels[step].alpha * a + levels[step].sigma * b
    torch.testing.assert_close(noised_input(scheduler, a, b, int(scheduler.timesteps[step])), expected)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_a_sampler_without_spacing_ignores_that_of_the_pipelines_scheduler(name):
    own = DPMSolverMultistepScheduler(use_karras_sigmas=True)
    scheduler = make_scheduler(own, name, 5, device=torch.device("cpu"))
    assert level(scheduler, 1).cumulative == scheduler.alphas_cumprod[int(scheduler.timesteps[1])]
    assert not level(scheduler, 1).given


def test_karras_spacing_by_name_is_that_of_the_configuration():
    own = DDIMScheduler(beta_schedule="scaled_linear")
    named = make_scheduler(own, "dpm++-karras", 6, device=torch.device("cpu"))
    theirs = DPMSolverMultistepScheduler.from_config(public(own.config), use_karras_sigmas=True)
    theirs.set_timesteps(6)
    assert torch.equal(named.sigmas, theirs.sigmas) and not torch.equal(
        named.sigmas, make_scheduler(own, "dpm++", 6, device=torch.device("cpu")).sigmas
    )


@pytest.mark.parametrize(
    "own",
    [
        *SCHEDULERS, PNDMScheduler(steps_offset=1, skip_prk_steps=True),
        *(DPMSolverMultistepScheduler(steps_offset=1, **{spacing: True}) for spacing in SPACINGS),
        EulerDiscreteScheduler(steps_offset=1, use_karras_sigmas=True),
        HeunDiscreteScheduler(steps_offset=1, use_karras_sigmas=True),
    ],
    ids=lambda own: own if isinstance(own, str) else type(own).__name__,
)  # fmt: skip
def test_a_timestep_spacing_that_changes_no_step_is_refused(own):
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False) if isinstance(own, str) else own
    prior = StableDiffusionPrior(tiny.stable_diffusion(scheduler=scheduler))
    name = own if isinstance(own, str) else None
    made = prior.scheduler(name, 10)
    steps = []
    for spacing in ("leading", "linspace", "trailing"):
        spaced = type(made).from_config(made.config, timestep_spacing=spacing)
        spaced.set_timesteps(10)
        steps.append((spaced.timesteps.tolist(), getattr(spaced, "sigmas", torch.zeros(0)).tolist()))
    settings = SamplingSettings(num_inference_steps=10, scheduler=name, timestep_spacing="trailing")
    if steps[0] == steps[1] == steps[2]:
        with pytest.raises(OptionError, match="timestep_spacing: it changes no step of scheduler="):
            check_settings(prior, settings)
    else:
        assert scheduler_of(prior, settings).timesteps.tolist() == steps[2][0]


@pytest.mark.parametrize("v", [False, True])
def test_karras_spacing_samples_as_its_own_pipeline(v):
    """A network that predicts v needs the sampler's σ too, or its ε is that of another noise level."""
    predicts = "v_prediction" if v else "epsilon"
    own = DPMSolverMultistepScheduler(
        use_karras_sigmas=True, prediction_type=predicts, beta_end=0.004, steps_offset=1
    )  # fmt: skip
    pipeline = tiny.stable_diffusion(v=v, scheduler=own)
    prior = StableDiffusionPrior(pipeline, template="a picture of a {}").for_classes(NAMES)
    ours = drawn(prior, None)
    theirs = final_latents(
        pipeline, pipeline.vae,
        lambda own: own([f"a picture of a {each}" for each in NAMES], num_inference_steps=6, guidance_scale=1,
                        generator=slots(), output_type="pt"),
    )  # fmt: skip
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * max(1.0, float(theirs.abs().max())))


def test_repeated_first_timesteps_are_sampled():
    """Under the squared-cosine schedule Karras' first steps round to one timestep; diffusers then starts too late."""
    pipeline = tiny.latent()
    pipeline.scheduler = DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", use_karras_sigmas=True)
    prior = UNetPrior(pipeline)
    times = prior.scheduler(None, 20).timesteps
    assert times[0] == times[1]
    assert torch.isfinite(drawn(prior, None, 20)).all()


def test_timesteps_beside_the_steps_have_their_own_noise():
    """DPM-Solver++ in diffusers gives a timestep that is not among its steps the noise of its last step."""
    scheduler = make_scheduler(DDIMScheduler(**tiny.SCHEDULE), "dpm++", 5, device=torch.device("cpu"))
    t = int(scheduler.timesteps[1]) - 7
    a, b = torch.randn((2, 3, 4, 4), generator=rng.generator(0)).split(1)
    cumulative = scheduler.alphas_cumprod[t]
    torch.testing.assert_close(noised_input(scheduler, a, b, t), cumulative**0.5 * a + (1 - cumulative) ** 0.5 * b)


@pytest.mark.parametrize(
    "scheduler",
    [CMStochasticIterativeScheduler, EDMEulerScheduler],
)
def test_schedulers_without_a_schedule_of_alphas_are_refused(scheduler):
    with pytest.raises(OptionError, match=rf"expected a scheduler with a schedule of ᾱ.*{scheduler.__name__} has no"):
        pipeline = tiny.pixels()
        pipeline.scheduler = scheduler()
        UNetPrior(pipeline)


@pytest.mark.parametrize(
    ("own", "steps", "message"),
    [
        (PNDMScheduler(), 1, "num_inference_steps: PNDMScheduler cannot take 1 with"),
        (DPMSolverMultistepScheduler(use_flow_sigmas=True), 5, "use_flow_sigmas=True cannot be guided"),
        (EulerDiscreteScheduler(timestep_type="continuous"), 5, "timestep_type='continuous' cannot be guided"),
        (DDIMScheduler(timestep_spacing="none"), 5, "num_inference_steps: DDIMScheduler cannot take 5 with"),
        (DDIMScheduler(timestep_spacing="trailing"), 61, r"timesteps outside its schedule with 61 \(-1\)"),
        (HeunDiscreteScheduler(timestep_spacing="trailing"), 103, r"outside its schedule with 103 \(-1, -1\)"),
        (DDPMScheduler(steps_offset=1), 1000, r"timesteps outside its schedule with 1000 \(1000\)"),
    ],
)
def test_steps_that_a_scheduler_cannot_make_are_refused(own, steps, message):
    with pytest.raises(OptionError, match=message):
        make_scheduler(own, None, steps, device=torch.device("cpu"))
