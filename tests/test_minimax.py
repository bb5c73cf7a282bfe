"""minimax: its losses, a training of two steps and a resumed one against float64, runs, adapters and refusals."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil

import pytest
import tiny
import torch
from conftest import build_pipeline, grey_tree
from diffusers import DDPMScheduler
from safetensors.torch import load
from test_diff_fit import released_forward, tied

import dap
from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import DivergedError, OptionError, SourceError, StoppedError
from dap.features import real_latents
from dap.methods import Minimax, get_method
from dap.methods.base import Context, Slot, Unit
from dap.methods.common import fine_tuning
from dap.methods.common.memories import Memories
from dap.priors import load_prior
from dap.priors.diff_fit import DiffFit
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings
from dap.sampling.learned_variance import variance_bound

SETTINGS = SamplingSettings(num_inference_steps=4, guidance_scale=2.0)
SMALL = Minimax(steps=3, batch=4, average=0.5)


@pytest.fixture
def tree(tmp_path):
    return grey_tree(tmp_path / "tree", 6, ("Bag", "Dress"))


def context_of(pipeline, tree, **options):
    source, prior = open_source(tree), DiTPrior(pipeline)
    return Context(
        source=source, classes=build_class_map(source, prior.labels), prior=prior, settings=SETTINGS, seed=3, ipc=2,
        size=32, channels=1, **options,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 64])
def test_memories_are_those_of_the_released_code(size):
    draw = rng.generator(0)
    memories, real, made = Memories(0.2, 0.8, size), {}, {}
    for _ in range(5):
        classes = torch.randint(3, (6,), generator=draw)
        latents, estimates = torch.randn((2, 6, 2, 2, 2), generator=draw).unbind(0)
        estimates.requires_grad_()
        found = memories(estimates, latents, classes)
        double = estimates.detach().double().requires_grad_()
        expected, present = torch.zeros((), dtype=torch.float64), sorted(set(classes.tolist()))
        for number in present:
            rows = [double[i].flatten() for i in range(6) if classes[i] == number]
            if number in made:
                pairs = [[cosine(x, r) for x in rows for r in memory[number]] for memory in (real, made)]
                expected = expected + (0.2 * (1 - min(pairs[0])) + 0.8 * max(pairs[1])) / len(present)
            own = [i for i in range(6) if classes[i] == number]
            real[number] = (real.get(number, []) + [latents[i].double().flatten() for i in own])[-size:]
            made[number] = (made.get(number, []) + [double[i].detach().flatten() for i in own])[-size:]
        assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
        if expected.requires_grad:
            ours, theirs = torch.autograd.grad(found, estimates)[0], torch.autograd.grad(expected, double)[0]
            torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-6)
    again = Memories(0.2, 0.8, size)
    again.restore(memories.state())
    batch = (torch.randn((3, 8), generator=draw), torch.randn((3, 8), generator=draw), torch.tensor([0, 1, 2]))
    assert torch.equal(again(*batch), memories(*batch))


def cosine(x, y):
    return (x * y).sum() / (x.square().sum().sqrt() * y.square().sum().sqrt())


def bound_of(cumulative, t, x0, xt, eps, nu):
    """Numbers of one entry, written from the paper: Σ from ν, the two Gaussians, and the bin at t = 0."""
    now, before = cumulative[t], cumulative[t - 1] if t else 1.0
    beta = 1 - now / before
    smallest = beta * (1 - before) / (1 - now) if t else (1 - cumulative[1] / now) * (1 - now) / (1 - cumulative[1])
    variance = math.exp((nu + 1) / 2 * math.log(beta) + (1 - nu) / 2 * math.log(smallest))

    def mean(x):
        return (before**0.5 * beta * x + (1 - beta) ** 0.5 * (1 - before) * xt) / (1 - now)

    made = mean((xt - (1 - now) ** 0.5 * eps) / now**0.5)
    if t:
        gap = (mean(x0) - made) ** 2
        return (math.log(variance / smallest) - 1 + (smallest + gap) / variance) / 2 / math.log(2)

    def phi(x):
        return (1 + math.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2

    below, above = (phi((x0 - made + side) / variance**0.5) for side in (-1 / 255, 1 / 255))
    inside = above - below if abs(x0) <= 0.999 else above if x0 < 0 else 1 - below
    return -math.log(max(inside, 1e-12)) / math.log(2)


@pytest.mark.parametrize("t", [0, 1, 2, 500, 999])
def test_the_bound_of_the_variance_is_that_of_the_paper(t):
    schedule, draw = DDPMScheduler(), rng.generator(1)
    cumulative = schedule.alphas_cumprod.double()
    x0, noise, eps, nu = torch.randn((4, 1, 1, 2, 3), generator=draw).unbind(0)
    x0, nu = x0.clamp(-1, 1), nu.tanh().requires_grad_()
    eps = (noise + 0.01 * eps).requires_grad_()
    xt = float(cumulative[t]) ** 0.5 * x0 + float(1 - cumulative[t]) ** 0.5 * noise
    found = variance_bound(schedule.alphas_cumprod, x0, xt, torch.tensor([t]), eps, nu)
    entries = zip(*(part.detach().double().flatten().tolist() for part in (x0, xt, eps, nu)), strict=True)
    expected = [bound_of(cumulative.tolist(), t, *entry) for entry in entries]
    assert float(found.detach()) == pytest.approx(sum(expected) / 6, rel=2e-3, abs=1e-8)
    gradients = torch.autograd.grad(found.sum(), (eps, nu), allow_unused=True)
    assert gradients[0] is None and gradients[1].abs().max() > 0
    step = 1e-4
    moved = torch.full_like(nu, step)
    with torch.no_grad():
        given = (schedule.alphas_cumprod, x0, xt, torch.tensor([t]), eps)
        both = [variance_bound(*given, nu + sign * moved) for sign in (1, -1)]
    assert float(gradients[1].sum()) == pytest.approx(float(both[0] - both[1]) / (2 * step), rel=0.05, abs=0.01)


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("one", [False, True])
def test_two_steps_are_those_of_the_released_code(one, variance, tree):
    """AdamW in float64 on the released network and loss; the second step has the memories' terms."""
    pipeline = build_pipeline(out_channels=8 if variance else 4)
    pipeline = tied(pipeline) if one else pipeline
    context = context_of(pipeline, tree)
    method = Minimax(steps=2, batch=6, average=0.25, representativeness=2.0, diversity=8.0, learning_rate=0.01)
    (found,) = method.prepare(context).values

    network = copy.deepcopy(pipeline.transformer).double()
    names = list(DiffFit(pipeline.transformer).parameters)
    scales = {name: torch.ones_like(found[name]).double().requires_grad_() for name in names if "scale" in name}
    trained = scales | {name: network.get_parameter(name).requires_grad_() for name in names if "scale" not in name}
    if one:
        for name in [name for name in names if ".norm1.emb." in name]:
            path, _, attribute = name.rpartition(".")
            for number in (1, 2):
                place = path.replace("blocks.0.", f"blocks.{number}.")
                setattr(network.get_submodule(place), attribute, network.get_parameter(name))
    start = {name: value.detach().clone() for name, value in trained.items()}
    adam = torch.optim.AdamW(trained.values(), lr=0.01, weight_decay=0)
    real = real_latents(context.source, context.classes, context.prior)
    latents = torch.cat([real.of_class(entry.name) for entry in context.classes]).double()
    labels = torch.tensor([entry.label for entry in context.classes]).repeat_interleave(6)
    classes, cumulative = torch.arange(2).repeat_interleave(6), context.prior.noise_schedule().alphas_cumprod.double()
    memories, averages, seed = Memories(2.0, 8.0, 64), start, (3, "minimax", "Bag")
    order = torch.randperm(12, generator=rng.generator(*seed, "epoch", 0))
    for step in range(2):
        chosen, draw = order[6 * step : 6 * step + 6], rng.generator(*seed, step)
        noise = torch.randn((6, 4, 8, 8), generator=draw).double()
        times = torch.randint(1000, (6,), generator=draw)
        given = torch.where(torch.rand(6, generator=draw) < 0.1, 1000, labels[chosen])
        signal = cumulative[times].view(-1, 1, 1, 1)
        noised = signal.sqrt() * latents[chosen] + (1 - signal).sqrt() * noise
        output = released_forward(network, scales, noised, times, given)
        eps, estimates = output[:, :4], (noised - (1 - signal).sqrt() * output[:, :4]) / signal.sqrt()
        loss = (noise - eps).square().mean() + memories(estimates, latents[chosen], classes[chosen])
        if variance:
            loss = loss + variance_bound(cumulative, latents[chosen], noised, times, eps, output[:, 4:]).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        averages = {name: 0.25 * averages[name] + 0.75 * value.detach() for name, value in trained.items()}
    errors = torch.cat([(found[name].double() - averages[name]).abs().flatten() for name in names])
    changes = torch.cat([(found[name].double() - start[name]).abs().flatten() for name in names])
    assert changes.max() > 0.01
    # Adam's step of an entry whose gradient is about zero has any sign: rows of labels that did not occur have none
    assert (errors < 1e-4).double().mean() > 0.995 and errors.mean() < 1e-5


