"""Priors that are trained here, and classes that a prior is taught: small networks, few steps, real images."""

from __future__ import annotations

import json
import logging
import os
import re
import time

import numpy as np
import oracles
import pytest
import tiny
import torch
from diffusers import DiTPipeline
from safetensors.torch import load_file

import dap
from dap import rng
from dap.data.classmap import null_label
from dap.data.open import open_source
from dap.device import fast_dtype
from dap.errors import DapError, FormatError, OptionError, RunMismatchError
from dap.features import encode_images
from dap.priors import load_prior
from dap.priors.adapter import add_low_rank, merge_low_rank, without_low_rank, write_adapter
from dap.priors.dit import DiTPrior
from dap.priors.unet import UNetPrior
from dap.sampling import denoising_loss, noised_latents
from dap.training.autoencoder import build_autoencoder, standardise, to_float
from dap.training.dit import build_denoiser, build_schedule, train_denoiser

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = ["Dress", "Bag"]


def few(monkeypatch):
    """Cards that are quick: two samples a class, a judge of two steps."""
    from dap.evaluation import judge
    from dap.evaluation.small import Small
    from dap.training import measure, train

    monkeypatch.setattr(measure, "SAMPLES", 2)
    for module in (measure, train):
        monkeypatch.setattr(module, "RECOMMENDED", module.RECOMMENDED | {"num_inference_steps": 2})
    monkeypatch.setattr(judge, "JUDGE", Small(width=4, few_steps=2, many_steps=2))


@pytest.fixture
def source():
    """Forty images of each of two classes."""
    whole = open_source("fashion-mini", classes=CLASSES)
    return whole.select(np.concatenate([whole.of_class(label)[:40] for label in range(2)]))


@pytest.fixture
def quick(monkeypatch):
    """Cards that are quick, and batches that are small."""
    from dap.training import autoencoder, dit, estimate

    few(monkeypatch)
    monkeypatch.setattr(autoencoder, "BATCH", 8)
    for module in (dit, estimate):
        monkeypatch.setattr(module, "BATCH", 8)


# --- training a prior -------------------------------------------------------------------------------------------------


