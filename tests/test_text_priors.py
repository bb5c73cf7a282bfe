"""Priors under text and U-Nets: prompts, labels, taps and gradients, saved folders, and whole runs of every method."""

from __future__ import annotations

import json

import oracles
import pytest
import tiny
import torch
from conftest import build_pipeline
from diffusers import FlowMatchEulerDiscreteScheduler

import dap
from dap.errors import FormatError, OptionError, SourceError
from dap.features import block_number, default_block
from dap.priors import load_prior
from dap.priors.stable_diffusion import StableDiffusionPrior
from dap.priors.unet import UNetPrior

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ("cat", "oak tree")  # of the photographs
T = torch.tensor(400)


def latents(count=2, channels=4, size=8):
    return torch.randn((count, channels, size, size), generator=torch.Generator().manual_seed(0))


def labels_of(prior):
    return torch.tensor(list(prior.labels_of(NAMES).values()))


PIPELINES = {
    "stable diffusion": tiny.stable_diffusion,
    "stable diffusion, v": lambda: tiny.stable_diffusion(v=True),
    "pixels": tiny.pixels,
    "latent": tiny.latent,
}


METHODS = {
    "dit": {}, "dap": {"references": 4}, "dap_set": {"references": 4}, "dap_set:features": {"references": 4},
    "dap_networks": {"references": 4, "width": 4, "strength": 0.5},
    "dap_networks, trained": {"references": 4, "width": 4, "strength": 0.5, "epochs": 2, "verdict": 1.0},
    "dap_networks, latent": {"references": 4, "width": 4, "space": "latent"},
    "mgd3": {}, "guided:set_mode": {}, "manifold_gd": {}, "d4m": {}, "k_medoids": {},
    "igd": {"width": 8, "epochs": 2, "references": 4}, "coda": {"min_cluster_size": 2},
    "plug_and_play": {"steps": 3, "references": 4},
    "ld3m": {"steps": 2, "chain": 2, "batch": 4, "width": 8},
    "ld3m, gradient": {"steps": 1, "chain": 2, "batch": 4, "width": 8, "matching": "gradient"},
    "dm": {"space": "latent", "steps": 2, "batch": 4, "width": 8},
    "d3hr": {"groups": 3, "noise_level": 0.5}, "cao2": {"candidates": 2, "steps": 0, "width": 4, "epochs": 2},
    "dmgd": {}, "cgs": {}, "lgd": {"increment": 1, "learning_epochs": 2, "width": 4, "epochs": 2},
    "filtered": {"method": "mgd3", "candidates": 2, "width": 4, "epochs": 2},
    "d3m": {"steps": 2, "batch": 2},
}  # fmt: skip


READERS = ("stable diffusion", "stable diffusion, v")  # of words, which d3m learns


def flow():
    """A DiT that knows both classes, trained by flow matching."""
    pipeline = build_pipeline(image_channels=3, names=NAMES, classes=2)
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return pipeline


WHOLE_RUNS = PIPELINES | {"dit, flow": flow}


@pytest.mark.parametrize(
    ("kind", "method"),
    [(kind, method) for kind in WHOLE_RUNS for method in METHODS if method != "d3m" or kind in READERS],
)
def test_every_method_runs_end_to_end_and_resumes(kind, method, photographs, tmp_path):
    pipeline = WHOLE_RUNS[kind]()
    settings = {
        "method": method.split(",")[0],
        "method_options": METHODS[method],
        "ipc": 2,
        "num_inference_steps": 4,
        "progress": False,
    }
    prior = load_prior(WHOLE_RUNS[kind]())
    settings["channels"] = "grey" if prior.image_shape[0] == 1 else "rgb"
    if method == "k_medoids":
        settings["size"] = prior.image_shape[1]  # real images keep their own
    made = dap.distill(photographs, prior=load_prior(pipeline), out=tmp_path / "a", **settings)
    images, labels = made.to_torch()
    assert images.shape == (4, *prior.image_shape) and labels.tolist() == [0, 0, 1, 1]
    assert made.manifest["prior"]["sha256"] == prior.describe()["sha256"]
    again = dap.distill(photographs, prior=prior, out=tmp_path / "b", **settings)
    for file in made.files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert again.manifest["class_map"] == made.manifest["class_map"]


@pytest.mark.parametrize("scheduler", ["euler", "heun", "dpm++"])
@pytest.mark.parametrize("method", ["dap", "dap_set", "mgd3"])
def test_guided_methods_run_with_every_sampler(method, scheduler, photographs, tmp_path):
    options = {"references": 4} if method != "mgd3" else {}
    settings = {"method_options": options, "ipc": 2, "num_inference_steps": 4, "progress": False}
    prior = load_prior(tiny.stable_diffusion())
    guided, plain = (
        dap.distill(
            photographs, prior=prior, method=name, scheduler=scheduler, out=tmp_path / name, **(settings | more)
        )
        for name, more in ((method, {}), ("dit", {"method_options": {}}))
    )
    assert not torch.equal(guided.to_torch()[0], plain.to_torch()[0])


