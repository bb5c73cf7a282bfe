"""dm: steps in pixels and in latents against float64, runs without a prior, and what its slots start at."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracles
import pytest
import torch
from test_ld3m import exact_distribution

import dap
from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import DivergedError, OptionError
from dap.methods import DM, Context, Slot, Unit, get_method
from dap.methods.common.siamese import siamese_augmentation
from dap.nets import create_net
from dap.priors import NoPrior
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SMALL = DM(steps=3, batch=4, width=8, learning_rate=5.0)
LATENT = dataclasses.replace(SMALL, space="latent", learning_rate=1e-3)
UNIT = Unit(0, (Slot(0, 0), Slot(0, 1), Slot(1, 0), Slot(1, 1)))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def context_of(source, prior):
    channels, size, _ = prior.image_shape
    labels = None if isinstance(prior, NoPrior) else prior.labels
    return Context(
        source, build_class_map(source, labels), prior, SamplingSettings(num_inference_steps=1), 5, 2, size, channels
    )


@pytest.fixture
def clothes():
    return open_source("fashion-mini", classes=["Dress", "Bag"])


def seen_of(context, method):
    """The images of UNIT, and what was optimised, after each step."""
    seen = []
    watched = dataclasses.replace(context, callback_on_step_end=lambda *call: seen.append(call[3]["latents"].clone()))
    return method.make(watched, UNIT, method.prepare(context)), seen


def exact_steps(context, method, x, images_of, to_range):
    """SGD with momentum, in float64, on the loss of pixels in the network's units that ``images_of`` makes of x."""
    mean, std = (torch.tensor(v if context.channels == 3 else [sum(v) / 3]).double()[:, None, None] for v in IMAGENET)
    velocity = 0.0
    for step in range(method.steps):
        x = x.detach().requires_grad_()
        net = create_net(
            "convnet3", width=8, channels=context.channels, classes=2, size=context.size,
            generator=rng.generator(5, "dm", "net", step),
        )  # fmt: skip
        loss = 0.0
        for index, entry in enumerate(context.classes):
            rows = context.source.of_class(index)
            chosen = rows[torch.randperm(len(rows), generator=rng.generator(5, "dm", entry.name, step))[:4].numpy()]
            real = (context.images(chosen).double() / 255 - mean) / std
            made = images_of(x, mean, std)[2 * index : 2 * index + 2]
            alike = (
                siamese_augmentation(batch, rng.generator(5, "dm", "augment", entry.name, step))
                for batch in (real, made)
            )
            loss = loss + exact_distribution(oracles.double(net), *alike)
        velocity = 0.5 * velocity + torch.autograd.grad(loss, x)[0]
        x = to_range((x - method.learning_rate * velocity).detach(), mean, std)
        yield x


@pytest.mark.parametrize("channels", [1, 3])
def test_steps_in_pixels_are_those_of_normalised_pixels(clothes, photographs, channels):
    source = clothes if channels == 1 else open_source(photographs)
    context = context_of(source, NoPrior((channels, 16, 16)))
    made, seen = seen_of(context, SMALL)
    started = SMALL.record(context, SMALL.prepare(context))["started"]
    rows = [list(source.ids).index(image) for entry in context.classes for image in started[entry.name]]
    mean, std = (torch.tensor(v if channels == 3 else [sum(v) / 3]).double()[:, None, None] for v in IMAGENET)
    start = context.images(rows).double() / 255
    exact = exact_steps(
        context, SMALL, (start - mean) / std, lambda x, *_: x,
        lambda x, mean, std: ((x * std + mean).clamp(0, 1) - mean) / std,
    )  # fmt: skip
    for ours, x in zip(seen, exact, strict=True):
        torch.testing.assert_close(ours.double() / 2 + 0.5, x * std + mean, rtol=0, atol=2e-3)
    moved = (seen[-1] / 2 + 0.5 - start).abs()
    assert moved.max() > 0.1 and (seen[-1].abs() <= 1).all() and len(set(rows)) == 4
    assert made.dtype == torch.uint8 and (made.double() / 255 - seen[-1] / 2 - 0.5).abs().max() < 0.51 / 255


