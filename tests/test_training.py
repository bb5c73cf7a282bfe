"""Priors that are trained here: small networks, few steps, real images."""

from __future__ import annotations

import logging
import os
import re
import time

import oracles
import pytest
import torch
from diffusers import DiTPipeline
from small_trainings import files_of, quick_cards, two_classes

import dap
from dap import rng
from dap.device import fast_dtype
from dap.errors import FormatError, OptionError, RunMismatchError
from dap.priors.dit import DiTPrior
from dap.training.autoencoder import build_autoencoder, standardise, to_float
from dap.training.dit import build_denoiser, build_schedule, train_denoiser

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def source():
    return two_classes()


@pytest.fixture
def quick(monkeypatch):
    """Cards that are quick, and batches that are small."""
    from dap.training import autoencoder, dit, estimate

    quick_cards(monkeypatch)
    monkeypatch.setattr(autoencoder, "BATCH", 8)
    for module in (dit, estimate):
        monkeypatch.setattr(module, "BATCH", 8)


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


def test_the_command(source, quick, command_line, tmp_path):
    images = files_of(source, tmp_path / "images")
    code, out, error = command_line(
        "prior", "train", images, "--out", tmp_path / "own", "--autoencoder-steps", 1, "--denoiser-steps", 1
    )
    assert code == 0 and "own/README.md says how good it is" in out, error
