"""SDXL, SD3, FLUX, PixArt and Sana as priors: against diffusers' own pipelines, taps and gradients, and whole runs."""

from __future__ import annotations

import pytest
import tiny
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler
from test_text_priors import METHODS as ALL

import dap
from dap import rng
from dap.errors import OptionError
from dap.features import noised_features
from dap.features.pooling import Tap
from dap.priors import load_prior
from dap.sampling import SamplingSettings, as_sampled, check_settings, sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ("cat", "oak tree")
PROMPTS = ["a photo of a cat", "a photo of a oak tree"]
BINS = {"use_resolution_binning": False}
PLAIN = BINS | {"clean_caption": False}
SMALL = {"height": 32, "width": 32}


def consistent(make):
    """The pipeline with a U-Net that takes the scale of guidance as an input, and its scheduler."""
    pipeline = make(time_cond_proj_dim=8)
    pipeline.scheduler = LCMScheduler(beta_end=0.004, steps_offset=1)
    return pipeline


# the pipeline, options of the prior, options of the pipeline's call, and the scale of classifier-free guidance
KINDS = {
    "sdxl": (tiny.stable_diffusion_xl, {}, {}, 5.0),
    "sdxl, null": (tiny.stable_diffusion_xl, {"negative_prompt": "blurred"}, {"negative_prompt": ["blurred"] * 2}, 5.0),
    "sdxl, one scale": (tiny.stable_diffusion_xl, {}, {}, 1.0),
    "sd3": (tiny.stable_diffusion_3, {}, {}, 7.0),
    "sd3, without t5": (lambda: tiny.stable_diffusion_3(t5_too=False), {}, {}, 1.0),
    "flux": (tiny.flux, {"size": 32, "guidance": 2.5}, {"guidance_scale": 2.5} | SMALL, 1.0),
    "flux, schnell": (lambda: tiny.flux(guided=False), {"size": 32}, {"guidance_scale": 0.0} | SMALL, 1.0),
    "pixart": (tiny.pixart, {}, PLAIN, 4.5),
    "pixart, sigma": (lambda: tiny.pixart(sigma=True), {"negative_prompt": "x"}, {"negative_prompt": "x"} | PLAIN, 4.5),
    "sana": (tiny.sana, {}, BINS, 4.5),
    "sana, euler": (lambda: tiny.sana(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)), {}, BINS, 4.5),
    "sana, null": (tiny.sana, {"negative_prompt": "blurred"}, {"negative_prompt": "blurred"} | BINS, 4.5),
    "lcm": (lambda: consistent(tiny.stable_diffusion), {"guidance": 8.0}, {"guidance_scale": 8.0}, 1.0),
    "lcm, sdxl": (lambda: consistent(tiny.stable_diffusion_xl), {"guidance": 8.0}, {"guidance_scale": 8.0}, 1.0),
}  # fmt: skip
FAMILIES = ("sdxl", "sd3", "flux", "pixart", "sana", "lcm")


def prior_of(kind):
    make, options, _, _ = KINDS[kind]
    return load_prior(make(), options=options).for_classes(NAMES)


def labels_of(prior):
    return torch.tensor(list(prior.labels_of(NAMES).values()))


