"""LGD: guided steps against an independent float64 oracle, its increments and networks, growth, stops and refusals."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil

import numpy as np
import oracles
import pytest
import torch
from conftest import grey_tree
from test_dap import COUNTS, NAMES, SEED, context
from test_prepare_stopped import files, stop_and_continue
from torch.nn import functional

import dap
from dap import rng
from dap.errors import OptionError, StoppedError
from dap.methods import DiT, Slot, Unit, get_method
from dap.methods import context as methods_context
from dap.methods.common import surrogate_training
from dap.methods.common.increments import Increments
from dap.methods.lgd import LGD
from dap.priors.dit import DiTPrior
from dap.sampling import Window
from dap.stopping import time_limit

SMALL = {"increment": 2, "learning_epochs": 3, "width": 4, "epochs": 2, "start": 0.0}
STRONG = {"scale": 600.0, "deviation": 500.0}  # so that each part of a step is far above rounding
UNIT = Unit(0, (Slot(2, 3), Slot(0, 2), Slot(1, 3)))  # of the second of two increments

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Oracle:
    """LGD in float64, slot by slot, every gradient by autograd; the networks are those that were trained."""

    def __init__(self, pipeline, method, given, made):
        self.method, self.given = method, given
        self.transformer, self.vae = oracles.double(pipeline.transformer), oracles.double(pipeline.vae)
        self.names = list(pipeline.config["id2label"].values())
        self.learner = oracles.double(made.learners[0])
        reference = copy.deepcopy(made.reference.logits).double()
        self.reference = reference
        self.memory = [latents.double() for latents in made.latents[0]]

    def loss(self, net, image, target):
        logits = net(image[None])[0]
        return torch.log(torch.exp(logits).sum()) - logits[target]

    def change(self, x, t, now, label, target):
        x = x.clone().requires_grad_()
        eps, _ = oracles.noise_estimate(self.transformer, x[None], t, label, self.given.settings.guidance_scale)
        x0 = (x - math.sqrt(1 - now) * eps[0]) / math.sqrt(now)
        image = self.vae.decode(x0[None] / self.vae.config.scaling_factor).sample[0].mean(0, keepdim=True)
        score = self.loss(self.learner, image, target) - self.method.validity * self.loss(self.reference, image, target)
        (slope,) = torch.autograd.grad(score, x, retain_graph=True)
        rms = [tensor.detach().square().mean().sqrt() for tensor in (eps, slope)]
        rho = 0.0015 * rms[0] / rms[1] * math.sqrt(1 - now)
        cosines = [(x * m).sum() / (x.norm() * m.norm()) for m in self.memory[target]]
        (nearer,) = torch.autograd.grad(max(cosines), x)
        return self.method.scale * rho * slope - self.method.deviation * x.numel() / 4096 * nearer

    def chain(self, slot):
        """The latent of a slot after each step."""
        settings, name, made = self.given.settings, NAMES[slot.class_index], []
        scheduler = self.given.prior.scheduler(settings.scheduler, settings.num_inference_steps)
        label = torch.tensor([self.names.index(name)])
        draw = rng.generator(SEED, "slot", name, slot.number)
        x = torch.randn((4, 8, 8), generator=draw).double()
        levels = zip(scheduler.timesteps.tolist(), oracles.cumulative_products(scheduler), strict=True)
        for step, (t, (now, after)) in enumerate(levels):
            with torch.no_grad():
                eps, _ = oracles.noise_estimate(self.transformer, x[None], t, label, settings.guidance_scale)
            added = torch.zeros_like(x)
            if step < self.method.stop * settings.num_inference_steps:
                added = self.change(x, t, now, label, slot.class_index)
            noise = torch.randn((4, 8, 8), generator=draw).double() if t > 0 else None
            x = oracles.ddpm_step(x, eps[0], now, after, noise) + added
            made.append(x)
        return made


@pytest.mark.parametrize(
    "options",
    [STRONG, {}, {**STRONG, "validity": 0.0}, {"scale": 0.0, "deviation": 500.0}, {"scale": 600.0, "deviation": 0.0}],
    ids=str,
)
def test_guided_steps_equal_the_oracle(tiny_pipeline, options):
    method, given = LGD(**SMALL, **options), context(DiTPrior(tiny_pipeline))
    made = method.prepare(given)
    traced, seen = oracles.traced(given)
    final = method.make(traced, UNIT, made)
    plain = DiT().make(given, UNIT, None)
    oracle = Oracle(tiny_pipeline, method, given, made)
    for place, slot in enumerate(UNIT.slots):
        ours = [latents[place] for latents in seen]
        for mine, exact in zip(ours, oracle.chain(slot), strict=True):
            torch.testing.assert_close(mine, exact, rtol=0, atol=1e-3 * float(exact.abs().max()) if options else 2e-4)
        assert torch.equal(final[place].double(), ours[-1])
        assert (final[place] - plain[place]).abs().max() > (0.05 if options else 0.005)


def test_validity_and_learnability_pull_against_each_other(tiny_pipeline):
    """With one network in both places and ω = 1, S is 0 and nothing moves; ω = 2 turns the move round."""
    given = context(DiTPrior(tiny_pipeline))
    made = LGD(**SMALL).prepare(given)
    same = made._replace(reference=dataclasses.replace(made.reference, logits=made.learners[0]))

    def moved(validity):
        method = LGD(**SMALL, scale=300.0, deviation=0.0, validity=validity)
        return method.make(given, UNIT, same) - plain

    plain = DiT().make(given, UNIT, None)
    assert torch.equal(moved(1.0), torch.zeros_like(plain))
    first = [LGD(**{**SMALL, "stop": 0.34}, scale=30.0, deviation=0.0, validity=v) for v in (0.0, 2.0)]
    up, down = (method.make(given, UNIT, same) - plain for method in first)
    cosine = functional.cosine_similarity(up.flatten(1), down.flatten(1))
    assert (cosine < -0.9).all(), cosine


def test_published_window_is_step_4_to_39_from_the_noisiest():
    paper = get_method("lgd:paper")
    window = Window(paper.start, paper.stop)
    inside = [step for step in range(50) if window.contains(step, 50)]
    assert inside == sorted(49 - index for index in range(10, 46)) == list(range(4, 40))
    assert (paper.increment, paper.scale, paper.validity, paper.deviation) == (10, 15.0, 0.5, 50.0)


def test_the_first_increment_is_dit(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    method = LGD(**SMALL)
    made = method.prepare(given)
    assert (len(made.latents), len(made.learners)) == (1, 1)
    unit = Unit(0, tuple(Slot(index, number) for index in range(3) for number in range(2)))
    assert torch.equal(method.make(given, unit, made), DiT().make(given, unit, None))
    assert torch.equal(torch.cat(made.latents[0]), DiT().make(given, unit, None)), "what the networks are trained on"
    again = Unit(0, (Slot(2, 1, again=1), Slot(2, 1)))
    assert torch.equal(method.make(given, again, made), DiT().make(given, again, None))


def test_networks_are_trained_on_the_increments_before(tiny_pipeline, monkeypatch):
    """Each on all images so far, of all classes, as they are decoded; with as many epochs as are asked for."""
    seen = []
    whole = surrogate_training.ClassifierTraining

    class Kept(whole):
        def __init__(self, net, images, labels, **options):
            seen.append((images(torch.arange(len(labels))), labels, options["steps"]))
            super().__init__(net, images, labels, **options)

    monkeypatch.setattr(surrogate_training, "ClassifierTraining", Kept)
    given = dataclasses.replace(context(DiTPrior(tiny_pipeline)), ipc=5, counts=(5, 1, 3))
    made = LGD(**SMALL).prepare(given)
    (_, real, _), (first, labels, steps), (second, later, _) = seen
    assert len(real) == sum(COUNTS) and steps == 3
    assert labels.tolist() == [0, 0, 1, 1, 2, 2], "increments are whole, whatever the numbers of the classes"
    assert later.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(first, given.prior.decode(torch.cat(made.latents[0])))
    parts = [latents[index] for index in range(3) for latents in made.latents]
    assert torch.equal(second, given.prior.decode(torch.cat(parts)))
    assert all(weights.grad is None and not net.training for net in made.learners for weights in net.parameters())
    assert not torch.equal(*(next(net.parameters()) for net in made.learners))


def test_parts_of_an_increment_are_the_same(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    method = LGD(**SMALL, **STRONG)
    whole, parts = (method.prepare(dataclasses.replace(given, ipc=6, batch_size=size)) for size in (None, 4))
    for ours, theirs in zip(map(torch.cat, whole.latents), map(torch.cat, parts.latents), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-3 * float(ours.abs().max()))


def test_content_tells_runs_apart(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))

    def content(stage=1, **changes):
        return Increments(dataclasses.replace(given, **changes), 2).content(stage, "method")

    assert content() == content(ipc=8) == content(counts=(4, 1, 2)), "nor on the numbers of images"
    settings = dataclasses.replace(given.settings, guidance_scale=1.0)
    others = [content(0), content(batch_size=2), content(pass_size=2), content(seed=6), content(settings=settings)]
    half = copy.deepcopy(given.prior)
    half.vae_dtype = torch.bfloat16
    assert len({str(each) for each in [content(), *others, content(prior=half)]}) == 7


@pytest.fixture
def tree(tmp_path):
    return grey_tree(tmp_path / "tree", 4, ("Bag", "Dress"))


def settings_of(pipeline, **options):
    return {
        "method": "lgd", "method_options": SMALL | STRONG, "num_inference_steps": 3, "progress": False,
        "prior": DiTPrior(pipeline), **options,
    }  # fmt: skip


def test_a_run_is_the_same_to_the_byte_resumes_and_grows(tiny_pipeline, tree, tmp_path, own_cache):
    settings = settings_of(tiny_pipeline)
    once = dap.distill(tree, out=tmp_path / "once", ipc=5, **settings)
    content = {file: (tmp_path / "once" / file).read_bytes() for file in once.files}
    shutil.rmtree(own_cache)
    for file in once.files[1::3]:
        (tmp_path / "once" / file).unlink()
    dap.distill(tree, out=tmp_path / "once", ipc=5, **settings)
    assert content == {file: (tmp_path / "once" / file).read_bytes() for file in once.files}
    assert once.manifest["record"] == {"epochs": 2}
    shutil.rmtree(own_cache)
    dap.distill(tree, out=tmp_path / "grown", ipc=2, **settings)
    grown = dap.distill(tree, out=tmp_path / "grown", ipc=5, **settings)
    ours, theirs = (each.to_torch()[0].numpy().astype(np.int64) for each in (once, grown))
    assert np.abs(ours - theirs).max() <= 1 and (ours != theirs).mean() < 0.01


def test_a_run_that_grew_unevenly_makes_lost_images_again(tiny_pipeline, tree, tmp_path, own_cache):
    settings = settings_of(tiny_pipeline, out=tmp_path / "out")
    dap.distill(tree, ipc={"Bag": 5, "Dress": 2}, **settings)
    run = dap.distill(tree, ipc=5, **settings)
    content = {file: (tmp_path / "out" / file).read_bytes() for file in run.files}
    shutil.rmtree(own_cache)
    for file in run.files:
        (tmp_path / "out" / file).unlink()
    dap.distill(tree, ipc=5, **settings)
    assert content == {file: (tmp_path / "out" / file).read_bytes() for file in run.files}


def test_a_callback_sees_each_step_of_the_run(tiny_pipeline, tree, tmp_path):
    seen = []

    def black(_prior, step, _timestep, tensors):
        seen.extend([step] * len(tensors["latents"]))
        return {"latents": torch.zeros_like(tensors["latents"])}

    run = dap.distill(tree, ipc=3, out=tmp_path / "out", callback_on_step_end=black, **settings_of(tiny_pipeline))
    assert len(seen) == 3 * 6, "steps of six images"
    assert len({image.numpy().tobytes() for image in run.to_torch()[0]}) == 1


def test_a_stopped_increment_continues_after_the_last_block(tiny_pipeline, own_cache):
    given, method = dataclasses.replace(context(DiTPrior(tiny_pipeline)), batch_size=2), LGD(**SMALL)
    counts = stop_and_continue(lambda: method.prepare(given), own_cache, methods_context, "sample", 2)
    assert counts == [2, 2], "six slots in blocks of two: one block was kept"


def test_a_time_limit_ends_a_preparation_after_a_step_or_a_block(tiny_pipeline, own_cache):
    given, method = dataclasses.replace(context(DiTPrior(tiny_pipeline)), batch_size=4), LGD(**SMALL)
    method.prepare(given)
    whole = files(own_cache)
    shutil.rmtree(own_cache)
    stops, made = 0, None
    while made is None:
        try:
            with time_limit(0):
                made = method.prepare(given)
        except StoppedError:
            stops += 1
    assert stops == 2 + 2 + 3, "steps of the network of real images, blocks of an increment, steps of its network"
    assert files(own_cache) == whole


def test_what_a_run_takes(tiny_pipeline):
    given, method = dataclasses.replace(context(DiTPrior(tiny_pipeline)), ipc=2), LGD(**SMALL)
    (demand,) = method.demands(given)
    assert demand.denoiser and demand.decoder, "a run of one increment may grow"
    larger = dataclasses.replace(given, ipc=3)
    assert (method.disk(given), method.disk(larger)) == (0, 4 * 2 * 3 * 256)
    assert method.preparation_bytes(larger) >= method.preparation_bytes(given) + 2 * 3 * 32 * 32
    assert method.shared() == "networks that are trained on the images of all classes"


def test_options_that_cannot_be_are_refused():
    for options, message in (
        ({"increment": 0}, "increment: expected"),
        ({"learning_epochs": 1}, "learning_epochs: expected"),
        ({"scale": -1.0}, "scale: expected"),
        ({"validity": -0.1}, "validity: expected"),
        ({"deviation": math.nan}, "deviation: expected"),
        ({"start": 0.9}, "stop"),
        ({"network": "convnet"}, "unknown network"),
    ):
        with pytest.raises(OptionError, match=message):
            LGD(**options)
