"""Named samplings: "dit-repo" against the formulas of the repository in float64, and against diffusers' scheduler."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import oracles
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

import dap
from dap import rng
from dap.errors import OptionError
from dap.methods import CoDA
from dap.priors import load_prior
from dap.priors.dit import DiTPrior
from dap.priors.stable_diffusion import StableDiffusionPrior
from dap.sampling import SamplingSettings, as_sampled, differences, sample, scheduler_of

LABELS = torch.tensor([3, 0, 9])
BETA_END = 0.004  # of the tiny pipelines


def slots():
    return [rng.generator(1, "slot", number) for number in range(len(LABELS))]


def settings(**changes):
    return SamplingSettings.choose({"num_inference_steps": 7, "guidance_scale": 1.5}, "dit-repo", **changes)


def spaced_timesteps(steps):
    """``space_timesteps(1000, [steps])`` of improved-diffusion, which adds up a fractional stride."""
    stride, position, taken = 999 / (steps - 1), 0.0, []
    for _ in range(steps):
        taken.append(round(position))
        position += stride
    return taken


def repository(transformer, timesteps, labels):
    """``p_sample_loop`` of improved-diffusion: spaced, learned range, no clipping, three guided channels, float64."""
    given = np.cumprod(1 - np.linspace(0.0001, BETA_END, 1000))
    betas, last = [], 1.0
    for t in timesteps:
        betas.append(1 - given[t] / last)
        last = given[t]
    betas = np.array(betas)
    cumulative = np.cumprod(1 - betas)
    before = np.append(1.0, cumulative[:-1])
    posterior = betas * (1 - before) / (1 - cumulative)
    posterior_log = np.log(np.append(posterior[1], posterior[1:]))
    generators = slots()

    def draw():
        return torch.stack([torch.randn((4, 8, 8), generator=generator) for generator in generators]).double()

    x = draw()
    for i in reversed(range(len(timesteps))):
        t = torch.full((len(x),), timesteps[i])
        conditional, null = (
            transformer(x, timestep=t, class_labels=of).sample for of in (labels, torch.full_like(labels, 1000))
        )
        eps = torch.cat([null[:, :3] + 4 * (conditional[:, :3] - null[:, :3]), conditional[:, 3:4]], 1)
        share = (conditional[:, 4:] + 1) / 2
        log_variance = share * np.log(betas[i]) + (1 - share) * posterior_log[i]
        start = np.sqrt(1 / cumulative[i]) * x - np.sqrt(1 / cumulative[i] - 1) * eps
        mean = (
            betas[i] * np.sqrt(before[i]) / (1 - cumulative[i]) * start
            + (1 - before[i]) * np.sqrt(1 - betas[i]) / (1 - cumulative[i]) * x
        )
        x = mean if i == 0 else mean + torch.exp(0.5 * log_variance) * draw()
    return x


def test_the_timesteps_are_those_of_the_repository(tiny_learned_pipeline):
    prior = DiTPrior(tiny_learned_pipeline)
    times = scheduler_of(prior, settings()).timesteps.tolist()
    assert times[:4] == [999, 979, 958, 938] and times[-2:] == [20, 0]
    for steps in (50, 250, 20):
        times = scheduler_of(prior, settings(num_inference_steps=steps)).timesteps.tolist()
        assert times == spaced_timesteps(steps)[::-1]


@torch.no_grad()
def test_the_samples_are_those_of_the_repository(tiny_learned_pipeline):
    pipeline = tiny_learned_pipeline
    # a file that says otherwise in every respect
    pipeline.scheduler = DDIMScheduler(beta_end=BETA_END, clip_sample=True, timestep_spacing="trailing")
    ours = sample(as_sampled(DiTPrior(pipeline), "dit-repo"), LABELS, slots(), settings=settings())
    theirs = repository(oracles.double(pipeline.transformer), spaced_timesteps(50), LABELS)
    assert theirs.abs().max() > 1.5, "clipping would show"
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


@torch.no_grad()
def test_the_samples_are_those_of_diffusers_scheduler(tiny_learned_pipeline):
    prior, generators = as_sampled(DiTPrior(tiny_learned_pipeline), "dit-repo"), slots()
    scheduler = DDPMScheduler(
        beta_end=BETA_END, clip_sample=False, variance_type="learned_range", timestep_spacing="linspace"
    )
    scheduler.set_timesteps(50)
    x = torch.stack([torch.randn((4, 8, 8), generator=generator) for generator in generators])
    for t in scheduler.timesteps:
        eps, variance = oracles.noise_estimate(prior.denoiser, x, t, LABELS, 4.0, 3)
        x = scheduler.step(torch.cat([eps, variance], 1), t, x, generator=generators).prev_sample
    ours = sample(prior, LABELS, slots(), settings=settings())
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-5 * float(x.abs().max()))


def test_options_beside_it_win(tiny_learned_pipeline):
    prior = as_sampled(DiTPrior(tiny_learned_pipeline), "dit-repo")
    assert (prior.learned_variance, prior.guided_channels) == (True, 3)
    assert differences(prior, settings(), "dit-repo") == []
    changed = settings(num_inference_steps=250, timestep_spacing="leading")
    assert differences(prior, changed, "dit-repo") == [
        "num_inference_steps 250 instead of 50", "timestep_spacing leading instead of linspace",
    ]  # fmt: skip
    free = as_sampled(DiTPrior(tiny_learned_pipeline, learned_variance=True), "dit-repo", {"guided_channels": None})
    assert (free.learned_variance, free.guided_channels) == (True, None)


def test_codas_sampling_is_that_of_sdxl():
    prior = load_prior(tiny.stable_diffusion_xl())
    settings = SamplingSettings.choose(prior.recommended, CoDA.sampled_by["paper"])
    scheduler = scheduler_of(as_sampled(prior, "coda-sdxl"), settings)
    assert isinstance(scheduler, DPMSolverMultistepScheduler) and scheduler.config.use_karras_sigmas
    assert (len(scheduler.timesteps), settings.guidance_scale) == (25, 5.0)
    assert differences(prior, settings, "coda-sdxl") == []
    other = dataclasses.replace(settings, scheduler="dpm++")
    assert differences(prior, other, "coda-sdxl") == ["scheduler dpm++ instead of dpm++-karras"]
    other = dataclasses.replace(settings, scheduler=None, guidance_scale=4.0)
    assert differences(prior, other, "coda-sdxl") == [
        "guidance_scale 4.0 instead of 5.0", "scheduler euler instead of dpm++-karras",
    ]  # fmt: skip


def test_what_cannot_be_sampled_so_is_refused(tiny_pipeline, tiny_learned_pipeline):
    with pytest.raises(OptionError, match=r"sampling='dit-repo': .*learned_variance needs 8 output channels, got 4"):
        as_sampled(DiTPrior(tiny_pipeline), "dit-repo")
    with pytest.raises(OptionError, match=r"sampling='dit-repo': .*has no other learned_variance"):
        as_sampled(type("Own", (tiny.StubPrior,), {})(), "dit-repo")
    with pytest.raises(OptionError, match=r"unknown sampling 'dit'; did you mean 'dit-repo'"):
        settings().choose({}, "dit")
    prior = as_sampled(DiTPrior(tiny_learned_pipeline), "dit-repo")
    with pytest.raises(OptionError, match=r"learned_variance needs scheduler='ddpm', got DDIMScheduler"):
        scheduler_of(prior, settings(scheduler="ddim"))


@pytest.mark.parametrize("scheduler", ["lcm", "dpm++-karras"])
def test_a_scheduler_with_steps_of_its_own_leaves_out_the_named_spacing(tiny_learned_pipeline, scheduler):
    chosen = SamplingSettings.choose({}, "dit-repo", scheduler=scheduler)
    prior = as_sampled(DiTPrior(tiny_learned_pipeline), "dit-repo", {"learned_variance": False})
    assert f"scheduler {scheduler} instead of ddpm" in differences(prior, chosen, "dit-repo")
    with pytest.raises(OptionError, match="timestep_spacing: it changes no step"):
        scheduler_of(prior, chosen.choose({}, "dit-repo", scheduler=scheduler, timestep_spacing="trailing"))


@pytest.mark.parametrize(("option", "value"), [("timestep_spacing", "even"), ("clip_sample", 1)])
def test_settings_are_checked(option, value):
    with pytest.raises(OptionError, match=option):
        SamplingSettings(**{option: value})


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++", "euler", "heun"])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
def test_the_spacing_is_a_setting_of_the_run(tiny_pipeline, name, spacing):
    """As the scheduler's file with that spacing, which stays as it is where none is set."""
    prior = DiTPrior(tiny_pipeline)
    chosen = SamplingSettings(num_inference_steps=7, scheduler=name, timestep_spacing=spacing)
    found = scheduler_of(prior, chosen).timesteps.tolist()
    tiny_pipeline.scheduler = DDPMScheduler(beta_end=BETA_END, clip_sample=False, timestep_spacing=spacing)
    plain = SamplingSettings(num_inference_steps=7, scheduler=name)
    assert found == scheduler_of(DiTPrior(tiny_pipeline), plain).timesteps.tolist()
    assert scheduler_of(prior, plain).config.timestep_spacing == prior.scheduler(name, 7).config.timestep_spacing