def test_steps_in_latents_lead_through_the_decoder(clothes, tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    context = context_of(clothes, prior)
    made, seen = seen_of(context, LATENT)
    real = LATENT.prepare(context)
    start = prior.encode(context.images([real.start(context, slot) for slot in UNIT.slots])).double()
    vae = oracles.double(tiny_pipeline.vae)

    def images_of(z, mean, std):
        return ((vae.decode(z / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1) - mean) / std

    exact = exact_steps(context, LATENT, start, images_of, lambda z, *_: z)
    for ours, z in zip(seen, exact, strict=True):
        torch.testing.assert_close(ours.double(), z, rtol=0, atol=2e-3)
    assert (seen[-1] - start).abs().max() > 0.04
    assert torch.equal(made, seen[-1]) and made.is_floating_point()


def test_the_loss_falls_and_classes_do_not_depend_on_each_other(clothes):
    context = context_of(clothes, NoPrior((1, 16, 16)))
    method = dataclasses.replace(SMALL, steps=12, learning_rate=3.0)
    real, (made, seen) = method.prepare(context), seen_of(context, method)
    start = context.images([real.start(context, slot) for slot in UNIT.slots]).float() / 127.5 - 1

    def loss(x):
        return np.mean([method._loss(context, UNIT, x, step, real).item() for step in range(50, 56)])

    assert loss(seen[-1]) < 0.9 * loss(start)
    alone = method.make(context, Unit(0, UNIT.slots[2:]), real)
    assert (alone.int() - made[2:].int()).abs().max() <= 1


def test_a_run_in_pixels_loads_no_prior_and_resumes(monkeypatch, photographs, tmp_path):
    monkeypatch.setattr("dap.run.job.load_prior", lambda *_, **__: pytest.fail("a prior was loaded"))
    settings = {"method": SMALL, "ipc": 2, "batch_size": 2, "size": 24, "progress": False}
    whole = dap.distill(photographs, out=tmp_path / "whole", **settings)
    assert whole.to_torch()[0].shape == (4, 3, 24, 24) and whole.manifest["prior"] is None
    chosen = dap.distill(photographs, method="random", ipc=2, out=tmp_path / "random", progress=False)
    assert whole.manifest["record"]["started"] == chosen.manifest["record"]["images"]
    calls = 0

    def killed(prior, step, timestep, tensors):
        nonlocal calls
        calls += 1
        if calls == 5:  # in the second class
            raise KeyboardInterrupt
        return tensors

    with pytest.raises(KeyboardInterrupt):
        dap.distill(photographs, out=tmp_path / "cut", callback_on_step_end=killed, **settings)
    assert len(list((tmp_path / "cut").rglob("0*.png"))) == 2
    cut = dap.distill(photographs, out=tmp_path / "cut", **settings)
    for file in whole.files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()
    assert cut.manifest["record"] == whole.manifest["record"]
    again = dap.distill(photographs, out=tmp_path / "cut", remake="cat/1", **settings)
    same = [(tmp_path / "whole" / f).read_bytes() == (tmp_path / "cut" / f).read_bytes() for f in again.files]
    assert same == [True, False, True, True]


def test_real_images_that_are_not_held_give_the_same(monkeypatch, clothes):
    context = context_of(clothes, NoPrior((1, 16, 16)))
    held = SMALL.make(context, UNIT, SMALL.prepare(context))
    assert SMALL.preparation_bytes(context) == len(clothes) * 256
    monkeypatch.setattr("dap.methods.common.held_images.HELD_BYTES", 0)
    monkeypatch.setattr("dap.methods.common.held_images.read_images", lambda *_, **__: pytest.fail("all were read"))
    assert torch.equal(SMALL.make(context, UNIT, SMALL.prepare(context)), held)
    assert SMALL.preparation_bytes(context) == 0


def test_options(photographs, clothes, tiny_pipeline, tmp_path):
    paper = get_method("dm:paper")
    assert (paper.steps, paper.learning_rate, paper.momentum, paper.batch) == (20_000, 1.0, 0.5, 256)
    assert (paper.space, paper.network, paper.width) == ("pixels", "convnet3", 128)
    assert paper == DM() and not DM().uses_prior() and LATENT.uses_prior()
    assert get_method("dm:fashion_latent").space == "latent" and get_method("dm:fashion").space == "pixels"
    for options, message in (
        ({"space": "latents"}, "unknown space 'latents'; did you mean 'latent'"),
        ({"network": "resnet"}, "unknown network"),
        ({"steps": 0}, "steps: expected"),
        ({"learning_rate": -1.0}, "learning_rate: expected a number of at least 0"),
        ({"momentum": 1.0}, "momentum: expected a number of at least 0 and below 1"),
    ):
        with pytest.raises(OptionError, match=message):
            DM(**options)
    for method, options, message in (
        (SMALL, {"ipc": 6}, "fewer than ipc=6"),
        (LATENT, {"ipc": 1, "size": 24}, "size: the images of method 'dm' have the prior's size"),
    ):
        with pytest.raises(OptionError, match=message):
            dap.distill(photographs, method=method, out=tmp_path / "out", progress=False, **options)
    wild = dataclasses.replace(LATENT, steps=30, learning_rate=1e38)
    context = context_of(clothes, DiTPrior(tiny_pipeline))
    with pytest.raises(DivergedError, match="lower learning_rate"):
        wild.make(context, UNIT, wild.prepare(context))
    assert not (tmp_path / "out").exists()