def interrupted(monkeypatch, after):
    """Write the state at each step, and stop the training after some."""
    real_loss, count = fine_tuning._loss, [0]

    def stopping(*args):
        count[0] += 1
        if count[0] > after:
            raise KeyboardInterrupt
        return real_loss(*args)

    monkeypatch.setattr(fine_tuning, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(fine_tuning, "_loss", stopping)


@pytest.mark.parametrize("after", [1, 4])
def test_a_stopped_training_is_continued_to_the_same_bytes(after, tiny_pipeline, tree, tmp_path, monkeypatch):
    context, method = context_of(tiny_pipeline, tree), Minimax(steps=5, batch=4, average=0.5, memory=3)
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "whole"))
    expected = method.prepare(context)
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "parts"))
    with monkeypatch.context() as patch:
        interrupted(patch, after)
        with pytest.raises(KeyboardInterrupt):
            method.prepare(context)
    steps = []
    with monkeypatch.context() as patch:
        counted = fine_tuning._loss
        patch.setattr(fine_tuning, "_loss", lambda *args: (steps.append(1), counted(*args))[1])
        found = method.prepare(context)
        assert len(steps) == 5 - after
        patch.setattr("dap.methods.minimax.real_latents", lambda *_, **__: no_images(real_latents, *_, **__))
        again = method.prepare(context)  # finished: no latent is read
    assert expected.files() == found.files() == again.files()
    (result,) = (tmp_path / "parts" / "adapters").iterdir()  # nothing of the training is left beside it
    flip(result)
    assert all(torch.equal(value, found.values[0][name]) for name, value in method.prepare(context).values[0].items())


