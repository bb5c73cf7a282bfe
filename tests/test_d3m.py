"""d3m: one step of textual inversion against diffusers' own parts and float64; words saved, reloaded, resumed."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file

import dap
from dap import rng
from dap.errors import OptionError
from dap.features import real_latents
from dap.methods import D3M, get_method
from dap.priors import load_prior
from dap.priors.stable_diffusion import StableDiffusionPrior

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SMALL = D3M(steps=3, batch=2, vectors=2, learning_rate=0.05)


def distilled(photographs, out, method=SMALL, **options):
    settings = {"ipc": 2, "num_inference_steps": 3, "progress": False, "prior": load_prior(tiny.stable_diffusion())}
    return dap.distill(photographs, method=method, out=out, **settings | options)


@pytest.mark.parametrize("v", [False, True])
def test_one_step_is_that_of_textual_inversion(v, photographs, tmp_path):
    """The gradient at a word that diffusers' tokenizer and a resized table hold, as its training script has it."""
    method = D3M(steps=1, batch=2, vectors=1, learning_rate=0.05)
    made = distilled(photographs, tmp_path / "run", method, seed=3, prior=load_prior(tiny.stable_diffusion(v=v)))
    word = load_file(tmp_path / "run" / "embeddings" / "cat.safetensors")["cat"]

    pipeline = tiny.stable_diffusion(v=v)
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    prior = StableDiffusionPrior(tiny.stable_diffusion(v=v))
    source = dap.data.open.open_source(photographs)
    real = real_latents(source, made_classes(made), prior)
    latents, ids = real.of_class("cat"), tokenizer("cat", add_special_tokens=False).input_ids
    tokenizer.add_tokens("<cat>")
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    start = table[ids[0]].detach().clone()
    with torch.no_grad():
        table[tokenizer.convert_tokens_to_ids("<cat>")] = start
    encoder.double(), pipeline.unet.double()
    table = encoder.get_input_embeddings().weight.requires_grad_()

    draw = rng.generator(3, "d3m", "cat", 0)
    chosen = torch.randint(len(latents), (2,), generator=draw)
    noise = torch.randn((2, 4, 8, 8), generator=draw).double()
    timesteps = torch.randint(1000, (2,), generator=draw)
    noised = pipeline.scheduler.add_noise(latents[chosen].double(), noise, timesteps)
    tokens = tokenizer(["a photo of a <cat>"] * 2, padding="max_length", return_tensors="pt")
    states = encoder(tokens.input_ids)[0]
    output = pipeline.unet(noised, timesteps, encoder_hidden_states=states).sample
    if v:
        cumulative = pipeline.scheduler.alphas_cumprod.double()[timesteps].view(-1, 1, 1, 1)
        output = cumulative.sqrt() * output + (1 - cumulative).sqrt() * noised
    (gradient,) = torch.autograd.grad((output - noise).square().mean(), table)
    own = gradient[tokenizer.convert_tokens_to_ids("<cat>")]
    own = own / max(1.0, float(own.norm()))
    # the first step of Adam: every entry moves by the learning rate against the sign of its gradient, less by ε = 1e-8
    expected = start.double() * (1 - 0.0) - 0.05 * own / (own.abs() + 1e-8)
    torch.testing.assert_close(word[0].double(), expected, rtol=0, atol=2e-5)
    assert float((word[0] - start).abs().min()) > 0.01


def made_classes(made):
    from dap.data.classmap import from_json

    return from_json(made.manifest["class_map"])


def test_the_words_are_the_dataset(photographs, tmp_path):
    """Images made of the saved words are the run's own, by another method's call, and diffusers reads the words."""
    made = distilled(photographs, tmp_path / "run")
    files = sorted((tmp_path / "run" / "embeddings").iterdir())
    assert [file.name for file in files] == ["cat.safetensors", "oak tree.safetensors"]
    assert load_file(files[0])["cat"].shape == (2, 16)
    assert {f"embeddings/{file.name}" for file in files} < set(made.manifest["files"])
    words = {"concepts": tmp_path / "run" / "embeddings"}
    dap.distill(photographs, prior=tiny.stable_diffusion(), prior_options=words, method="dit", ipc=3,
                num_inference_steps=3, out=tmp_path / "again", progress=False)  # fmt: skip
    for file in made.files:
        ours = np.asarray(Image.open(tmp_path / "run" / file)).astype(int)
        theirs = np.asarray(Image.open(tmp_path / "again" / file)).astype(int)
        assert np.abs(ours - theirs).max() <= 1  # another batch size
    plain = distilled(photographs, tmp_path / "plain", "dit")
    assert not torch.equal(plain.to_torch()[0], made.to_torch()[0])
    tiny.stable_diffusion().load_textual_inversion(str(files[0]), token="<cat>")


def test_runs_are_the_same_to_the_byte_and_words_resume(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "first"))
    whole = distilled(photographs, tmp_path / "whole")
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr("dap.nets.optimisation.SAVE_SECONDS", -1.0)
    import dap.methods.d3m as module

    calls, loss = 0, module.denoising_loss

    def killed(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == 6:  # in the second word
            raise KeyboardInterrupt
        return loss(*arguments, **options)

    monkeypatch.setattr(module, "denoising_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        distilled(photographs, tmp_path / "cut")
    assert not (tmp_path / "cut").exists() and len(list((tmp_path / "second" / "concepts").iterdir())) == 2
    distilled(photographs, tmp_path / "cut")
    assert calls == 7  # the sixth call again, and nothing of the first word
    names = [*whole.files, "embeddings/cat.safetensors", "embeddings/oak tree.safetensors"]
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    alone = distilled(photographs, tmp_path / "alone", classes=["oak tree"])
    assert torch.equal(alone.to_torch()[0].float().round(), alone.to_torch()[0].float())
    word = "embeddings/oak tree.safetensors"
    assert (tmp_path / "alone" / word).read_bytes() == (tmp_path / "whole" / word).read_bytes()
    (tmp_path / "cut" / word).unlink()  # a word that is lost comes back
    distilled(photographs, tmp_path / "cut")
    assert (tmp_path / "cut" / word).read_bytes() == (tmp_path / "whole" / word).read_bytes()


def test_priors_that_read_no_text_and_options(make_pipeline, tmp_path):
    with pytest.raises(OptionError, match="'d3m' learns words for one text encoder, which DiTPipeline object does not"):
        dap.distill("fashion-mini", method=SMALL, prior=make_pipeline(), out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    assert get_method("d3m:tiny").steps == 20 and get_method("d3m").vectors == 1
    for option, value in (("vectors", 0), ("steps", 1.5), ("batch", True), ("learning_rate", 0.0)):
        with pytest.raises(OptionError, match=f"{option}: expected"):
            D3M(**{option: value})
