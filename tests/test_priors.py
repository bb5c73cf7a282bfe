"""The adapter to ``DiTPipeline``: loading, hashing, labels, latents, schedulers, and the denoiser's gradient."""

from __future__ import annotations

import copy
import json
import shutil

import oracles
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from safetensors.torch import load_file, save_file

from dap.errors import OptionError, SourceError
from dap.priors import load_prior
from dap.priors.dit import DiTPrior

# diffusers meets numpy 2 here
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LABELS = torch.tensor([3, 0, 9])
T = torch.tensor(400)


def latents(count=3, seed=0):
    return torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def test_shapes_labels_and_state(tiny_pipeline, tiny_learned_pipeline):
    prior = DiTPrior(tiny_pipeline, name="tiny")
    assert (prior.name, prior.latent_shape, prior.image_shape) == ("tiny", (4, 8, 8), (1, 32, 32))
    assert prior.block_names == ("block 1", "block 2", "block 3")
    assert prior.device == torch.device("cpu") and prior.dtype == torch.float32
    assert prior.labels["T-shirt/top"] == 0 and prior.labels["Ankle boot"] == 9 and len(prior.labels) == 10
    assert DiTPrior(tiny_learned_pipeline).image_shape == (3, 32, 32)
    tiny_pipeline.transformer.train().requires_grad_(True)
    tiny_pipeline.vae.train().requires_grad_(True)
    DiTPrior(tiny_pipeline)
    for module in (tiny_pipeline.transformer, tiny_pipeline.vae):
        assert not any(part.training for part in module.modules())
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_names_that_lead_to_two_labels_are_dropped(make_pipeline):
    prior = DiTPrior(make_pipeline(names=("crane, bird", "ox", "crane,machine ", "tench, Tinca tinca")))
    parts = {"bird": 0, "ox": 1, "machine": 2, "tench": 3, "Tinca tinca": 3}
    assert prior.labels == parts | {"crane, bird": 0, "crane,machine": 2, "tench, Tinca tinca": 3}
    assert prior.ambiguous == {"crane": (0, 2)}


def test_encode_and_decode(tiny_learned_pipeline):
    vae = tiny_learned_pipeline.vae
    vae.register_to_config(scaling_factor=0.5)
    prior = DiTPrior(tiny_learned_pipeline)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 32, 32), generator=generator, dtype=torch.uint8)
    exact = oracles.double(vae)
    with torch.no_grad():
        mean = exact.encode(images.double() / 127.5 - 1).latent_dist.mean
        pixels = exact.decode(mean).sample
    encoded = prior.encode(images)
    assert encoded.shape == (5, 4, 8, 8) and encoded.dtype == torch.float32
    torch.testing.assert_close(encoded.double(), mean * 0.5, rtol=0, atol=1e-5)
    decoded = prior.decode((mean * 0.5).float())
    expected = ((pixels + 1) * 127.5).clamp(0, 255)
    assert decoded.shape == (5, 3, 32, 32) and decoded.dtype == torch.uint8 and decoded.device.type == "cpu"
    assert (decoded.double() - expected).abs().max() <= 0.501  # the nearest level, not the one below
    assert decoded.min() == 0 and decoded.double().std() > 20
    assert not encoded.requires_grad


def test_half_precision_weights_give_float32_results(tiny_folder):
    prior = DiTPrior.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    full = DiTPrior.from_pretrained(tiny_folder)
    assert prior.dtype == torch.bfloat16 and full.dtype == torch.float32
    ours, exact = (each.denoise(latents(), T, LABELS, guidance_scale=2.0, taps=[2]) for each in (prior, full))
    assert ours.eps.dtype == torch.float32 and ours.features[2].dtype == torch.bfloat16
    assert 0 < (ours.eps - exact.eps).abs().max() < 0.2
    assert prior.encode(torch.zeros((1, 1, 32, 32), dtype=torch.uint8)).dtype == torch.float32
    assert prior.decode(latents(1)).dtype == torch.uint8