def flip(path):
    """Change a bit in every hundredth byte of the second half of a file."""
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content), 100):
        content[place] ^= 64
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["a damaged state", "a deleted cache"])
def test_what_the_cache_loses_is_made_again(what, tiny_pipeline, tree, tmp_path, monkeypatch):
    context, method = context_of(tiny_pipeline, tree), Minimax(steps=5, batch=4, average=0.5)
    expected = method.prepare(context).values[0]
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        interrupted(patch, 3)
        if what == "a damaged state":
            with pytest.raises(KeyboardInterrupt):
                method.prepare(context)
            flip(next((tmp_path / "cache" / "adapters").glob("*.unfinished/training.pt")))
        else:
            patch.undo()
            patch.setattr(fine_tuning, "SAVE_SECONDS", 0.0)
            once = fine_tuning._loss

            def deleting(*args):
                shutil.rmtree(tmp_path / "cache", ignore_errors=True)
                return once(*args)

            patch.setattr(fine_tuning, "_loss", deleting)
            found = method.prepare(context).values[0]
    if what == "a damaged state":
        found = method.prepare(context).values[0]
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_run_that_is_to_end_keeps_its_last_step(tiny_pipeline, tree, tmp_path, monkeypatch):
    context, method = context_of(tiny_pipeline, tree), Minimax(steps=5, batch=4, average=0.5)
    expected, steps = method.prepare(context).values[0], []
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    real_loss = fine_tuning._loss
    monkeypatch.setattr(fine_tuning, "_loss", lambda *args: (steps.append(1), real_loss(*args))[1])
    with monkeypatch.context() as patch:

        def stop(path):
            if len(steps) == 2:
                raise StoppedError("stopped")

        patch.setattr(fine_tuning, "check_stop", stop)
        with pytest.raises(StoppedError):
            method.prepare(context)
    found = method.prepare(context).values[0]
    assert len(steps) == 5 and all(torch.equal(value, expected[name]) for name, value in found.items())


