"""ld3m: the residual chain, both losses and a whole update against float64; memory; what may not depend on what."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracles
import pytest
import tiny
import torch
from diffusers import DDIMScheduler
from torch import nn

import dap
from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import DivergedError, OptionError
from dap.methods import LD3M, Context, Slot, Unit, get_method
from dap.methods.common.matching_losses import distribution_loss, gradient_loss
from dap.methods.common.residual_chain import residual_chain
from dap.methods.common.siamese import siamese_augmentation
from dap.nets import create_net
from dap.priors.dit import DiTPrior
from dap.priors.unet import UNetPrior
from dap.sampling import SamplingSettings

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LABELS = torch.tensor([3, 0])
SMALL = LD3M(steps=2, chain=3, batch=4, width=8, learning_rate=0.5, condition_rate=0.25)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact_chain(transformer, z, noise, labels, rows, schedule, guidance):
    """x_0 at the end, float64, with class embeddings from ``rows`` (B, blocks, D); null is label 1000."""
    products = oracles.cumulative_products(schedule)
    embedders = [block.norm1.emb.class_embedder for block in transformer.transformer_blocks]

    def estimate(x, t):
        time = torch.full((len(x),), int(t))
        handles = [each.register_forward_hook(lambda *_, k=k: rows[:, k]) for k, each in enumerate(embedders)]
        conditional = transformer(x, timestep=time, class_labels=labels).sample
        for handle in handles:
            handle.remove()
        null = transformer(x, timestep=time, class_labels=torch.full_like(labels, 1000)).sample
        return null + guidance * (conditional - null)

    n = len(products)
    x = products[0][0] ** 0.5 * z + (1 - products[0][0]) ** 0.5 * noise
    for i, (t, (now, after)) in zip(reversed(range(n)), zip(schedule.timesteps, products, strict=True), strict=True):
        eps = estimate(x, t)
        x0 = (x - (1 - now) ** 0.5 * eps) / now**0.5
        r = i / (n - 1)
        x0 = (1 - r) * x0 + r * z
        x = after**0.5 * x0 + (1 - after) ** 0.5 * eps
    return x


def exact_distribution(net, real, made):
    """‖mean ψ − mean ψ‖², image by image."""
    hidden = [torch.stack([net.layers[:-1](each[None])[0] for each in own]).sum(0) / len(own) for own in (real, made)]
    return sum((a - b) ** 2 for a, b in zip(*hidden, strict=True))


@pytest.mark.parametrize("spacing", [None, "trailing"])
def test_the_chain_and_its_gradients(tiny_pipeline, spacing):
    prior = DiTPrior(tiny_pipeline)
    schedule = prior.scheduler("ddim", 4)
    if spacing:
        schedule = DDIMScheduler.from_config(schedule.config, timestep_spacing=spacing)
        schedule.set_timesteps(4)
        assert schedule.timesteps.tolist() == [999, 749, 499, 249]
    z, noise = drawn(2, 4, 8, 8), drawn(2, 4, 8, 8, seed=1)
    rows = prior.condition(LABELS)
    leaves = [each.clone().requires_grad_() for each in (z, rows)]
    settings = SamplingSettings(guidance_scale=3.0, timestep_spacing=spacing)
    ours = residual_chain(prior, leaves[0], noise, LABELS, leaves[1], steps=4, settings=settings)
    gradients = torch.autograd.grad(ours.square().sum(), leaves)
    exact = [each.double().requires_grad_() for each in (z, rows)]
    theirs = exact_chain(
        oracles.double(tiny_pipeline.transformer), exact[0], noise.double(), LABELS, exact[1], schedule, 3.0,
    )  # fmt: skip
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-4)
    for found, expected in zip(gradients, torch.autograd.grad(theirs.square().sum(), exact), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
        assert expected.abs().max() > 1e-2
    with torch.no_grad():
        plain = residual_chain(prior, z, noise, LABELS, rows, steps=4, settings=settings)
    torch.testing.assert_close(plain, ours.detach())


def test_a_learned_variance_is_left_out(tiny_learned_pipeline):
    z, noise, settings = drawn(2, 4, 8, 8), drawn(2, 4, 8, 8, seed=1), SamplingSettings(guidance_scale=3.0)
    with torch.no_grad():
        learned, plain = (
            residual_chain(
                DiTPrior(tiny_learned_pipeline, learned_variance=variance), z, noise, LABELS, None, steps=4,
                settings=settings,
            )
            for variance in (True, False)
        )  # fmt: skip
    assert torch.equal(learned, plain)


def test_memory_holds_one_call_whatever_the_chain(tiny_pipeline):
    """What autograd keeps of a longer chain grows by the chain's own states, not by the denoiser's activations."""
    prior, settings = DiTPrior(tiny_pipeline), SamplingSettings(guidance_scale=1.0)

    def kept(steps, checkpointed=True):
        sizes = {}
        z = drawn(2, 4, 8, 8).requires_grad_()

        def keep(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            alive.append(tensor)
            return tensor

        alive = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            if checkpointed:
                residual_chain(prior, z, drawn(2, 4, 8, 8), LABELS, None, steps=steps, settings=settings)
            else:
                prior.denoise(z, torch.tensor(3), LABELS, through=True)
        return sum(sizes.values())

    per_step, call = (kept(12) - kept(4)) / 8, kept(1, checkpointed=False)
    assert per_step < call / 4


@pytest.mark.parametrize("at_once", [None, 2])
def test_both_losses(monkeypatch, at_once):
    if at_once:  # real images in parts
        monkeypatch.setattr("dap.methods.common.matching_losses.images_at_once", lambda net, shape: at_once)
    net = create_net("convnet3", width=4, channels=1, classes=3, size=16, generator=torch.Generator().manual_seed(2))
    real, made = drawn(5, 1, 16, 16), drawn(3, 1, 16, 16, seed=1)
    exact = oracles.double(net)
    leaf, double = made.clone().requires_grad_(), made.double().requires_grad_()
    ours = distribution_loss(net, real, leaf)
    theirs = exact_distribution(exact, real.double(), double)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    found, expected = torch.autograd.grad(ours, leaf)[0], torch.autograd.grad(theirs, double)[0]
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)

    def slow(images, target):
        """Σ over rows of 1 − cos, from the gradients of the mean cross-entropy."""
        total = 0.0
        for own in (real.double(), images):
            losses = [-torch.log_softmax(exact(each[None])[0], 0)[target] for each in own]
            own_gradients = torch.autograd.grad(sum(losses) / len(own), list(exact.parameters()))
            if own is not images:
                wanted = own_gradients
        for a, b in zip(own_gradients, wanted, strict=True):
            if a.dim() > 1:
                for row, other in zip(a.flatten(1), b.flatten(1), strict=True):
                    total += 1 - ((row * other).sum() / (row.norm() * other.norm())).item()
        return total

    assert gradient_loss(net, real, made, target=1).item() == pytest.approx(slow(made.double(), 1), rel=1e-3)
    leaf = made.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(gradient_loss(net, real, leaf, target=1), leaf)
    step, direction = 1e-5, drawn(*made.shape, seed=4).double()
    slope = (slow(made.double() + step * direction, 1) - slow(made.double() - step * direction, 1)) / (2 * step)
    assert float((gradient.double() * direction).sum()) == pytest.approx(slope, rel=1e-2)


@pytest.fixture
def context(tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    source = open_source("fashion-mini", classes=["Dress", "Bag"])
    entries = build_class_map(source, prior.labels)
    settings = SamplingSettings(num_inference_steps=4, guidance_scale=2.0)
    return Context(source, entries, prior, settings, seed=5, ipc=2, size=32, channels=1)


RELEASED = {"noise": "fresh", "normalise": True, "augmentation": "dsa"}


@pytest.mark.parametrize("released", [False, True])
def test_one_update_by_hand(context, released):
    """z − lr ∇_z L and c − lr ∇_c L, then the chain again: all in float64 from what the seeds draw."""
    method = dataclasses.replace(SMALL, steps=1, momentum=0.0, **RELEASED if released else {})
    unit = Unit(0, (Slot(0, 0), Slot(0, 1)))
    real = method.prepare(context)
    ours = method.make(context, unit, real)
    prior, name = context.prior, context.classes[0].name
    started = method.record(context, real)["started"][name]
    order = list(real.ids[name])
    assert len(set(started)) == 2  # slots begin at different images
    z = real.of_class(name)[[order.index(each) for each in started]].double().requires_grad_()
    generators = context.generators(unit)
    draws = [torch.stack([torch.randn((4, 8, 8), generator=each) for each in generators]).double() for _ in range(2)]
    noise, last = draws if released else draws[:1] * 2
    labels = context.labels(unit)
    rows = prior.condition(labels).double().requires_grad_()
    transformer, vae = (oracles.double(each) for each in (prior.denoiser, prior.pipeline.vae))
    schedule = prior.scheduler("ddim", 3)
    end = exact_chain(transformer, z, noise, labels, rows, schedule, 2.0)
    images = vae.decode(end / vae.config.scaling_factor).sample
    net = create_net("convnet3", width=8, channels=1, classes=2, size=32, generator=rng.generator(5, "ld3m", "net", 0))
    own = context.source.of_class(0)
    chosen = own[torch.randperm(len(own), generator=rng.generator(5, "ld3m", name, 0))[:4].numpy()]
    pixels = torch.from_numpy(context.source.images(chosen, size=32, channels=1)).double() / 127.5 - 1
    draw = rng.generator(5, "ld3m", "augment", name, 0)
    down, right = torch.randint(-3, 4, (1, 2), generator=draw)[0].tolist()
    flip = bool(torch.rand(1, generator=draw) < 0.5)

    def alike(batch):
        if released:
            batch = ((batch / 2 + 0.5).clamp(0, 1) - 1.347 / 3) / (0.678 / 3)  # the means of ImageNet's three
            return siamese_augmentation(batch, rng.generator(5, "ld3m", "augment", name, 0))
        batch = batch.flip(3) if flip else batch
        padded = nn.functional.pad(batch, (3, 3, 3, 3), value=-1.0)
        return padded[:, :, 3 - down : 35 - down, 3 - right : 35 - right]

    loss = exact_distribution(oracles.double(net), alike(pixels), alike(images))
    to_z, to_rows = torch.autograd.grad(loss, [z, rows])
    assert to_z.abs().max() > 1e-4 and to_rows.abs().max() > 1e-5
    with torch.no_grad():
        expected = exact_chain(transformer, z - 0.5 * to_z, last, labels, rows - 0.25 * to_rows, schedule, 2.0)
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=2e-3)
    with torch.no_grad():
        unmoved = exact_chain(transformer, z, last, labels, rows, schedule, 2.0)
    assert (ours.double() - unmoved).abs().max() > 10 * (ours.double() - expected).abs().max()


@pytest.mark.parametrize("matching", ["distribution", "gradient"])
def test_the_loss_falls_and_classes_do_not_depend_on_each_other(matching, context):
    method = dataclasses.replace(SMALL, matching=matching, steps=8, learning_rate=0.2, condition_rate=0.0)
    real = method.prepare(context)
    both = Unit(0, (Slot(0, 0), Slot(0, 1), Slot(1, 0), Slot(1, 1)))
    alone = Unit(0, both.slots[:2])
    seen = []
    watched = dataclasses.replace(context, callback_on_step_end=lambda *call: seen.append(call[3]) or {})
    method.make(watched, both, real)
    assert len(seen) == method.steps_per_slot(context) == 8 and seen[0]["latents"].shape == (4, 4, 8, 8)
    short = dataclasses.replace(method, steps=4)  # other batch sizes round differently, and more steps amplify it
    torch.testing.assert_close(short.make(context, alone, real), short.make(context, both, real)[:2], rtol=0, atol=1e-3)
    prior = context.prior
    noise = torch.stack([torch.randn((4, 8, 8), generator=each) for each in context.generators(both)])

    def loss(z):
        labels = context.labels(both)
        settings = context.settings
        with torch.no_grad():
            ends = residual_chain(prior, z, noise, labels, prior.condition(labels), steps=3, settings=settings)
        return np.mean([method._loss(context, both, prior.decode_pixels(ends), step).item() for step in range(50, 56)])

    assert loss(seen[-1]["latents"]) < 0.97 * loss(method._start(context, both, real))
    assert not any(parameter.requires_grad for parameter in prior.denoiser.parameters())


def test_networks_without_a_condition_move_the_latent_alone(context):
    prior = UNetPrior(tiny.pixels())
    grey = dataclasses.replace(
        context, prior=prior, size=16, settings=SamplingSettings(guidance_scale=1.0),
        classes=build_class_map(context.source, prior.labels_of(["Dress", "Bag"])),
    )  # fmt: skip
    unit = Unit(0, (Slot(0, 0), Slot(1, 0)))
    made = SMALL.make(grey, unit, SMALL.prepare(grey))
    still = dataclasses.replace(SMALL, learning_rate=0.0).make(grey, unit, SMALL.prepare(grey))
    assert made.shape == (2, 1, 16, 16) and not torch.equal(made, still)


def test_runs_are_the_same_to_the_byte_and_resume(tiny_pipeline, tmp_path):
    prior = DiTPrior(tiny_pipeline)
    settings = {"prior": prior, "method": SMALL, "ipc": 2, "batch_size": 2, "progress": False,
                "classes": ["Dress", "Bag"]}  # fmt: skip
    whole = dap.distill("fashion-mini", out=tmp_path / "whole", **settings)
    calls = 0

    def killed(prior, step, timestep, tensors):
        nonlocal calls
        calls += 1
        if calls == 3:  # in the second unit
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt):
        dap.distill("fashion-mini", out=tmp_path / "cut", callback_on_step_end=killed, **settings)
    assert len(list((tmp_path / "cut").rglob("0*.png"))) == 2
    cut = dap.distill("fashion-mini", out=tmp_path / "cut", **settings)
    for file in whole.files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()
    assert cut.manifest["record"] == whole.manifest["record"]


def test_options(context):
    paper = get_method("ld3m:paper")
    assert paper.chain == 10 and get_method("ld3m").momentum == 0.5
    assert paper == LD3M(**RELEASED) and LD3M().noise == "kept"
    assert (paper.learning_rate, paper.condition_rate, paper.steps, paper.batch) == (1.0, 1.0, 1000, 256)
    assert (paper.matching, paper.network, paper.width) == ("distribution", "convnet3", 128)
    for options, message in (
        ({"matching": "trajectory"}, "unknown matching"),
        ({"network": "resnet"}, "unknown network"),
        ({"noise": "new"}, "unknown noise"),
        ({"augmentation": "DSA"}, "unknown augmentation"),
        ({"chain": 1}, "chain: expected a whole number of at least 2"),
        ({"steps": 0}, "steps: expected"),
        ({"learning_rate": -1.0}, "learning_rate: expected a number of at least 0"),
        ({"momentum": 1.0}, "momentum: expected a number of at least 0 and below 1"),
    ):
        with pytest.raises(OptionError, match=message):
            LD3M(**options)
    wild = dataclasses.replace(SMALL, steps=30, learning_rate=1e38, condition_rate=1e38)
    with pytest.raises(DivergedError, match="lower learning_rate"):
        wild.make(context, Unit(0, (Slot(0, 0),)), wild.prepare(context))
