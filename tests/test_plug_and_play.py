"""plug_and_play: whole steps against float64, the annealing, a Gaussian prior, and runs."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
import tiny
import torch
from conftest import grey_tree
from diffusers import DDPMScheduler
from PIL import Image
from test_dap import NAMES, SEED, UNIT, context

import dap
from dap import rng
from dap.config import from_options, to_json
from dap.data.classmap import build_class_map
from dap.data.from_labels import source_from_labels
from dap.errors import DivergedError, OptionError
from dap.kernels import RBF, by_name
from dap.methods import D4M, Context, PlugAndPlay, Slot, Unit, get_method
from dap.methods.plug_and_play import annealed_timesteps
from dap.priors import Prediction
from dap.priors.dit import DiTPrior
from dap.priors.stable_diffusion import StableDiffusionPrior
from dap.sampling import SamplingSettings, sample

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHORT = {"steps": 4, "learning_rate": 0.1, "refine": 0.0, "constraint": "none"}


def generators_of(unit=UNIT):
    return [rng.generator(SEED, "slot", NAMES[slot.class_index], slot.number) for slot in unit.slots]


def make(method, given, unit=UNIT):
    return method.make(given, unit, method.prepare(given))


def context_of(prior, guidance_scale):
    """A context of a prior that takes any name."""
    given = context(SimpleNamespace(labels={name: number for number, name in enumerate(NAMES)}))
    settings = dataclasses.replace(given.settings, guidance_scale=guidance_scale)
    entries = build_class_map(given.source, prior.labels_of(NAMES))
    return dataclasses.replace(given, prior=prior, settings=settings, classes=entries)


def levels(method, scheduler):
    """(t, √ᾱ_t, √(1 − ᾱ_t)) of each step, by the formula, float64."""
    found, n, r = [], method.steps, method.refine
    for i in range(n):
        t = 1000 * (r + (1 - r) * (1 - i / n) * (1 + method.modulation * math.cos(20 * i / n)))
        t = int(np.clip(t, 1, 1000)) - 1
        cumulative = float(scheduler.alphas_cumprod.double()[t])
        found.append((t, math.sqrt(cumulative), math.sqrt(1 - cumulative)))
    return found


def oracle_estimates(method, given, noise_estimate, scheduler, constraint=None, unit=UNIT):
    """η after each step in float64: gradients by autograd, Adam written out (Kingma and Ba 2015, Algorithm 1)."""
    generators, shape = generators_of(unit), given.prior.latent_shape
    eta = torch.stack([torch.randn(shape, generator=g) for g in generators]).double()
    first, second = torch.zeros_like(eta), torch.zeros_like(eta)
    steps = []
    for number, (t, alpha, sigma) in enumerate(levels(method, scheduler), start=1):
        eps = torch.stack([torch.randn(shape, generator=g) for g in generators]).double()
        point = eta.clone().requires_grad_()
        loss = ((eps - noise_estimate(alpha * point + sigma * eps, t, alpha, sigma)) ** 2).sum()
        if constraint is not None:
            fade = 1 - (number - 1) / method.steps
            loss = loss + math.prod(shape) * method.weight * fade * constraint(point).sum()
        (gradient,) = torch.autograd.grad(loss, point)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
        eta = eta - method.learning_rate * unbiased
        steps.append(eta)
    return steps


def dit_estimate(pipeline, guidance_scale):
    transformer, labels = (
        oracles.double(pipeline.transformer),
        torch.tensor([(3, 8, 4)[s.class_index] for s in UNIT.slots]),
    )
    return lambda x, t, *_: oracles.noise_estimate(transformer, x, t, labels, guidance_scale)[0]


def check_steps(method, given, expected):
    given, seen = oracles.traced(given)
    last = make(method, given)
    assert last.dtype == torch.float32 and last.shape == (5, *given.prior.latent_shape) and not last.requires_grad
    assert len(seen) == len(expected) == method.steps and torch.equal(seen[-1], last.double())
    for ours, exact in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=0, atol=2e-3 * method.learning_rate)


# --- one step after the other ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [None, "dpm++", "euler", "heun"])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_steps_on_a_dit_equal_the_oracle_whatever_the_sampler(tiny_pipeline, guidance_scale, scheduler):
    given = context(DiTPrior(tiny_pipeline), guidance_scale=guidance_scale, scheduler=scheduler)
    method = PlugAndPlay(**SHORT)
    estimate = dit_estimate(tiny_pipeline, guidance_scale)
    expected = oracle_estimates(method, given, estimate, tiny_pipeline.scheduler)
    check_steps(method, given, expected)
    moved = (expected[-1] - expected[0]).abs()
    assert moved.max() > 0.2 and moved.std() > 0.01, "Adam's moves differ between values after the first"


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_steps_on_a_network_that_predicts_v_equal_the_oracle(guidance_scale):
    pipeline = tiny.stable_diffusion(v=True)
    prior = StableDiffusionPrior(pipeline, template="{}").for_classes(NAMES)
    given = context_of(prior, guidance_scale)
    network, encoder = oracles.double(pipeline.unet), oracles.double(pipeline.text_encoder)

    def states(prompts):
        tokens = pipeline.tokenizer(prompts, padding="max_length", max_length=48, return_tensors="pt").input_ids
        with torch.no_grad():
            return encoder(tokens)[0]

    wanted, nothing = states([NAMES[slot.class_index] for slot in UNIT.slots]), states([""] * 5)

    def estimate(x, t, alpha, sigma):
        v, null = (network(x, torch.full((5,), t), encoder_hidden_states=each).sample for each in (wanted, nothing))
        return alpha * (null + guidance_scale * (v - null)) + sigma * x

    method = PlugAndPlay(**SHORT)
    check_steps(method, given, oracle_estimates(method, given, estimate, pipeline.scheduler))


def test_an_unconditional_network_in_pixels_takes_the_same_steps():
    pipeline = tiny.pixels()
    prior = dap.priors.load_prior(pipeline)
    given = context_of(prior, 1.0)
    network, method = oracles.double(pipeline.unet), PlugAndPlay(**SHORT)

    def estimate(x, t, *_):
        return network(x, torch.full((5,), t)).sample

    check_steps(method, given, oracle_estimates(method, given, estimate, pipeline.scheduler))


# --- the annealing --------------------------------------------------------------------------------------------------


def test_the_annealing_is_the_published_one():
    """In 1,000 steps the notebook's t = (n − i + ⌊(n − i)/4⌋ cos(i/50)) T/n; its rounding moves t by less than one."""
    ours = annealed_timesteps(1000, 1000)
    for i, t in enumerate(ours):
        left = 1000 - i
        assert abs(t + 1 - min(max(left + left // 4 * math.cos(i / 50), 1), 1000)) < 2
    assert ours[0] == 999 and ours[-1] == 0 and max(ours) == 999 and min(ours) == 0
    rises = sum(after > before for before, after in pairwise(ours))
    assert 50 < rises < 500, "the cosine takes t up again on the way"


@pytest.mark.parametrize(("steps", "lowest", "modulation"), [(1, 0.0, 0.25), (7, 0.2, 0.5), (50, 0.5, 0.0)])
def test_the_annealing_stays_in_its_range(steps, lowest, modulation):
    times = annealed_timesteps(steps, 400, modulation=modulation, lowest=lowest)
    assert len(times) == steps and times[0] == 399 and all(lowest * 400 - 1 <= t < 400 for t in times)
    if modulation == 0:
        assert times == [int(400 * (lowest + (1 - lowest) * (1 - i / steps))) - 1 for i in range(steps)]


# --- a prior whose answer is known ------------------------------------------------------------------------------------


class Gaussian(tiny.StubPrior):
    """The exact denoiser of x_0 ~ N(m, s² I) for each class, with m by label."""

    latent_shape, image_shape = (1, 2, 2), (1, 2, 2)
    means, spread = torch.tensor([[1.5, -1.0, 0.5, 0.0], [-2.0, 0.0, 1.0, 0.3]]).view(2, 1, 2, 2), 0.01

    def scheduler(self, name, num_inference_steps):
        scheduler = DDPMScheduler(clip_sample=False)
        scheduler.set_timesteps(num_inference_steps)
        return scheduler

    def denoise(self, sample, timestep, labels, *, guidance_scale=1.0, taps=(), through=False):
        cumulative = self.scheduler(None, 2).alphas_cumprod[int(timestep)]
        noise = 1 - cumulative
        eps = noise.sqrt() * (sample - cumulative.sqrt() * self.means[labels]) / (cumulative * self.spread**2 + noise)
        return Prediction(eps, None, {})


def test_under_a_gaussian_the_estimate_is_its_mean():
    source = source_from_labels("two", np.array([0, 1]), ("a", "b"), lambda index: Image.new("L", (2, 2)))
    entries = build_class_map(source, {"a": 0, "b": 1})
    given = Context(source, entries, Gaussian(), SamplingSettings(5, 1.0), seed=0, ipc=2, size=2, channels=1)
    unit = Unit(0, (Slot(1, 0), Slot(0, 0), Slot(0, 1)))
    found = make(PlugAndPlay(steps=400, learning_rate=0.02, refine=0.0, constraint="none"), given, unit)
    torch.testing.assert_close(found, Gaussian.means[[1, 0, 0]], rtol=0, atol=0.05)
    assert not torch.equal(found[1], found[2])


# --- the last steps -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("refine", "taken"), [(0.5, 3), (0.01, 1)])
def test_the_sampler_takes_the_last_steps_from_the_estimate(tiny_pipeline, refine, taken):
    given, calls = context(DiTPrior(tiny_pipeline), num_inference_steps=6, scheduler="ddim"), []

    def keep(prior, step, timestep, tensors):
        calls.append((step, timestep, tensors["latents"]))
        return tensors

    method = PlugAndPlay(**SHORT | {"refine": refine})
    found = make(method, dataclasses.replace(given, callback_on_step_end=keep))
    assert [step for step, _, _ in calls] == [0, 1, 2, 3, *range(6 - taken, 6)]
    assert len(calls) == method.steps_per_slot(given) == 4 + taken
    assert [t for _, t, _ in calls[:4]] == [t for t, _, _ in levels(method, tiny_pipeline.scheduler)]
    generators = generators_of()
    for each in generators:  # η and four times ε
        torch.randn((5, 4, 8, 8), generator=each)
    labels = given.labels(UNIT)
    expected = sample(
        given.prior, labels, generators, settings=given.settings, init=calls[3][2], strength=taken / 6 + 1e-9
    )
    assert torch.equal(found, expected) and PlugAndPlay(**SHORT).steps_per_slot(given) == 4


def test_what_the_callback_returns_is_used_on_and_its_copies_are_its_own(tiny_pipeline):
    given, seen = context(DiTPrior(tiny_pipeline)), []

    def halve(prior, step, timestep, tensors):
        seen.append((tensors["latents"], tensors["latents"].clone()))
        return {"latents": tensors["latents"] / 2} if step == 3 else {}

    found = make(PlugAndPlay(**SHORT), dataclasses.replace(given, callback_on_step_end=halve))
    assert torch.equal(found, seen[3][0] / 2) and len(seen) == 4
    assert all(torch.equal(given, kept) for given, kept in seen)
    assert torch.equal(make(PlugAndPlay(**SHORT), given), seen[3][0])


def test_an_estimate_that_diverges_says_so(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))

    def explode(prior, step, timestep, tensors):
        return {"latents": tensors["latents"] * float("nan")}

    with pytest.raises(DivergedError, match="the estimates left the finite numbers: lower learning_rate"):
        make(PlugAndPlay(**SHORT), dataclasses.replace(given, callback_on_step_end=explode))


# --- slots, the prior, and runs ---------------------------------------------------------------------------------------

KINDS = {
    "none": SHORT,
    "kernel": SHORT | {"constraint": "kernel", "weight": 0.5},
    "classifier": SHORT | {"constraint": "classifier", "weight": 0.5, "width": 4, "epochs": 2},
    "refined": SHORT | {"refine": 0.5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_does_not_depend_on_its_neighbours(tiny_pipeline, kind):
    given, method = context(DiTPrior(tiny_pipeline)), PlugAndPlay(**KINDS[kind])
    together, again = make(method, given), make(method, given)
    assert torch.equal(together, again)
    for place, slot in enumerate(UNIT.slots):
        alone = make(method, given, Unit(7, (slot,)))
        torch.testing.assert_close(alone[0], together[place], rtol=0, atol=5e-3)
    two = make(method, given, Unit(3, (UNIT.slots[4], UNIT.slots[1])))
    torch.testing.assert_close(two, together[[4, 1]], rtol=0, atol=5e-3)
    assert (together[1] - together[4]).abs().max() > 0.1, "slots of a class start apart"


@pytest.mark.parametrize("kind", KINDS)
def test_the_prior_is_left_as_it_was(tiny_pipeline, kind):
    given, method = context(DiTPrior(tiny_pipeline)), PlugAndPlay(**KINDS[kind])
    before = given.prior.describe()
    make(method, given)
    assert given.prior.describe() == before and torch.is_grad_enabled()
    for network in (tiny_pipeline.transformer, tiny_pipeline.vae):
        assert not any(each.requires_grad or each.grad is not None for each in network.parameters())
        assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes of four grey images."""
    return grey_tree(tmp_path_factory.mktemp("tree"), 4, ("Bag", "Dress"))


class Stopped(Exception):
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_ends_with_the_same_bytes(tiny_folder, tree, tmp_path, kind):
    options = {
        "source": tree, "prior": str(tiny_folder), "method": "plug_and_play", "method_options": KINDS[kind], "ipc": 3,
        "batch_size": 2, "num_inference_steps": 4, "progress": False,
    }  # fmt: skip
    whole = dap.distill(**options, out=tmp_path / "a")
    steps = []

    def stop(prior, step, timestep, tensors):
        steps.append(step)
        if len(steps) == 2 * (6 if kind == "refined" else 4) - 1:  # in the second of three units
            raise Stopped
        return tensors

    with pytest.raises(Stopped):
        dap.distill(**options, out=tmp_path / "b", callback_on_step_end=stop)
    assert len(list((tmp_path / "b").glob("train/*/*.png"))) == 2
    continued = dap.distill(**options, out=tmp_path / "b")
    grown = dap.distill(**options | {"ipc": 1}, out=tmp_path / "c")
    grown = dap.distill(**options, out=tmp_path / "c")
    for file in whole.files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert continued.manifest["record"] == grown.manifest["record"] == whole.manifest["record"]
    difference = grown.to_torch()[0].int() - whole.to_torch()[0].int()
    assert difference.abs().max() <= 1  # other batches


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("plug_and_play", SHORT | {"refine": 0.5}), ("plug_and_play", SHORT), ("d4m", {"strength": 0.5}),
        ("d4m", {"strength": 0.01}), ("dap_set", {"candidates": 2, "references": 2}), ("dit", {}),
    ],
    ids=str,
)  # fmt: skip
def test_the_progress_bar_ends_at_its_total(tiny_folder, tree, tmp_path, capsys, monkeypatch, method, options):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    dap.distill(
        tree, prior=str(tiny_folder), method=method, method_options=options, ipc=2, num_inference_steps=5,
        out=tmp_path / "out",
    )  # fmt: skip
    shown = [line for line in capsys.readouterr().err.split("\r") if line.startswith(method)]
    done, total = re.search(r"(\d+)/(\d+) \[", shown[-1]).groups()
    steps = {"plug_and_play": 4 + 2 * bool(options.get("refine")), "dit": 5, "dap_set": 10}
    assert int(done) == int(total) == 4 * steps.get(method, 2 if options.get("strength") == 0.5 else 1)


def test_steps_per_slot_of_the_methods_that_take_others_than_the_run(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline), num_inference_steps=50)
    assert D4M(strength=0.7).steps_per_slot(given) == 35
    assert get_method("dap_set:medoids").steps_per_slot(given) == 200
    assert PlugAndPlay(steps=20, refine=0.3).steps_per_slot(given) == 35


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"steps": 1.5}, "steps: expected a whole number of at least 1, got 1.5"),
        ({"references": 0}, "references: expected a whole number of at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a number above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a number above 0, got nan"),
        ({"modulation": 1.1}, "modulation: expected a number from 0 to 1, got 1.1"),
        ({"refine": 1.0}, "refine: expected a number of at least 0 and below 1, got 1.0"),
        ({"refine": -0.1}, "refine: expected a number of at least 0 and below 1, got -0.1"),
        ({"weight": -1.0}, "weight: expected a number of at least 0, got -1.0"),
        ({"weight": float("inf")}, "weight: expected a number of at least 0, got inf"),
        ({"constraint": "kernels"}, "unknown constraint 'kernels'; did you mean 'kernel'"),
        ({"kernel": 3}, "kernel: expected a name, a kernel or"),
        ({"kernel": "rbff"}, "unknown kernel 'rbff'; did you mean 'rbf'"),
        ({"network": "convnet33"}, "unknown network 'convnet33'; did you mean 'convnet3'"),
        ({"epochs": 1}, "epochs: expected a whole number of at least 2, got 1"),
    ],
    ids=str,
)
def test_options_are_checked_when_the_method_is_made(options, message):
    with pytest.raises(OptionError) as caught:
        PlugAndPlay(**options)
    assert message in str(caught.value)


def test_the_method_is_its_json_and_the_published_constants_are_a_preset():
    method = PlugAndPlay(constraint="kernel", kernel={"name": "rbf", "bandwidth": 3.0})
    assert method.kernel == RBF(bandwidth=3.0) and PlugAndPlay(kernel="linear").kernel == by_name("linear")
    written = json.loads(json.dumps(to_json(method)))
    assert written.pop("name") == "plug_and_play" and from_options(PlugAndPlay, written, "plug_and_play") == method
    published = get_method("plug_and_play:paper")
    assert (published.steps, published.learning_rate, published.modulation) == (1000, 0.01, 0.25)
    assert (published.constraint, published.weight, published.refine) == ("not_class", 0.01, 0.0)
    assert get_method("plug_and_play:fashion") == PlugAndPlay()