def test_latents_are_standardised_and_decode_as_before():
    vae = build_autoencoder(1, 32, seed=0).eval()
    images = torch.randint(0, 256, (40, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        before = vae.encode(to_float(images)).latent_dist
        pixels = vae.decode(before.mean).sample
        standardise(vae, images)
        after = vae.encode(to_float(images)).latent_dist
        assert torch.allclose(vae.decode(after.mean).sample, pixels, atol=1e-4)
    mean, std = before.mean.mean((0, 2, 3), keepdim=True), before.mean.std((0, 2, 3), keepdim=True)
    torch.testing.assert_close(after.mean, (before.mean - mean) / std, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.std, before.std / std, rtol=1e-3, atol=1e-3)


def test_the_denoiser_learns_what_the_prior_is_asked(tmp_path):
    """One step: ‖ε − ε_θ(√ᾱ z + √(1 − ᾱ) ε, t, c)‖² in float64, one label in ten left out, then the average."""
    latents, labels = torch.randn((9, 4, 8, 8), generator=torch.Generator().manual_seed(1)), torch.arange(9) % 3
    network = build_denoiser(4, 8, 3, seed=2)
    exact, seen = oracles.double(network), []
    state = {name: value.clone() for name, value in network.state_dict().items()}
    hook = network.register_forward_pre_hook(lambda *call: seen.append(call[2]["class_labels"]), with_kwargs=True)
    trained = train_denoiser(network, latents, labels, steps=1, seed=4, checkpoint=tmp_path / "x.safetensors")
    hook.remove()
    draw = rng.generator(4, "denoiser", 0)
    chosen = torch.randint(9, (128,), generator=draw)
    noise, t = torch.randn((128, 4, 8, 8), generator=draw).double(), torch.randint(1000, (128,), generator=draw)
    nulled = torch.rand(128, generator=draw) < 0.1
    conditions = torch.where(nulled, 3, labels[chosen])
    assert 3 <= int(nulled.sum()) <= 30 and torch.equal(seen[0], conditions)
    cumulative = build_schedule().alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    noised = cumulative.sqrt() * latents[chosen].double() + (1 - cumulative).sqrt() * noise
    loss = (exact(noised, timestep=t, class_labels=conditions).sample - noise).square().mean()
    assert trained.losses[0] == pytest.approx(loss.item(), rel=5e-3)  # the network runs in bfloat16
    loss.backward()
    gradients = dict(exact.named_parameters())
    agreed = total = 0
    for name, value in network.state_dict().items():
        if name in gradients and (gradient := gradients[name].grad) is not None:
            moved = (value - state[name]).double() / (1 - 2 / 11)  # the average after one step
            sure = gradient.abs() > 1e-4  # of smaller ones bfloat16 may change the sign
            assert moved.abs().max() <= 1e-3 / 200 * 1.01  # the first step of the warm-up
            agreed += int((moved.sign() == -gradient.sign())[sure].sum())
            total += int(sure.sum())
    assert total > 1000 and agreed / total > 0.97
    assert not network.training and not any(each.requires_grad for each in network.parameters())


def test_train_prior_makes_a_pipeline_that_distill_takes(source, quick, tmp_path):
    steps = {"autoencoder_steps": 2, "denoiser_steps": 2, "progress": False}
    prior = dap.train_prior(source, out=tmp_path / "prior", **steps)
    assert prior.labels == {"Dress": 0, "Bag": 1} and prior.latent_shape == (8, 8, 8)
    assert prior.image_shape == (1, 32, 32) and prior.recommended["guidance_scale"] == 1.5
    assert isinstance(DiTPipeline.from_pretrained(tmp_path / "prior"), DiTPipeline)
    names = {path.name for path in (tmp_path / "prior").iterdir()}
    assert {"README.md", "samples.png", "training.json", "dap_prior.json", "model_index.json"} < names
    assert ".training" not in names
    card = (tmp_path / "prior" / "README.md").read_text()
    assert "On 76 images" in card and "On 4 images that were not trained on" in card and "| Bag | " in card
    made = dap.distill(source, prior=tmp_path / "prior", method="dap_set", ipc=2, num_inference_steps=3,
                       out=tmp_path / "run", progress=False)  # fmt: skip
    assert made.to_torch()[0].shape == (4, 1, 32, 32)
    before = (tmp_path / "prior" / "README.md").stat().st_mtime_ns
    again = dap.train_prior(source, out=tmp_path / "prior", **steps)
    assert again.describe()["sha256"] == prior.describe()["sha256"]
    assert (tmp_path / "prior" / "README.md").stat().st_mtime_ns == before
    with pytest.raises(RunMismatchError, match="holds a run with other options"):
        dap.train_prior(source, out=tmp_path / "prior", **steps | {"denoiser_steps": 3})


@pytest.mark.parametrize("moment", ["autoencoder", "denoiser", "moving"])
def test_training_that_was_killed_ends_with_the_same_weights(moment, source, quick, tmp_path, monkeypatch):
    from dap.nets import optimisation

    steps = {"autoencoder_steps": 3, "denoiser_steps": 3, "progress": False}
    whole = dap.train_prior(source, out=tmp_path / "whole", **steps)
    monkeypatch.setattr(optimisation, "SAVE_SECONDS", -1.0)
    draw, calls = rng.generator, 0

    def killed(*parts):
        nonlocal calls
        calls += parts[:2] == (0, moment)
        if calls == 3:
            raise KeyboardInterrupt
        return draw(*parts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if moment == "moving":
            replace, moved = os.replace, []

            def third(*paths):
                if str(paths[1]).startswith(str(tmp_path / "cut" / "")) and ".training" not in str(paths[1]):
                    moved.append(paths)
                    if len(moved) == 3:
                        raise KeyboardInterrupt
                replace(*paths)

            patch.setattr(os, "replace", third)
        else:
            patch.setattr(rng, "generator", killed)
        dap.train_prior(source, out=tmp_path / "cut", **steps)
    assert not (tmp_path / "cut" / "training.json").exists()
    cut = dap.train_prior(source, out=tmp_path / "cut", **steps)
    assert cut.describe()["sha256"] == whole.describe()["sha256"]
    assert (tmp_path / "cut" / "samples.png").read_bytes() == (tmp_path / "whole" / "samples.png").read_bytes()


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("AVX512", torch.bfloat16), ("AVX2", torch.float32), ("DEFAULT", torch.float32), ("SVE256", torch.float32)],
)
def test_the_faster_data_type_is_taken(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert fast_dtype(torch.device("cpu")) == expected
    for emulated in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, own=emulated: not own)
        assert fast_dtype(torch.device("cuda")) == (torch.float32 if emulated else torch.bfloat16)


def test_a_training_is_continued_in_its_own_data_type(source, quick, tmp_path, monkeypatch):
    from dap.training import train

    steps = {"out": tmp_path / "prior", "autoencoder_steps": 1, "denoiser_steps": 1, "progress": False, "card": False}
    taken, real_train = [], train._train
    monkeypatch.setattr(train, "_train", lambda *args, **how: (taken.append(how["dtype"]), real_train(*args, **how)))
    monkeypatch.setattr(train, "fast_dtype", lambda device: torch.float32)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train, "train_denoiser", stopped)
        dap.train_prior(source, **steps)
    monkeypatch.setattr(train, "fast_dtype", lambda device: torch.bfloat16)
    dap.train_prior(source, **steps)
    assert taken == [torch.float32, torch.float32]
    again = dap.train_prior(source, **steps)  # finished
    assert again.dtype == torch.float32 and len(taken) == 2
    with pytest.raises(RunMismatchError, match="dtype"):
        dap.train_prior(source, **steps | {"dtype": "bfloat16"})
    monkeypatch.setattr(train, "_train", lambda *_, **how: stopped(taken.append(how["dtype"])))  # slow where emulated
    with pytest.raises(KeyboardInterrupt):
        dap.train_prior(source, **steps | {"out": tmp_path / "other"})
    begun = (tmp_path / "other" / ".training" / "identity.json").read_text()
    assert taken[2] == torch.bfloat16 and "dtype" not in begun