@pytest.fixture(scope="module")
def learned_folder(tmp_path_factory, make_pipeline):
    folder = tmp_path_factory.mktemp("learned") / "prior"
    make_pipeline(image_channels=3, out_channels=8, names=("cat", "oak tree")).save_pretrained(folder)
    return folder


def test_on_the_command_line(command_line, learned_folder, photographs, tmp_path):
    common = ["--prior", learned_folder, "--sampling", "dit-repo", "--num-inference-steps", 4, "--device", "cpu"]
    run = ["distill", photographs, *common, "--method", "dap", "--ipc", 1, "--set", "references=2", "--out"]
    assert command_line(*run, tmp_path / "a")[0] == 0
    manifest = json.loads((tmp_path / "a/dap.json").read_text())
    assert manifest["options"]["sampling"] == {
        "num_inference_steps": 4, "guidance_scale": 4.0, "scheduler": "ddpm", "eta": 0.0,
        "timestep_spacing": "linspace", "clip_sample": False,
    }  # fmt: skip
    assert manifest["prior"]["learned_variance"] is True and manifest["prior"]["guided_channels"] == 3
    assert (
        command_line("index", "build", photographs, *common, "--out", tmp_path / "i", "--timesteps", "999,666")[0] == 0
    )
    assert dap.open_index(tmp_path / "i").timesteps == (999, 666)
    assert command_line(*run, tmp_path / "b", "--index", tmp_path / "i")[0] == 0
    code, _, error = command_line(*run, tmp_path / "c", "--sampling", "dit")
    assert (
        code
        and error
        == "dap: error: unknown sampling 'dit'; did you mean 'dit-repo'? Known: coda-sdxl, dit-repo, mgd3-sd\n"
    )


@pytest.mark.parametrize("method", ["mgd3:paper", "igd:paper", "dap:paper", "manifold_gd:nette", "mgd3"])
def test_presets_say_when_they_are_sampled_otherwise(learned_folder, photographs, tmp_path, caplog, method):
    def resolved(**options):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="dap"):
            dap.run.resolve(dap.run.Request(source=photographs, prior=learned_folder, method=method, **options))
        return [record.getMessage() for record in caplog.records]

    said = resolved()
    assert len(said) == (":" in method)
    if said:
        assert said[0].startswith(f"{method}: its numbers were published for sampling='dit-repo'; this run has ")
        assert "timestep_spacing leading instead of linspace" in said[0] and "\n" not in said[0]
        assert "learned_variance False instead of True" in said[0]
    assert resolved(sampling="dit-repo") == []


def test_text_priors_are_told_too(photographs, caplog):
    prior = StableDiffusionPrior(tiny.stable_diffusion())
    with caplog.at_level(logging.WARNING, logger="dap"):
        dap.run.resolve(dap.run.Request(source=photographs, prior=prior, method="mgd3:paper"))
    assert "guidance_scale 7.5 instead of 4.0" in caplog.text