def slots():
    return [rng.generator(1, "slot", number) for number in range(2)]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_those_of_its_own_pipeline(kind):
    make, _, call, scale = KINDS[kind]
    prior, pipeline = prior_of(kind), make()
    settings = SamplingSettings(num_inference_steps=4, guidance_scale=scale)
    ours = sample(prior, labels_of(prior), slots(), settings=settings)
    generators = slots()
    noise = torch.stack([torch.randn(prior.latent_shape, generator=generator) for generator in generators])
    given = {"guidance_scale": scale} | call | ({} if "flux" in kind else {"generator": generators})
    packed = pipeline._pack_latents(noise, 2, 4, 8, 8) if "flux" in kind else noise
    theirs = pipeline(PROMPTS, num_inference_steps=4, latents=packed, output_type="latent", **given).images
    if "flux" in kind:
        theirs = pipeline._unpack_latents(theirs, 32, 32, pipeline.vae_scale_factor)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * max(1.0, float(theirs.abs().max())))
    shift = pipeline.vae.config.get("shift_factor") or 0.0
    with torch.no_grad():
        pixels = pipeline.vae.decode(theirs / pipeline.vae.config.scaling_factor + shift).sample
        encoded = pipeline.vae.encode(pixels.clamp(-1, 1))
        mean = encoded.latent if "sana" in kind else encoded.latent_dist.mean
    torch.testing.assert_close(prior.decode_pixels(theirs), pixels, rtol=0, atol=1e-4)
    encoded = prior.encode(pixels.clamp(-1, 1) * 127.5 + 127.5)
    torch.testing.assert_close(encoded, (mean - shift) * pipeline.vae.config.scaling_factor, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", [*FAMILIES, "pixart, sigma"])
def test_a_saved_folder_is_the_same_prior(kind, tmp_path):
    make, options, _, _ = KINDS[kind]
    make().save_pretrained(tmp_path)
    own, loaded = (load_prior(prior, options=options).for_classes(NAMES) for prior in (make(), tmp_path))
    x = torch.randn((2, *own.latent_shape), generator=rng.generator(0))
    assert loaded.describe() | {"name": ""} == own.describe() | {"name": ""}
    assert torch.equal(*(prior.denoise(x, torch.tensor(400), labels_of(prior)).eps for prior in (own, loaded)))


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_the_hash_and_is_near(kind, dtype, tmp_path):
    make, options, _, _ = KINDS[kind]
    make().save_pretrained(tmp_path)
    whole, half = (load_prior(tmp_path, dtype=name, options=options).for_classes(NAMES) for name in (None, dtype))
    x = torch.randn((2, *whole.latent_shape), generator=rng.generator(0))
    ours, theirs = (prior.denoise(x, torch.tensor(400), labels_of(prior)).eps for prior in (half, whole))
    assert half.describe() == whole.describe() and ours.dtype == torch.float32
    # diffusers embeds FLUX's guidance, times 1,000, in the network's dtype: 3,500 is 3,504 in bfloat16
    assert (ours - theirs).norm() < (0.15 if kind == "flux" else 0.03) * theirs.norm()


@pytest.mark.parametrize("kind", FAMILIES)
def test_taps_see_the_tokens_of_the_image(kind):
    prior = prior_of(kind)
    x = torch.randn((2, *prior.latent_shape), generator=rng.generator(0)).requires_grad_()
    t, labels = torch.tensor(400.0 if kind in ("sd3", "flux") else 400), labels_of(prior)
    block = next(iter(prior.blocks.values()))
    seen, handle = [], block.register_forward_hook(lambda *call: seen.append(call[2]))
    prediction = prior.denoise(x, t, labels, taps=[1])
    handle.remove()
    output = seen[0] if isinstance(seen[0], torch.Tensor) else seen[0][1 if kind in ("sd3", "flux") else 0]
    tokens = output.flatten(2).transpose(1, 2) if output.dim() == 4 else output
    assert torch.equal(prediction.features[1], tokens) and not prediction.eps.requires_grad
    (gradient,) = torch.autograd.grad(prediction.features[1].sum(), x)
    assert gradient.abs().sum() > 0
    assert torch.equal(prior.features(x, t, labels, 1), tokens)
    features = noised_features(
        prior,
        x.detach(),
        ["a", "b"],
        label=int(labels[0]),
        tap=Tap(1),
        scheduler=prior.noise_schedule(),
        timestep=100,
        seed=0,
    )
    assert torch.isfinite(features).all()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_few_steps_of_a_turbo_model_are_those_of_its_own_pipeline(steps):
    """Euler, steps that end at the largest t, and no classifier-free guidance, as SDXL-turbo is sampled."""
    prior, pipeline = prior_of("sdxl"), tiny.stable_diffusion_xl()
    options = {"scheduler": "euler", "timestep_spacing": "trailing", "guidance_scale": 1.0}
    ours = sample(prior, labels_of(prior), slots(), settings=SamplingSettings(num_inference_steps=steps, **options))
    noise = torch.stack([torch.randn(prior.latent_shape, generator=generator) for generator in slots()])
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    theirs = pipeline(
        PROMPTS, num_inference_steps=steps, latents=noise, output_type="latent", guidance_scale=0.0
    ).images
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * max(1.0, float(theirs.abs().max())))