def stopped(*_, **__):
    raise KeyboardInterrupt


def test_a_prior_is_usable_before_its_card_and_gets_it_later(source, quick, tmp_path, monkeypatch):
    from dap.evaluation import Small
    from dap.training import train

    def stop(*_, **__):
        raise KeyboardInterrupt

    steps = {"out": tmp_path / "prior", "autoencoder_steps": 2, "denoiser_steps": 2, "progress": False}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt) as stopped:
        patch.setattr(Small, "fit", stop)
        dap.train_prior(source, **steps)
    assert stopped.value.__notes__ == ["the prior is finished and can be used; the same command makes its card"]
    monkeypatch.setattr(train, "_train", stop)  # a finished prior is not trained again
    assert isinstance(dap.train_prior(source, **steps, card=False), DiTPrior)
    assert not (tmp_path / "prior" / "README.md").exists()
    dap.train_prior(source, **steps)
    card = (tmp_path / "prior" / "README.md").read_text()
    assert re.search(r"2 steps of 64 images, \d+ s; loss \d\.\d+", card)
    (tmp_path / "prior" / "losses.json").unlink()  # as in priors of older versions
    (tmp_path / "prior" / "README.md").unlink()
    dap.train_prior(source, **steps)
    assert not (tmp_path / "prior" / "README.md").exists()


def test_the_time_is_said_before_the_training(source, tmp_path, caplog, monkeypatch):
    from dap.training import estimate, train

    def stop(*_, **__):
        raise KeyboardInterrupt

    seconds = iter([0.5, 3.0])
    monkeypatch.setattr(estimate, "_seconds_of_step", lambda net, loss: next(seconds))
    monkeypatch.setattr(train, "train_autoencoder", stop)
    options = {"out": tmp_path / "prior", "autoencoder_steps": 100, "denoiser_steps": 200, "card": False}
    with caplog.at_level(logging.INFO, "dap"), pytest.raises(KeyboardInterrupt):
        dap.train_prior(source.select(range(10)), **options)  # too few images for a card
    assert "about 50 s for the autoencoder, 10 min for the denoiser; for the samples of a card 78 s" in caplog.text


def test_a_step_is_timed_without_its_warm_up():
    from dap.training.estimate import _seconds_of_step

    net = torch.nn.Linear(1, 1)
    waits = iter([0.2, 0.01, 0.01, 0.1])

    def loss(draw):
        time.sleep(next(waits))
        return net(torch.randn(1, 1, generator=draw)).square().sum()

    assert 0.01 <= _seconds_of_step(net, loss) < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 20}, "size: expected a multiple of 8 from 16 to 128, got 20"),
        ({"size": 256}, "size: expected a multiple of 8"),
        ({"denoiser_steps": 0}, "denoiser_steps: expected a whole number of at least 1, got 0"),
        ({"autoencoder_steps": 1.5}, "autoencoder_steps: expected a whole number"),
        ({"classes": ["Hat"]}, "unknown class 'Hat'"),
    ],
)
def test_bad_options_of_a_training(options, message, source, tmp_path):
    with pytest.raises(OptionError, match=message):
        dap.train_prior(source, out=tmp_path / "prior", **options)
    assert not (tmp_path / "prior").exists()