@pytest.mark.parametrize("kind", PIPELINES)
def test_a_saved_folder_is_the_same_prior(kind, tmp_path):
    own = load_prior(PIPELINES[kind]()).for_classes(NAMES)
    PIPELINES[kind]().save_pretrained(tmp_path)
    loaded = load_prior(tmp_path, device="cpu").for_classes(NAMES)
    assert loaded.describe()["sha256"] == own.describe()["sha256"]
    assert (loaded.latent_shape, loaded.image_shape, loaded.block_names) == (
        own.latent_shape, own.image_shape, own.block_names
    )  # fmt: skip
    x = latents(channels=own.latent_shape[0], size=own.latent_shape[1])
    ours, theirs = (each.denoise(x, T, labels_of(each)).eps for each in (own, loaded))
    assert torch.equal(ours, theirs)


def test_weights_that_are_pickled_are_read_only_when_asked_for(tmp_path):
    tiny.pixels().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(SourceError, match="has pickled weights"):
        load_prior(tmp_path)
    assert UNetPrior.from_pretrained(tmp_path, use_safetensors=False).latent_shape == (1, 16, 16)
    with pytest.raises(SourceError, match="holds a DDPMPipeline, expected StableDiffusionPipeline"):
        StableDiffusionPrior.from_pretrained(tmp_path)


# --- prompts ----------------------------------------------------------------------------------------------------------


def test_prompts_come_from_names_templates_and_files(tmp_path):
    pipeline = tiny.stable_diffusion()
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"cat": "two cats"}))
    prior = StableDiffusionPrior(pipeline, template="art of {}", prompts=file)
    names = ("cat", "oak_tree", "n01440764")
    labels = prior.labels_of(names)
    with pytest.raises(OptionError, match=r"knows no prompt for label \d+; use the prior that for_classes"):
        prior.denoise(latents(), T, torch.tensor(list(labels.values())[:2]))
    described, asked = prior.describe(), prior
    prior = prior.for_classes(names)
    assert prior.labels_of(names) == labels and prior.describe() == described
    assert prior.denoiser is asked.denoiser and not asked._known, "a copy that shares the networks"
    assert [prior._known[label] for label in labels.values()] == ["two cats", "art of oak tree", "art of tench"]
    assert prior.labels_of(["oak_tree"])["oak_tree"] == labels["oak_tree"]  # whatever else there is
    assert StableDiffusionPrior(pipeline).labels_of(["cat"]) != {"cat": labels["cat"]}
    first, second = prior.denoise(latents(), T, torch.tensor([labels["cat"], labels["oak_tree"]])).eps
    swapped = prior.denoise(latents(), T, torch.tensor([labels["oak_tree"], labels["cat"]])).eps
    assert not torch.allclose(first, swapped[0]) and not torch.allclose(second, swapped[1])
    assert prior.describe()["prompts"] == {"cat": "two cats"} and prior.describe()["template"] == "art of {}"


def test_prompts_that_cannot_be_are_refused(tmp_path):
    pipeline = tiny.stable_diffusion()
    with pytest.raises(OptionError, match=r"template: expected text with one \{\}"):
        StableDiffusionPrior(pipeline, template="a photo")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(FormatError, match=r"bad.json: expected JSON with a prompt by class name"):
        StableDiffusionPrior(pipeline, prompts=tmp_path / "bad.json")
    long = StableDiffusionPrior(pipeline, prompts={"cat": "c" * 60})
    with pytest.raises(OptionError, match="has 62 tokens, the text encoder reads 48"):
        long.labels_of(["cat"])
    with pytest.raises(OptionError, match="has 62 tokens, the text encoder reads 48"):
        long.for_classes(["cat"])