METHODS = {
    "dap": {"references": 4}, "dap_set": {"references": 4}, "mgd3": {}, "coda": {"min_cluster_size": 2},
    "ld3m": {"steps": 1, "chain": 2, "batch": 4, "width": 8},
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_guided_methods_run_twice_to_the_same_bytes(kind, method, photographs, tmp_path):
    settings = {
        "method": method, "method_options": METHODS[method], "ipc": 2, "num_inference_steps": 3, "progress": False,
    }  # fmt: skip
    once, again = (
        dap.distill(
            photographs, prior=load_prior(KINDS[kind][0](), options=KINDS[kind][1]), out=tmp_path / out, **settings
        )
        for out in ("a", "b")
    )
    assert once.to_torch()[0].shape == (4, 3, 32, 32) and len(once.files) == 4
    for file in once.files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    plain = dap.distill(
        photographs, prior=load_prior(KINDS[kind][0](), options=KINDS[kind][1]), out=tmp_path / "plain",
        **settings | {"method": "dit", "method_options": {}},
    )  # fmt: skip
    assert (
        not torch.equal(once.to_torch()[0], plain.to_torch()[0]) and again.manifest["prior"] == once.manifest["prior"]
    )


OTHERS = {name: options for name, options in ALL.items() if name not in (*METHODS, "dit", "k_medoids", "d3m")}
OTHERS |= {"cao2, optimised": {"candidates": 1, "steps": 2, "width": 4, "epochs": 2}}


@pytest.mark.parametrize(
    ("method", "kind"),
    [(name, FAMILIES[place % 6]) for place, name in enumerate(OTHERS) if name != "cao2, optimised"]
    + [("cao2, optimised", kind) for kind in ("sdxl", "sd3", "pixart", "sana")],  # which have a null condition
)
def test_other_methods_run_twice_to_the_same_bytes(method, kind, photographs, tmp_path):
    settings = {
        "method": method.partition(",")[0], "method_options": OTHERS[method], "ipc": 2, "progress": False,
        "num_inference_steps": 8 if "optimised" in method else 4,
    }  # fmt: skip
    made = [
        dap.distill(
            photographs, prior=load_prior(KINDS[kind][0](), options=KINDS[kind][1]), out=tmp_path / out, **settings
        )
        for out in ("a", "b")
    ]
    images, labels = made[0].to_torch()
    assert images.shape == (4, 3, 32, 32) and labels.tolist() == [0, 0, 1, 1]
    for file in made[0].files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_memory_is_planned_without_running_the_networks():
    from dap.priors import Demand

    for kind in FAMILIES:
        prior = prior_of(kind)
        graph = prior.step_bytes(Demand(denoiser=True), guidance_scale=1.0)
        plain = prior.step_bytes(Demand(), guidance_scale=1.0)
        assert graph.slot > plain.slot > 0 and plain.slot != prior.slot_bytes, "measured, not guessed"


def test_prompts_and_conditions_that_cannot_be_are_refused():
    with pytest.raises(OptionError, match="has 62 tokens, the text encoder reads 48"):
        load_prior(tiny.stable_diffusion_xl(), options={"prompts": {"cat": "c" * 60}}).labels_of(["cat"])
    pixart = load_prior(tiny.pixart(), options={"prompts": {"cat": "c" * 140}})
    with pytest.raises(OptionError, match=r"has 14\d tokens, the text encoder reads 120"):
        pixart.labels_of(["cat"])
    pipeline = tiny.stable_diffusion_xl()
    pipeline.unet = tiny.stable_diffusion().unet
    with pytest.raises(OptionError, match="expected SDXL's U-Net and second text encoder, got a U-Net with the added"):
        load_prior(pipeline)
    with pytest.raises(OptionError, match="size: expected a multiple of 8 pixels, got 30"):
        load_prior(tiny.flux(), options={"size": 30})
    for kind in ("flux", "lcm"):
        prior = prior_of(kind)
        assert not prior.has_null and prior.recommended["guidance_scale"] == 1


def test_options_of_sampling_that_sana_does_not_have_are_refused(capfd, caplog):
    prior = load_prior(tiny.sana())
    for scheduler in ("euler", "ddim", "dpm++", None):
        assert prior.scheduler(scheduler, 4).sigmas[-1] == 0
        for option, value in (("timestep_spacing", "trailing"), ("clip_sample", True), ("eta", 0.5)):
            settings = SamplingSettings(num_inference_steps=4, scheduler=scheduler, **{option: value})
            with pytest.raises(OptionError, match=f"{option}.*trained by flow matching.*leave it out"):
                check_settings(prior, settings)
    for name in ("coda-sdxl", "mgd3-sd", "dit-repo"):
        with pytest.raises(OptionError, match=f"sampling='{name}': SanaPipeline object was trained by flow matching"):
            as_sampled(prior, name)
    assert capfd.readouterr() == ("", "") and caplog.messages == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": 3}, "template: expected text with one {} for the class's name, got 3"),
        ({"prompts": [1]}, r"prompts: expected text by class name, or a JSON file of it, got \[1\]"),
        ({"prompts": {"cat": 3}}, "prompts: expected text by class name"),
    ],
)
def test_prompts_that_are_no_text_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        load_prior(tiny.pixart(), options=options)


def test_few_prompts_are_kept(monkeypatch):
    from dap.priors import prompts

    monkeypatch.setattr(prompts, "KEPT", 2)
    names = ("a", "b", "c")
    prior = load_prior(tiny.stable_diffusion_xl()).for_classes(names)
    labels = torch.tensor(list(prior.labels_of(names).values()))
    rows = prior.condition(labels)
    assert len(prior._encoded) == 2 and torch.equal(prior.condition(labels.flip(0)).flip(0), rows)


def test_a_run_of_sdxl_with_other_steps(photographs, tmp_path):
    pipeline = tiny.stable_diffusion_xl(scheduler=DDIMScheduler(**tiny.SCHEDULE))
    sets = [
        dap.distill(
            photographs, prior=pipeline, method="dit", ipc=1, num_inference_steps=3, scheduler=name,
            out=tmp_path / name, progress=False,
        )
        for name in ("dpm++-karras", "dpm++")
    ]  # fmt: skip
    assert not torch.equal(sets[0].to_torch()[0], sets[1].to_torch()[0])