def no_images(make, *args, **kwargs):
    def refuse(name):
        raise AssertionError(f"latents of {name} were read")

    return dataclasses.replace(make(*args, **kwargs), of_class=refuse, prepare=lambda: None)


def test_runs_are_the_adapters_own_samples(tiny_folder, tree, tmp_path):
    settings = {"ipc": 2, "num_inference_steps": 4, "progress": False}
    made = dap.distill(tree, prior=tiny_folder, method=SMALL, out=tmp_path / "run", **settings)
    plain = dap.distill(tree, prior=tiny_folder, method="dit", out=tmp_path / "plain", **settings)
    assert not torch.equal(made.to_torch()[0], plain.to_torch()[0])
    adapted = tmp_path / "run" / "adapter"
    again = dap.distill(tree, prior=adapted, method="dit", out=tmp_path / "again", **settings)
    assert torch.equal(made.to_torch()[0], again.to_torch()[0])
    guided = dap.distill(tree, prior=adapted, method="dap_set", out=tmp_path / "guided", **settings)
    assert guided.manifest["prior"]["sha256"] != plain.manifest["prior"]["sha256"]
    (tmp_path / "run" / made.files[1]).unlink()
    (adapted / "adapter.safetensors").unlink()
    repaired = dap.distill(tree, prior=tiny_folder, method=SMALL, out=tmp_path / "run", **settings)
    assert torch.equal(repaired.to_torch()[0], made.to_torch()[0]) and (adapted / "adapter.safetensors").exists()
    assert [of["classes"] for of in made.manifest["record"]["adapters"]] == [["Bag", "Dress"]]
    parts = dap.distill(tree, prior=tiny_folder, method=SMALL, out=tmp_path / "parts", batch_size=1, **settings)
    assert (parts.to_torch()[0].int() - made.to_torch()[0].int()).abs().max() <= 1


def test_each_part_of_the_classes_has_a_network(tiny_pipeline, tree, tmp_path):
    settings = {"ipc": 2, "num_inference_steps": 4, "progress": False, "prior": DiTPrior(tiny_pipeline)}
    method = dataclasses.replace(SMALL, together=1)
    made = dap.distill(tree, method=method, out=tmp_path / "run", **settings)
    for number, name in enumerate(("Bag", "Dress")):
        assert (tmp_path / "run" / "adapters" / str(number) / "dap_adapter.json").is_file()
        alone = dap.distill(tree, method=SMALL, classes=[name], out=tmp_path / name, **settings)
        assert torch.equal(alone.to_torch()[0], made.to_torch()[0][2 * number : 2 * number + 2])
    values = [
        load((tmp_path / "run" / "adapters" / str(number) / "adapter.safetensors").read_bytes()) for number in (0, 1)
    ]
    assert any(not torch.equal(value, values[1][name]) for name, value in values[0].items())


@pytest.mark.parametrize("kind", ["bfloat16", "variance", "flow"])
def test_other_networks_train(kind, tree, tmp_path):
    from diffusers import FlowMatchEulerDiscreteScheduler

    if kind == "flow":
        prior = DiTPrior(build_pipeline(scheduler=FlowMatchEulerDiscreteScheduler()))
    else:
        pipeline = build_pipeline(out_channels=8 if kind == "variance" else 4)
        pipeline.save_pretrained(tmp_path / "prior")
        options = {"learned_variance": True} if kind == "variance" else {}
        prior = load_prior(tmp_path / "prior", dtype="bfloat16" if kind == "bfloat16" else None, options=options)
    made = dap.distill(
        tree, prior=prior, method=SMALL, ipc=1, num_inference_steps=3, progress=False, out=tmp_path / "run"
    )
    values = load((tmp_path / "run" / "adapter" / "adapter.safetensors").read_bytes())
    assert len(made.to_torch()[0]) == 2
    assert all(torch.isfinite(value).all() and value.dtype == torch.float32 for value in values.values())
    assert prior.denoiser.dtype == (torch.bfloat16 if kind == "bfloat16" else torch.float32)
    assert not any(parameter.requires_grad for parameter in prior.denoiser.parameters())