# --- the denoiser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guided_channels", [None, 3])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_denoise(tiny_learned_pipeline, guidance_scale, guided_channels):
    prior = DiTPrior(tiny_learned_pipeline, guided_channels=guided_channels, learned_variance=True)
    transformer = oracles.double(tiny_learned_pipeline.transformer)
    with torch.no_grad():
        ours = prior.denoise(latents(), T, LABELS, guidance_scale=guidance_scale, taps=[1, 3])
        eps, rest = oracles.noise_estimate(transformer, latents().double(), T, LABELS, guidance_scale, guided_channels)
        conditional, _ = oracles.noise_estimate(transformer, latents().double(), T, LABELS, 1.0)
        hidden = {block: oracles.tokens(transformer, latents().double(), T, LABELS, block) for block in (1, 3)}
    torch.testing.assert_close(ours.eps.double(), eps, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.variance.double(), rest, rtol=0, atol=1e-5)
    assert set(ours.features) == {1, 3}
    for block, expected in hidden.items():
        assert expected.shape == (3, 16, 16)
        torch.testing.assert_close(ours.features[block].double(), expected, rtol=0, atol=1e-5)
    if guidance_scale == 4:
        guided = (ours.eps.double() - conditional).abs().amax((0, 2, 3)) > 1e-3
        assert guided.tolist() == [True] * 3 + [guided_channels is None]
    assert DiTPrior(tiny_learned_pipeline).denoise(latents(), T, LABELS).variance is None


def test_gradient_ends_at_the_deepest_tap(tiny_pipeline):
    prior, x = DiTPrior(tiny_pipeline), latents().requires_grad_()
    plain = prior.denoise(x.detach(), T, LABELS, guidance_scale=4.0)
    tapped = prior.denoise(x, T, LABELS, guidance_scale=4.0, taps=[1, 2])
    assert torch.equal(plain.eps, tapped.eps) and not tapped.eps.requires_grad
    transformer = oracles.double(tiny_pipeline.transformer)
    for block in (1, 2):
        exact = x.detach().double().requires_grad_()
        oracles.tokens(transformer, exact, T, LABELS, block).sin().sum().backward()
        (gradient,) = torch.autograd.grad(tapped.features[block].sin().sum(), x, retain_graph=True)
        torch.testing.assert_close(gradient.double(), exact.grad, rtol=1e-4, atol=1e-4)


def test_gradient_through_the_denoiser(tiny_pipeline):
    """With guidance both passes carry it: ∂ε = ∂ε_u + s (∂ε_c − ∂ε_u)."""
    prior, x = DiTPrior(tiny_pipeline, guided_channels=3), latents(1).requires_grad_()
    prediction = prior.denoise(x, T, LABELS[:1], guidance_scale=4.0, taps=[1], through=True)
    (gradient,) = torch.autograd.grad(prediction.eps.square().sum(), x, retain_graph=True)
    transformer = oracles.double(tiny_pipeline.transformer)

    def function(moved):
        with torch.no_grad():
            return oracles.noise_estimate(transformer, moved, T, LABELS[:1], 4.0, 3)[0].square()

    differences = oracles.central_differences(function, x.detach().double())
    torch.testing.assert_close(gradient.double(), differences, rtol=1e-3, atol=1e-3)
    assert torch.autograd.grad(prediction.features[1].square().sum(), x)[0].abs().max() > 0


def test_features_run_no_further_than_their_block(tiny_pipeline):
    prior, ran = DiTPrior(tiny_pipeline), []
    handles = [
        block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(tiny_pipeline.transformer.transformer_blocks, start=1)
    ]
    features = prior.features(latents(), T, LABELS, 2)
    assert ran == [1, 2]
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        full = prior.denoise(latents(), T, LABELS, taps=[2]).features[2]
    assert torch.equal(features, full) and not features.requires_grad
    assert not any(block._forward_hooks for block in tiny_pipeline.transformer.transformer_blocks)


@pytest.mark.parametrize("block", [0, 4, -1])
def test_blocks_out_of_range(tiny_pipeline, block):
    prior = DiTPrior(tiny_pipeline)
    with pytest.raises(OptionError, match=f"block: expected 1 to 3, got {block}"):
        prior.features(latents(), T, LABELS, block)
    with pytest.raises(OptionError, match=f"block: expected 1 to 3, got {block}"):
        prior.denoise(latents(), T, LABELS, taps=[1, block])
    assert not any(each._forward_hooks for each in tiny_pipeline.transformer.transformer_blocks)


# --- schedulers -------------------------------------------------------------------------------------------------------