def test_folders_of_something_else_are_left_alone(source, tmp_path):
    with pytest.raises(OptionError, match="expected a class of at least 20 images"):
        dap.train_prior(source.select(range(10)), out=tmp_path / "prior")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(RunMismatchError, match="expected an empty or new folder"):
        dap.train_prior(source, out=tmp_path / "mine")
    (tmp_path / "mine" / "training.json").write_text("{")
    with pytest.raises(FormatError, match=r"training\.json: expected JSON"):
        dap.train_prior(source, out=tmp_path / "mine")


# --- teaching a class -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(make_pipeline, tmp_path):
    """A prior that knows dresses alone."""
    make_pipeline(names=("Dress",)).save_pretrained(tmp_path / "prior")
    return tmp_path / "prior"


def test_adapt_prior_teaches_the_unknown_class(folder, source, tmp_path):
    prior = dap.adapt_prior(source, prior=folder, out=tmp_path / "adapted", steps=3, rank=0, progress=False)
    base = load_prior(folder)
    assert prior.labels == {"Dress": 0, "Bag": 1001} and prior.name == str(tmp_path / "adapted")
    made = dap.distill(source, prior=tmp_path / "adapted", method="dap_set", ipc=1, num_inference_steps=3,
                       out=tmp_path / "run", progress=False)  # fmt: skip
    assert [entry["prior_label"] for entry in made.manifest["class_map"]] == [0, 1001]
    x, dress = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)), torch.tensor([0])
    ours, theirs = (each.denoise(x, torch.tensor(400), dress).eps for each in (prior, base))
    assert torch.equal(ours, theirs)  # what it knew before is untouched
    record = json.loads((tmp_path / "adapted" / "dap_adapter.json").read_text())
    assert record["classes"] == ["Bag"] and record["prior"] == str(folder)
    with pytest.raises(OptionError, match=r"knows all classes of .*classes="):
        dap.adapt_prior(source.subset(["Dress"]), prior=folder, out=tmp_path / "known")


def test_an_adapted_prior_can_be_adapted_again(folder, source, tmp_path):
    first = dap.adapt_prior(source, prior=folder, out=tmp_path / "first", steps=1, rank=1, progress=False)
    more = open_source("fashion-mini", classes=["Coat"])
    second = dap.adapt_prior(
        more.select(range(20)), prior=tmp_path / "first", out=tmp_path / "second", steps=1, rank=1, progress=False
    )
    assert second.labels == {"Dress": 0, "Bag": 1001, "Coat": 1002}
    assert torch.equal(second.condition(torch.tensor([1001])), first.condition(torch.tensor([1001])))
    assert load_prior(tmp_path / "second").describe()["sha256"] == second.describe()["sha256"]
    half = load_prior(tmp_path / "second", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.labels == second.labels


def test_the_first_step_goes_down_the_objective(folder, source, tmp_path):
    """From the null rows, by Adam, against the gradient of the objective in float64."""
    prior = dap.adapt_prior(source, prior=folder, out=tmp_path / "adapted", steps=1, seed=3, rank=0, progress=False)
    base = load_prior(folder)
    bags = source.subset(["Bag"])
    latents = encode_images(base, torch.from_numpy(bags.images(range(40), size=32, channels=1)))
    start = base.condition(torch.tensor([1000]))[0]
    draw = rng.generator(3, "adapt", 0)
    chosen = torch.randint(40, (64,), generator=draw)
    noise = torch.randn((64, 4, 8, 8), generator=draw).double()
    t = torch.randint(1000, (64,), generator=draw)
    exact, row = oracles.double(base.denoiser), start.double().requires_grad_()
    for place, block in enumerate(exact.transformer_blocks):
        block.norm1.emb.class_embedder.register_forward_hook(lambda *_, place=place: row[place].expand(64, -1))
    cumulative = base.scheduler("ddpm", 1).alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    noised = cumulative.sqrt() * latents[chosen].double() + (1 - cumulative).sqrt() * noise
    loss = (exact(noised, timestep=t, class_labels=torch.zeros(64, dtype=torch.int64)).sample - noise).square().mean()
    (gradient,) = torch.autograd.grad(loss, row)
    found = prior.condition(torch.tensor([1001]))[0].double() - start.double()
    rate = 2e-2 / 20  # warm-up
    expected = -rate * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=rate * 0.02)