def test_constants_are_the_published_ones():
    """train_dit.py, its options and train.sh of the released code."""
    paper = get_method("minimax:paper")
    assert (paper.representativeness, paper.diversity, paper.memory) == (0.002, 0.008, 64)
    assert (paper.epochs, paper.steps, paper.batch, paper.learning_rate) == (8, None, 8, 1e-3)
    assert (paper.average, paper.together) == (0.9999, 20) and paper == get_method("minimax")


def test_what_it_refuses(tiny_pipeline, tree, tmp_path):
    settings = {"ipc": 1, "num_inference_steps": 3, "progress": False, "out": tmp_path / "run"}
    with pytest.raises(OptionError, match=r"fine-tunes a DiT, which .* is not: choose a DiTPipeline"):
        dap.distill(tree, prior=tiny.pixels(classes=2), method=SMALL, label_map={"Bag": 0, "Dress": 1}, **settings)
    tiny_pipeline.save_pretrained(tmp_path / "prior")
    with pytest.raises(OptionError, match=r"does not train in torch.float16: choose dtype='bfloat16'"):
        dap.distill(tree, prior=tmp_path / "prior", dtype="float16", method=SMALL, **settings)
    with pytest.raises(DivergedError, match=r"fine-tuning: the loss of step \d is not finite; lower learning_rate"):
        dap.distill(tree, prior=DiTPrior(diverging()), method=dataclasses.replace(SMALL, learning_rate=1.0), **settings)
    assert not list((tmp_path / "run").glob("**/*.png"))
    for option, value in (
        ("average", 1.0), ("memory", 0), ("steps", 0), ("learning_rate", 0.0), ("learning_rate", 2.0),
        ("diversity", -1.0), ("together", 0),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=option):
            get_method("minimax", {option: value})


def diverging():
    """A network whose last layer overflows."""
    pipeline = build_pipeline()
    pipeline.transformer.proj_out_2.weight.data.mul_(1e25)
    return pipeline


def test_values_that_are_not_finite_are_not_kept(tiny_pipeline, tree, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: self.param_groups[0]["params"][0].data.fill_(math.nan))
    with pytest.raises(DivergedError, match="after step 1 a value is not finite; lower learning_rate"):
        Minimax(steps=1, batch=4).prepare(context_of(tiny_pipeline, tree))


def test_adapters_name_their_prior_from_any_folder(tree, tmp_path, monkeypatch):
    build_pipeline().save_pretrained(tmp_path / "prior")
    settings = {"ipc": 1, "num_inference_steps": 3, "progress": False}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    made = dap.distill(tree, prior="prior", method=SMALL, out=tmp_path / "run", **settings)
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = dap.distill(tree, prior="../run/adapter", method="dit", out="again", **settings)
    assert torch.equal(made.to_torch()[0], again.to_torch()[0])
    shutil.rmtree(tmp_path / "prior")
    with pytest.raises(SourceError, match=r"adapter: the prior that it adapts cannot be loaded \(prior .*dap_adapter"):
        load_prior("../run/adapter")


def test_classes_cannot_be_added(tiny_pipeline, tree, tmp_path):
    settings = {"ipc": 1, "num_inference_steps": 3, "progress": False, "prior": DiTPrior(tiny_pipeline)}
    dap.distill(tree, method=SMALL, classes=["Bag"], out=tmp_path / "run", **settings)
    with pytest.raises(dap.errors.RunMismatchError, match="fine-tuned on several classes"):
        dap.distill(tree, method=SMALL, classes=["Bag", "Dress"], out=tmp_path / "run", **settings)


def test_a_unit_of_several_networks_keeps_its_order(tiny_pipeline, tree):
    context = context_of(tiny_pipeline, tree)
    method = dataclasses.replace(SMALL, together=1)
    tuned = method.prepare(context)
    slots = [Slot(1, 0), Slot(0, 0), Slot(1, 1)]
    together = method.make(context, Unit(0, tuple(slots)), tuned)
    for place, slot in enumerate(slots):
        torch.testing.assert_close(together[place : place + 1], method.make(context, Unit(0, (slot,)), tuned))
