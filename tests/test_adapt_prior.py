"""Classes that a prior is taught, by learned labels and by low-rank changes of its network."""

from __future__ import annotations

import json

import oracles
import pytest
import tiny
import torch
from safetensors.torch import load_file
from small_trainings import files_of, two_classes

import dap
from dap import rng
from dap.data.classmap import null_label
from dap.data.open import open_source
from dap.errors import FormatError, OptionError
from dap.features import encode_images
from dap.priors import load_prior
from dap.priors.adapter import add_low_rank, merge_low_rank, without_low_rank, write_adapter
from dap.priors.dit import DiTPrior
from dap.priors.unet import UNetPrior
from dap.sampling import denoising_loss, noised_latents

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def source():
    return two_classes()


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


def test_the_command(source, folder, command_line, tmp_path):
    images = files_of(source, tmp_path / "images")
    code, out, error = command_line(
        "prior", "adapt", images, "--prior", folder, "--out", tmp_path / "taught", "--steps", 1
    )
    assert code == 0 and f"--prior {tmp_path / 'taught'}" in out, error
    code, out, error = command_line(
        "prior", "adapt", images, "--prior", folder, "--classes", "Bag", "--out", tmp_path / "bag", "--steps", 1
    )
    assert code == 0 and f"--prior {tmp_path / 'bag'} --classes Bag --out distilled" in out, error
    code, out, error = command_line("prior", "adapt", images, "--prior", folder, "--out", images)
    assert code == 2 and "expected an empty or new folder" in error