@pytest.mark.parametrize("rank", [0, 2])
def test_adapting_lowers_the_objective_and_resumes(rank, folder, source, tmp_path, monkeypatch):
    from dap.nets import optimisation

    settings = {"prior": folder, "steps": 30, "rank": rank, "progress": False}
    whole = dap.adapt_prior(source, out=tmp_path / "whole", **settings)
    base = load_prior(folder)
    bags = source.subset(["Bag"])
    latents = encode_images(base, torch.from_numpy(bags.images(range(40), size=32, channels=1)))
    draw = torch.Generator().manual_seed(9)
    noise, t = torch.randn(latents.shape, generator=draw), torch.randint(1000, (40,), generator=draw)
    with torch.no_grad():
        before = denoising_loss(base, latents, noise, t, torch.full((40,), null_label(""))).mean()
        after = denoising_loss(whole, latents, noise, t, torch.full((40,), 1001)).mean()
    assert float(after) < 0.995 * float(before)
    monkeypatch.setattr(optimisation, "SAVE_SECONDS", -1.0)
    draw_noise, calls = dap.training.adapt.draw_noised, 0

    def killed(*arguments):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return draw_noise(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dap.training.adapt, "draw_noised", killed)
        dap.adapt_prior(source, out=tmp_path / "cut", **settings)
    dap.adapt_prior(source, out=tmp_path / "cut", **settings)
    for name in ("adapter.safetensors", "dap_adapter.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    written = load_file(tmp_path / "whole" / "adapter.safetensors")
    assert all(value.abs().max() > 0 for value in written.values())  # B, which begins at zero, has moved
    assert sum(name.startswith("lora") for name in written) == (2 * 18 if rank else 0)
    assert not any("lora" in name for name, _ in whole.denoiser.named_parameters())
    assert not any(each.requires_grad for each in whole.denoiser.parameters())


def test_what_was_known_is_kept(folder, source, tmp_path, monkeypatch):
    """How far low-rank changes move the estimate of a known class on the prior's own samples; the loss holds them."""
    from dap.training import adapt

    base, moved = load_prior(folder), {}
    samples = adapt._samples(base, torch.tensor([0]), seed=0)[:40]
    assert samples.shape == (40, 4, 8, 8) and not torch.equal(samples[0], samples[1])
    draw = torch.Generator().manual_seed(8)
    noise, t, dress = torch.randn(samples.shape, generator=draw), torch.randint(1000, (40,), generator=draw), [0] * 40
    for weight in (0.0, 1e4):
        monkeypatch.setattr(adapt, "SAMPLE_WEIGHT", weight)
        prior = dap.adapt_prior(source, prior=folder, out=tmp_path / str(weight), steps=40, rank=2, progress=False)
        x = noised_latents(base, samples, noise, t)
        ours, theirs = (each.denoise(x, t, torch.tensor(dress)).eps for each in (prior, base))
        moved[weight] = float((ours - theirs).square().mean())
    assert 0 < moved[1e4] < 0.3 * moved[0.0]


def test_without_low_rank_changes_the_network_is_what_it_was(make_pipeline):
    prior, x = DiTPrior(make_pipeline()), torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    t, labels = torch.tensor(300), torch.tensor([1])
    plain = prior.denoise(x, t, labels).eps
    parameters = add_low_rank(prior.denoiser, 2, seed=1)
    for each in parameters.values():
        each.data.fill_(0.1)
    changed = prior.denoise(x, t, labels).eps
    with without_low_rank(prior.denoiser):
        assert torch.equal(prior.denoise(x, t, labels).eps, plain)
    assert torch.equal(prior.denoise(x, t, labels).eps, changed) and not torch.allclose(changed, plain)
    assert all(each.requires_grad for each in parameters.values())


def test_low_rank_changes_are_what_they_say(make_pipeline):
    """W + B A in float64, and nothing before B has moved."""
    pipeline = make_pipeline()
    prior, x = DiTPrior(pipeline), torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    t, labels = torch.tensor(300), torch.tensor([1, 2])
    plain = prior.denoise(x, t, labels).eps
    before = torch.random.get_rng_state()
    parameters = add_low_rank(prior.denoiser, 2, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.testing.assert_close(prior.denoise(x, t, labels).eps, plain)
    draw = torch.Generator().manual_seed(2)
    for name, each in parameters.items():
        if "lora_B" in name:
            each.data.copy_(0.1 * torch.randn(each.shape, generator=draw))
    exact = oracles.double(make_pipeline().transformer).eval()  # in training it drops labels at random
    changed = 0
    for name, module in exact.named_modules():
        keys = [f"{name}.lora_{side}.default.weight" for side in "AB"]
        if keys[0] in parameters:
            a, b = (parameters[key].detach().double() for key in keys)
            module.weight.data += b @ a
            changed += 1
    assert changed == 3 * 6  # four of attention and two of the feed-forward layers in each block
    merge_low_rank(prior.denoiser)
    with torch.no_grad():
        expected = exact(x.double(), timestep=t.expand(2), class_labels=labels).sample
    torch.testing.assert_close(prior.denoise(x, t, labels).eps.double(), expected, rtol=1e-3, atol=1e-4)


def test_class_conditional_unets_are_taught_from_the_mean(source, tmp_path, monkeypatch):
    pipeline = tiny.pixels(classes=3)
    pipeline.save_pretrained(tmp_path / "unet")
    prior = dap.adapt_prior(source, prior=tmp_path / "unet", out=tmp_path / "adapted", steps=1, rank=0, progress=False)
    assert prior.labels_of([]) == {"0": 0, "1": 1, "2": 2, "Dress": 3, "Bag": 4}
    mean = UNetPrior(pipeline).condition(torch.arange(3)).mean(0)
    moved = prior.condition(torch.tensor([3, 4])) - mean
    assert 0 < float(moved.abs().max()) <= 1.01e-3


def test_adapters_that_cannot_be_made_or_read(folder, source, tmp_path, make_pipeline, monkeypatch):
    tiny.stable_diffusion().save_pretrained(tmp_path / "text")
    with pytest.raises(OptionError, match=r"expected a prior with class embeddings; .* method 'd3m'"):
        dap.adapt_prior(source, prior=tmp_path / "text", out=tmp_path / "a")
    (tmp_path / "of text").mkdir()
    write_adapter(tmp_path / "of text", str(tmp_path / "text"), "0" * 64, {}, {}, 0)
    with pytest.raises(OptionError, match="has no class embeddings, which an adapter adds to"):
        load_prior(tmp_path / "of text")
    with pytest.raises(OptionError, match="expected a name, folder or hub id"):
        dap.adapt_prior(source, prior=make_pipeline(), out=tmp_path / "a")
    with pytest.raises(OptionError, match="rank: expected a whole number of at least 0, got -1"):
        dap.adapt_prior(source, prior=folder, out=tmp_path / "a", rank=-1)
    with monkeypatch.context() as patch, pytest.raises(OptionError, match=r"pip install 'dap-distill\[adapt\]'"):
        patch.setattr("importlib.util.find_spec", lambda name: None)
        dap.adapt_prior(source, prior=folder, out=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    dap.adapt_prior(source, prior=folder, out=tmp_path / "a", steps=1, progress=False)
    make_pipeline(names=("Dress",), seed=5).save_pretrained(folder)
    with pytest.raises(OptionError, match="are not those that were adapted"):
        load_prior(tmp_path / "a")
    (tmp_path / "a" / "adapter.safetensors").write_bytes(b"no")
    with pytest.raises(FormatError, match=r"expected dap_adapter\.json and adapter\.safetensors"):
        load_prior(tmp_path / "a")


def test_the_commands(source, folder, quick, command_line, tmp_path):
    images = tmp_path / "images"
    from PIL import Image

    for index in range(len(source)):
        place = images / source.class_names[source.labels[index]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.images([index], size=32, channels=1)[0, 0]).save(place / f"{index}.png")
    code, out, error = command_line(
        "prior", "train", images, "--out", tmp_path / "own", "--autoencoder-steps", 1, "--denoiser-steps", 1
    )
    assert code == 0 and "own/README.md says how good it is" in out, error
    code, out, error = command_line(
        "prior", "adapt", images, "--prior", folder, "--out", tmp_path / "taught", "--steps", 1
    )
    assert code == 0 and f"--prior {tmp_path / 'taught'}" in out, error
    code, out, error = command_line("prior", "adapt", images, "--prior", folder, "--out", images)
    assert code == 2 and "expected an empty or new folder" in error
    assert issubclass(RunMismatchError, DapError)
