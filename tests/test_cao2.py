"""cao2: which candidates are kept, and their optimisation against autograd and Adam in float64; runs and refusals."""

from __future__ import annotations

from types import SimpleNamespace

import oracles
import pytest
import tiny
import torch
from conftest import grey_tree

import dap
from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import OptionError
from dap.methods import CaO2, get_method
from dap.methods.base import Context, Slot, Unit
from dap.methods.cao2 import kept_by
from dap.methods.common.classifier import Classifier
from dap.priors import load_prior
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings

SETTINGS = SamplingSettings(num_inference_steps=16, guidance_scale=2.7)
SMALL = CaO2(candidates=2, steps=3, learning_rate=0.05, width=4, epochs=2)


@pytest.fixture
def tree(tmp_path):
    return grey_tree(tmp_path / "tree", 4, ("Bag", "Dress"))


@pytest.fixture
def context(tiny_pipeline, tree):
    source, prior = open_source(tree), DiTPrior(tiny_pipeline)
    return Context(
        source=source, classes=build_class_map(source, prior.labels), prior=prior, settings=SETTINGS, seed=3, ipc=2,
        size=32, channels=1,
    )  # fmt: skip


def brightness(images):
    """Logits by which bright images are Dress, and those of medium brightness are unsure."""
    mean = images.mean((1, 2, 3))
    return torch.stack([-8 * mean, 8 * mean], 1)


JUDGE = Classifier(brightness, {})


@pytest.mark.parametrize("surest", [True, False])
def test_right_ones_come_first_then_by_the_largest_probability(surest):
    probabilities = torch.rand((40, 3), generator=rng.generator(0))
    probabilities /= probabilities.sum(1, keepdim=True)
    found = kept_by(probabilities, 1, 30, surest).tolist()
    rows = probabilities.tolist()
    expected = sorted(
        range(40), key=lambda row: (rows[row].index(max(rows[row])) != 1, -max(rows[row]) if surest else max(rows[row]))
    )
    assert found == expected[:30]
    assert kept_by(torch.full((4, 2), 0.5), 0, 3, surest).tolist() == [0, 1, 2], "ties by number"


def test_candidates_are_samples_and_the_kept_are_judged(context):
    method = CaO2(candidates=3, steps=0)
    unit = Unit(0, tuple(Slot(index, number) for index in (0, 1) for number in (0, 1)))
    made = method.make(context, unit, JUDGE)
    for index in (0, 1):
        samples = context.sample(Unit(0, tuple(Slot(index, number) for number in range(6))))
        images = context.prior.decode(samples).float() / 127.5 - 1
        chosen = kept_by(brightness(images).softmax(1), index, 2, True)
        torch.testing.assert_close(made[2 * index : 2 * index + 2], samples[chosen], rtol=0, atol=1e-5)


@pytest.mark.parametrize("raw_time", [False, True])
def test_the_optimisation_is_adams_in_float64(context, tiny_pipeline, raw_time):
    method = CaO2(steps=3, learning_rate=0.05, raw_time=raw_time)
    unit = Unit(0, (Slot(0, 0), Slot(1, 1)))
    start = torch.randn((2, 4, 8, 8), generator=rng.generator(7))
    ours = method._optimised(context, unit, start)
    network, scheduler = oracles.double(tiny_pipeline.transformer), context.prior.scheduler(None, 16)
    for place, (name, number) in enumerate((("Bag", 0), ("Dress", 1))):
        draw = rng.generator(3, "cao2", name, number)
        noise = torch.randn((4, 8, 8), generator=draw)[None].double()
        z = start[place : place + 1].double().requires_grad_()
        adam = torch.optim.Adam([z], lr=0.05)
        for _ in range(3):
            step = 1 + int(torch.randint(3, (), generator=draw))  # of 1 … 16 // 4 − 1, from the least noise
            t = scheduler.timesteps[15 - step]
            cumulative = scheduler.alphas_cumprod[int(t)].double()
            x = cumulative.sqrt() * z + (1 - cumulative).sqrt() * noise
            told = torch.tensor([step if raw_time else int(t)])
            null = torch.tensor([tiny_pipeline.transformer.config.num_embeds_ada_norm])
            error = noise - network(x, timestep=told, class_labels=null).sample[:, :4]
            adam.zero_grad()
            (error.square().mean() + 10 * error.abs().max()).backward()
            adam.step()
        torch.testing.assert_close(ours[place : place + 1].double(), z.detach(), rtol=0, atol=2e-4)
    assert (ours - start).abs().max() > 0.05


def test_parts_of_a_batch_are_the_same(context):
    import dataclasses

    unit = Unit(0, (Slot(0, 0), Slot(1, 1), Slot(1, 0)))
    start = torch.randn((3, 4, 8, 8), generator=rng.generator(7))
    whole, parts = (SMALL._optimised(dataclasses.replace(context, pass_size=size), unit, start) for size in (None, 2))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)


def test_runs_are_the_same_to_the_byte_and_resume(tiny_pipeline, tree, tmp_path):
    settings = {
        "method": SMALL, "ipc": 2, "num_inference_steps": 8, "progress": False, "prior": DiTPrior(tiny_pipeline),
    }  # fmt: skip
    once = dap.distill(tree, out=tmp_path / "once", **settings)
    content = [(tmp_path / "once" / file).read_bytes() for file in once.files]
    (tmp_path / "once" / once.files[1]).unlink()
    dap.distill(tree, out=tmp_path / "once", **settings)
    assert content == [(tmp_path / "once" / file).read_bytes() for file in once.files]
    assert once.manifest["record"] == {"epochs": 2}
    plain = dap.distill(tree, out=tmp_path / "plain", **settings | {"method": CaO2(candidates=1, steps=0)})
    dit = dap.distill(tree, out=tmp_path / "dit", **settings | {"method": "dit"})
    assert sorted(map(bytes, plain.to_torch()[0].numpy())) == sorted(map(bytes, dit.to_torch()[0].numpy()))


def test_options_and_refusals(tree, tmp_path):
    paper = get_method("cao2:paper")
    assert (paper.candidates, paper.steps, paper.learning_rate, paper.raw_time) == (4, 100, 6e-4, True)
    assert paper.surest and not get_method("cao2:paper_ipc50").surest
    given = SimpleNamespace(settings=SamplingSettings(num_inference_steps=50))
    assert list(paper.times(given)) == list(range(1, 12))
    for options, message in (
        ({"candidates": 0}, "candidates: expected"),
        ({"steps": -1}, "steps: expected"),
        ({"learning_rate": 0}, "learning_rate: expected"),
        ({"surest": "yes"}, "surest: expected true or false, got 'yes'"),
        ({"network": "convnet"}, "unknown network"),
    ):
        with pytest.raises(OptionError, match=message):
            CaO2(**options)
    settings = {"method": "cao2", "ipc": 1, "progress": False, "out": tmp_path / "out"}
    with pytest.raises(OptionError, match="'cao2' needs at least 8, got 7"):
        dap.distill(tree, num_inference_steps=7, **settings)
    unconditional = load_prior(tiny.pixels())
    with pytest.raises(OptionError, match="has no null condition; choose steps=0"):
        dap.distill(tree, prior=unconditional, num_inference_steps=8, **settings)