def test_schedulers_are_fresh_and_of_the_kind_asked_for(tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    kinds = {None: DDPMScheduler, "ddpm": DDPMScheduler, "ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}
    for name, kind in kinds.items():
        scheduler = prior.scheduler(name, 7)
        assert type(scheduler) is kind and len(scheduler.timesteps) == 7
        assert scheduler is not prior.scheduler(name, 7) and scheduler is not tiny_pipeline.scheduler
        assert torch.equal(scheduler.alphas_cumprod, tiny_pipeline.scheduler.alphas_cumprod)
    assert prior.scheduler("dpm++", 5).config.lambda_min_clipped == -float("inf")
    tiny_pipeline.scheduler = DDIMScheduler.from_config(tiny_pipeline.scheduler.config)
    assert type(DiTPrior(tiny_pipeline).scheduler(None, 3)) is DDIMScheduler
    with pytest.raises(OptionError, match="unknown scheduler 'lms'"):
        prior.scheduler("lms", 3)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++"])
def test_more_steps_than_the_schedule_has_are_refused(tiny_pipeline, name):
    with pytest.raises(OptionError, match="1001"):
        DiTPrior(tiny_pipeline).scheduler(name, 1001)


def test_dpm_solver_bounds_the_log_snr_of_the_squared_cosine_schedule(make_pipeline):
    cosine = DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=True, clip_sample_range=4.0)
    scheduler = DiTPrior(make_pipeline(scheduler=cosine)).scheduler("dpm++", 10)
    assert scheduler.config.lambda_min_clipped == -5.1 and scheduler.config.algorithm_type == "dpmsolver++"
    assert scheduler.lambda_t[scheduler.timesteps].min() >= -5.1


def test_dpm_solver_keeps_all_channels_where_the_variance_is_learned(make_pipeline):
    learned = DDPMScheduler(clip_sample=False, variance_type="learned_range")
    scheduler = DiTPrior(make_pipeline(out_channels=8, scheduler=learned)).scheduler("dpm++", 4)
    assert scheduler.step(latents(), scheduler.timesteps[0], latents()).prev_sample.shape == (3, 4, 8, 8)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm++"])
def test_noise_is_added_by_the_schedules_alpha_and_sigma(tiny_pipeline, name):
    scheduler = DiTPrior(tiny_pipeline).scheduler(name, 6)
    z, noise = latents(seed=1), latents(seed=2)
    for t in scheduler.timesteps:
        cumulative = float(scheduler.alphas_cumprod[int(t)])
        expected = cumulative**0.5 * z.double() + (1 - cumulative) ** 0.5 * noise.double()
        noised = scheduler.add_noise(z, noise, t.expand(3)).double()
        torch.testing.assert_close(noised, expected, rtol=0, atol=1e-5)


def test_a_scheduler_with_learned_variance_samples_without_it_too(make_pipeline):
    """As ``DiTPipeline``: where the extra channels are dropped, the scheduler must not wait for them."""
    learned = DDPMScheduler(clip_sample=False, variance_type="learned_range")
    scheduler = DiTPrior(make_pipeline(out_channels=8, scheduler=learned)).scheduler("ddpm", 4)
    moved = scheduler.step(latents(), scheduler.timesteps[0], latents(), generator=torch.Generator().manual_seed(0))
    assert moved.prev_sample.isfinite().all()


# --- options and loading ----------------------------------------------------------------------------------------------


def test_learned_variance_and_guided_channels_are_checked(tiny_pipeline, tiny_learned_pipeline):
    with pytest.raises(OptionError, match="learned_variance needs 8 output channels, got 4"):
        DiTPrior(tiny_pipeline, learned_variance=True)
    prior = DiTPrior(tiny_learned_pipeline, learned_variance=True)
    assert prior.scheduler("ddpm", 3).config.variance_type == "learned_range"
    for name in ("ddim", "dpm++"):
        with pytest.raises(OptionError, match="learned_variance needs scheduler='ddpm'"):
            prior.scheduler(name, 3)
    for channels in (0, 5):
        with pytest.raises(OptionError, match=f"guided_channels: expected a whole number from 1 to 4, got {channels}"):
            DiTPrior(tiny_pipeline, guided_channels=channels)


def test_only_epsilon_is_understood(make_pipeline):
    pipeline = make_pipeline(scheduler=DDPMScheduler(prediction_type="sample"))
    with pytest.raises(OptionError, match="epsilon or v, got sample"):
        DiTPrior(pipeline)


def test_hash_names_content_and_nothing_else(tiny_folder, tiny_pipeline, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "elsewhere")
    first, second = DiTPrior.from_pretrained(tiny_folder), DiTPrior.from_pretrained(tmp_path / "elsewhere", name="b")
    described = first.describe()
    assert set(described) == {"name", "learned_variance", "guided_channels", "sha256"}
    assert described["name"] == str(tiny_folder) and second.describe()["name"] == "b"
    assert second.describe()["sha256"] == described["sha256"] == first.describe()["sha256"]
    assert json.loads(json.dumps(described)) == described
    seen = {described["sha256"], DiTPrior(tiny_pipeline).describe()["sha256"]}
    assert len(seen) == 1, "the same networks as an object"
    for module, name in ((tiny_pipeline.transformer, "proj_out_2.bias"), (tiny_pipeline.vae, "quant_conv.weight")):
        with torch.no_grad():
            module.get_parameter(name).view(-1)[0] += 1e-3
        seen.add(DiTPrior(tiny_pipeline).describe()["sha256"])
    tiny_pipeline.vae.register_to_config(scaling_factor=0.9)
    seen.add(DiTPrior(tiny_pipeline).describe()["sha256"])
    tiny_pipeline.scheduler = DDPMScheduler(clip_sample=False, beta_end=0.005)
    seen.add(DiTPrior(tiny_pipeline).describe()["sha256"])
    assert len(seen) == 5


def test_recommended_settings_are_read(tiny_folder, tmp_path):
    assert DiTPrior.from_pretrained(tiny_folder).recommended == {}
    shutil.copytree(tiny_folder, tmp_path / "prior")
    (tmp_path / "prior" / "dap_prior.json").write_text('{"num_inference_steps": 20, "block": 2}')
    assert load_prior(tmp_path / "prior").recommended == {"num_inference_steps": 20, "block": 2}
    (tmp_path / "prior" / "dap_prior.json").write_text("{")
    with pytest.raises(SourceError, match=r"dap_prior\.json"):
        load_prior(tmp_path / "prior")


def damage_missing(folder):
    shutil.rmtree(folder)


def damage_index(folder):
    (folder / "model_index.json").unlink()


def damage_pickled(folder):
    for file in list(folder.rglob("*.safetensors")):
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()


def damage_truncated(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def damage_shapes(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "proj_out_2.bias": torch.zeros(3)}, file)


def damage_json(folder):
    (folder / "model_index.json").write_text("{")


def damage_class(folder):
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["diffusers", "NoSuchTransformer"]
    (folder / "model_index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    "damage",
    [damage_missing, damage_index, damage_pickled, damage_truncated, damage_shapes, damage_json, damage_class],
    ids=lambda damage: damage.__name__.removeprefix("damage_"),
)
def test_what_cannot_be_loaded_is_one_clear_line(tiny_folder, tmp_path, damage, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "prior"
    shutil.copytree(tiny_folder, folder)
    damage(folder)
    with pytest.raises(SourceError) as error:
        DiTPrior.from_pretrained(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_load_prior_takes_what_is_open_already(tiny_pipeline):
    prior = load_prior(tiny_pipeline)
    assert isinstance(prior, DiTPrior) and prior.name == "DiTPipeline object"
    assert load_prior(prior) is prior
    assert load_prior(prior, device="cpu", dtype=torch.float32) is prior
    assert load_prior(prior, device=torch.device("cpu")) is prior
    with pytest.raises(OptionError, match="device: expected that of the prior object, cpu, got cuda"):
        load_prior(prior, device="cuda")
    with pytest.raises(OptionError, match=r"dtype: expected that of .* torch\.float32, got torch\.float16"):
        load_prior(tiny_pipeline, dtype=torch.float16)
    with pytest.raises(OptionError, match=r"prior: expected .* got int"):
        load_prior(3)


def test_load_prior_tells_devices_apart(tiny_pipeline):
    prior = copy.copy(DiTPrior(tiny_pipeline))
    prior.device = torch.device("cuda:0")
    assert load_prior(prior, device="cuda") is prior
    assert load_prior(prior, device="cuda:0") is prior
    with pytest.raises(OptionError, match="cuda:1"):
        load_prior(prior, device=torch.device("cuda:1"))