# --- the denoiser -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("v", [False, True])
def test_guidance_with_the_negative_prompt_and_v(v):
    """ε̂ = ε_n + s (ε_c − ε_n); of v, ε = α v + σ x (Salimans and Ho, 2022)."""
    pipeline = tiny.stable_diffusion(v=v)
    prior = StableDiffusionPrior(pipeline, negative_prompt="blurred", template="{}").for_classes(NAMES)
    ours = prior.denoise(latents(), T, labels_of(prior), guidance_scale=5.0).eps
    x, network, encoder = latents().double(), oracles.double(pipeline.unet), oracles.double(pipeline.text_encoder)

    def predicted(prompts):
        tokens = pipeline.tokenizer(prompts, padding="max_length", max_length=48, return_tensors="pt").input_ids
        return network(x, T, encoder_hidden_states=encoder(tokens)[0]).sample

    with torch.no_grad():
        conditional, negative = predicted(list(NAMES)), predicted(["blurred"] * 2)
    output = negative + 5.0 * (conditional - negative)
    cumulative = pipeline.scheduler.alphas_cumprod[400].double()
    eps = cumulative.sqrt() * output + (1 - cumulative).sqrt() * x if v else output
    torch.testing.assert_close(ours.double(), eps, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", PIPELINES)
def test_features_are_the_blocks_own_and_the_gradient_ends_there(kind):
    pipeline = PIPELINES[kind]()
    prior = load_prior(pipeline).for_classes(NAMES)
    unet = pipeline.unet
    assert prior.block_names == ("down 1", "down 2", "mid", "up 1", "up 2")
    assert prior.recommended["block"] == 3
    x = latents(channels=prior.latent_shape[0], size=prior.latent_shape[1]).requires_grad_()
    hidden, handle = [], unet.mid_block.register_forward_hook(lambda *call: hidden.append(call[2]))
    labels = labels_of(prior)
    plain = prior.denoise(x.detach(), T, labels).eps
    tapped = prior.denoise(x, T, labels, taps=[1, 3])
    handle.remove()
    batch, width, side, _ = hidden[0].shape
    expected = hidden[1].flatten(2).transpose(1, 2)
    assert tapped.features[3].shape == (batch, side * side, width)
    assert torch.equal(tapped.features[3], expected) and torch.equal(prior.features(x, T, labels, 3), expected)
    assert torch.equal(plain, tapped.eps)
    assert not tapped.eps.requires_grad and torch.is_grad_enabled()  # though skip connections lead past the block
    (gradient,) = torch.autograd.grad(tapped.features[3].square().sum(), x)

    def function(moved):
        exact = oracles.double(unet)
        seen = []
        hook = exact.mid_block.register_forward_hook(lambda *call: seen.append(call[2]))
        text = {}
        if "stable" in kind:
            text = {"encoder_hidden_states": prior.condition(labels).double()}
        with torch.no_grad():
            exact(moved, T.expand(len(moved)), **text)
        hook.remove()
        return seen[0].square().sum((1, 2, 3))

    place, step = (0, 0, 3, 5), 1e-5
    above, below = (x.detach().double().clone() for _ in range(2))
    above[place] += step
    below[place] -= step
    slope = (function(above) - function(below)).sum() / (2 * step)
    assert float(gradient[place]) == pytest.approx(float(slope), rel=1e-3, abs=1e-4)
    assert not any(block._forward_hooks for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks))


def test_a_recommended_block_may_have_a_name():
    prior = UNetPrior(tiny.pixels(), recommended={"block": "down 2"})
    assert (block_number(prior, None), default_block(prior), block_number(prior, "mid")) == (2, 2, 3)


def test_blocks_by_name(photographs, tmp_path):
    settings = {"method": "dap", "ipc": 1, "num_inference_steps": 3, "channels": "grey", "progress": False}
    prior = load_prior(tiny.pixels())

    def made(block):
        options = {"references": 2, "block": block}
        return dap.distill(photographs, prior=prior, out=tmp_path / f"{block}", method_options=options, **settings)

    assert torch.equal(made("mid").to_torch()[0], made(3).to_torch()[0])
    assert made("mid").manifest["record"]["block"] == 3
    with pytest.raises(OptionError, match="unknown block 'middle'; did you mean 'mid'"):
        made("middle")
    with pytest.raises(OptionError, match="block: expected 1 to 5, got 6"):
        made(6)


def test_class_conditional_unets_know_their_classes_alone(photographs, tmp_path):
    prior = UNetPrior(tiny.pixels(classes=3), class_names=("oak tree", "lorry", "cat"))
    assert UNetPrior(tiny.pixels(classes=3)).labels_of([]) == {"0": 0, "1": 1, "2": 2}
    with pytest.raises(OptionError, match="class_names: expected 3 different names, got 2"):
        UNetPrior(tiny.pixels(classes=3), class_names=("cat", "oak tree", "cat"))
    assert prior.labels_of(["cat"]) == {"oak tree": 0, "lorry": 1, "cat": 2}
    made = dap.distill(photographs, prior=prior, method="dit", ipc=1, num_inference_steps=3, out=tmp_path / "a",
                       channels="grey", progress=False)  # fmt: skip
    assert [entry["prior_label"] for entry in made.manifest["class_map"]] == [2, 0]
    x = latents(1, 1, 16)
    assert not torch.equal(*(prior.denoise(x, T, torch.tensor([label])).eps for label in (0, 1)))
    with pytest.raises(OptionError, match="guidance_scale=2: DDPMPipeline object has no null condition"):
        dap.distill(photographs, prior=prior, method="dit", guidance_scale=2.0, channels="grey", out=tmp_path / "b",
                    progress=False)  # fmt: skip
    assert not (tmp_path / "b").exists()
