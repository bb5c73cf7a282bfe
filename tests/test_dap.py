"""DAP's guidance: whole steps against an independent float64 oracle."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracles
import pytest
import torch
from PIL import Image

from dap import rng
from dap.data.classmap import build_class_map
from dap.data.from_labels import source_from_labels
from dap.errors import OptionError
from dap.features import Tap
from dap.kernels import RBF, Linear
from dap.methods import DAP, Context, DiT, Random, Slot, Unit, get_method
from dap.methods.dap import KernelDistanceTerm
from dap.priors import NoPrior
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings, StepState

# diffusers meets numpy 2 here
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ("Dress", "Bag", "Coat")  # the prior's labels 3, 8, 4; the source numbers them 0, 1, 2
COUNTS = (4, 1, 7)
UNIT = Unit(0, (Slot(2, 0), Slot(0, 1), Slot(2, 3), Slot(1, 0), Slot(0, 0)))
SEED = 5


def images():
    """Pixels of each image, class after class."""
    return np.random.default_rng(0).integers(0, 256, (sum(COUNTS), 32, 32), np.uint8)


def context(prior, **settings):
    labels = np.repeat(np.arange(len(NAMES)), COUNTS)
    source = source_from_labels("noise", labels, NAMES, lambda index: Image.fromarray(images()[index]))
    settings = SamplingSettings(**{"num_inference_steps": 3, "guidance_scale": 3.0, **settings})
    entries = build_class_map(source, prior.labels)
    return Context(source, entries, prior, settings, seed=SEED, ipc=4, size=32, channels=1)


def make(method, context):
    return method.make(context, UNIT, method.prepare(context))


class Oracle:
    """DAP in float64, by its formulas: its own features, double loops over D_k, gradients by autograd."""

    def __init__(self, pipeline, method, context, ids, *, sign=1.0):
        self.pipeline, self.method, self.context, self.ids, self.sign = pipeline, method, context, ids, sign
        self.transformer, self.vae = oracles.double(pipeline.transformer), oracles.double(pipeline.vae)
        names = list(pipeline.config["id2label"].values())
        self.slots = [(NAMES[slot.class_index], slot.number) for slot in UNIT.slots]
        self.labels = torch.tensor([names.index(name) for name, _ in self.slots])
        self.block = method.block or 1
        self.bandwidth = getattr(method.kernel, "bandwidth", None)

    def pool(self, tokens):
        return tokens.mean(1) if self.method.pooling == "mean" else tokens.reshape(len(tokens), -1)

    def references(self, name, t, cumulative):
        """φ of the class's references, noised to step t."""
        label = torch.tensor([list(self.pipeline.config["id2label"].values()).index(name)])
        rows = []
        for image_id in self.ids[name]:
            pixels = torch.from_numpy(images()[int(image_id)]).double()[None, None] / 127.5 - 1
            with torch.no_grad():
                z = self.vae.encode(pixels).latent_dist.mean * self.vae.config.scaling_factor
                noise_name = image_id if self.method.noise == "own" else "shared"
                noise = torch.randn((4, 8, 8), generator=rng.generator(SEED, "feature", noise_name, t)).double()
                noised = cumulative**0.5 * z + (1 - cumulative) ** 0.5 * noise
                rows.append(self.pool(oracles.tokens(self.transformer, noised, t, label, self.block))[0])
        return torch.stack(rows)

    def energy(self, x, t, cumulative):
        features = self.pool(oracles.tokens(self.transformer, x, t, self.labels, self.block))
        references = [self.references(name, t, cumulative) for name, _ in self.slots]
        return oracles.mean_distances(features, references, self.bandwidth)

    def gradient(self, x, eps, t, now, after):
        """∇_{x_t} of the energies, each divided by its value at the first guided step where the method says so."""
        moved = x.clone().requires_grad_()
        energies = self.energy(moved, t, now)
        self.start = energies.detach() if self.start is None else self.start
        weighted = energies / self.start if self.method.normalise else energies
        return torch.autograd.grad(weighted.sum(), moved)[0]

    def chain(self):
        """Latents after each step."""
        settings = self.context.settings
        scheduler = self.context.prior.scheduler(settings.scheduler, settings.num_inference_steps)
        generators = [rng.generator(SEED, "slot", name, number) for name, number in self.slots]
        x = torch.stack([torch.randn((4, 8, 8), generator=g) for g in generators]).double()
        self.start, steps, n = None, [], settings.num_inference_steps
        schedule = zip(scheduler.timesteps.tolist(), oracles.cumulative_products(scheduler), strict=True)
        for step, (t, (now, after)) in enumerate(schedule):
            with torch.no_grad():
                eps, _ = oracles.noise_estimate(self.transformer, x, t, self.labels, settings.guidance_scale)
            gradient = torch.zeros_like(x)
            if self.method.start * n <= step < self.method.stop * n:
                gradient = self.gradient(x, eps, t, now, after)
            gradient = self.sign * self.method.scale * gradient
            if self.method.at == "eps":
                eps = eps + (1 - now) ** 0.5 * gradient
            if settings.scheduler == "ddim":
                x = oracles.ddim_step(x, eps, now, after)
            else:
                noise = [torch.randn((4, 8, 8), generator=g) for g in generators] if t > 0 else None
                x = oracles.ddpm_step(x, eps, now, after, None if noise is None else torch.stack(noise).double())
            if self.method.at == "sample":
                x = x - gradient
            steps.append(x)
        return steps


METHODS = {
    "default": (DAP(), {}),
    "ddim": (DAP(), {"scheduler": "ddim"}),
    "paper": (get_method("dap:paper"), {}),
    "rbf": (DAP(kernel="rbf", scale=3.0, pooling="mean"), {}),
    "rbf with a bandwidth": (DAP(pooling="mean", kernel={"name": "rbf", "bandwidth": 2.0}, block=2), {}),
    "mean": (DAP(pooling="mean", block=3), {}),
    "shared noise": (DAP(noise="shared", references=2), {}),
    "window": (DAP(start=0.3, stop=0.7, scale=5.0), {}),
    "raw": (DAP(normalise=False), {"scheduler": "ddim", "guidance_scale": 1.0}),
}


@pytest.mark.parametrize("name", METHODS)
def test_guided_steps_equal_the_oracle(tiny_pipeline, name):
    method, settings = METHODS[name]
    given, ours = oracles.traced(context(DiTPrior(tiny_pipeline), **settings))
    artefact = method.prepare(given)
    last = method.make(given, UNIT, artefact)
    ids = method.record(given, artefact)["references"]
    assert [len(ids[name]) for name in NAMES] == [min(method.references, count) for count in COUNTS]
    expected = Oracle(tiny_pipeline, method, given, ids).chain()
    assert len(ours) == 3 and torch.equal(ours[-1], last.double())
    for mine, exact in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=0, atol=3e-5)
    flipped = Oracle(tiny_pipeline, method, given, ids, sign=-1.0).chain()
    unguided = Oracle(tiny_pipeline, dataclasses.replace(method, scale=0.0), given, ids).chain()
    first = 1 if name == "window" else 0
    for other in (flipped, unguided):
        assert (ours[first] - other[first]).abs().amax((1, 2, 3)).min() > 1e-3, "every slot is guided, and downwards"
    if name == "window":
        torch.testing.assert_close(ours[0], unguided[0], rtol=0, atol=3e-5)


@pytest.mark.parametrize("kernel", [Linear(), RBF(), RBF(bandwidth=0.5)], ids=str)
def test_gradient_of_the_energy_matches_finite_differences(tiny_pipeline, kernel):
    """Of the term itself, on the features that the prior hands out, against differences of the float64 energy."""
    prior, method = DiTPrior(tiny_pipeline), DAP(kernel=kernel, block=2, pooling="mean")
    given = context(prior)
    artefact = method.prepare(given)
    oracle = Oracle(tiny_pipeline, method, given, method.record(given, artefact)["references"])
    step, t = 1, int(prior.scheduler(None, 3).timesteps[1])
    cumulative = float(prior.scheduler(None, 3).alphas_cumprod[t])
    x = torch.randn((len(UNIT.slots), 4, 8, 8), generator=rng.generator("x")).requires_grad_()
    labels = given.labels(UNIT)
    assert torch.equal(labels, oracle.labels)
    prediction = prior.denoise(x, torch.tensor(t), labels, taps=[2])
    sigma = (1 - cumulative) ** 0.5
    state = StepState(step, 3, t, cumulative**0.5, sigma, 0.0, x, prediction.eps, x, labels, prediction.features)
    energies = method.term(given, UNIT, artefact).energy(state)
    exact = x.detach().double()
    torch.testing.assert_close(energies.double(), oracle.energy(exact, t, cumulative), rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(energies.sum(), x)
    directions = torch.randn((12, *x.shape), generator=rng.generator("directions")).double()
    references = [oracle.references(name, t, cumulative) for name, _ in oracle.slots]

    def energy(moved):
        with torch.no_grad():
            features = oracle.pool(oracles.tokens(oracle.transformer, moved, t, labels, 2))
            return oracles.mean_distances(features, references, oracle.bandwidth)

    for direction in directions:
        slopes = (energy(exact + 1e-5 * direction) - energy(exact - 1e-5 * direction)) / 2e-5
        ours = (gradient.double() * direction).sum((1, 2, 3))
        torch.testing.assert_close(ours, slopes, rtol=1e-3, atol=1e-5)
        assert slopes.abs().max() > 1e-3


def test_gradient_is_zero_where_a_slot_meets_its_reference():
    rows = torch.tensor([[1.0, 2.0], [4.0, 6.0]])
    tokens = rows[:, None].clone().requires_grad_()
    references = {(0, 7): rows[:1], (0, 9): rows[:1]}
    term = KernelDistanceTerm(tap=Tap(1), references=references, kernel=Linear(), taps=frozenset({1}), normalise=True)
    zero = torch.zeros(2, 1, 1, 1)
    energies = term.energy(StepState(0, 1, 10, 1.0, 0.0, 0.0, zero, zero, zero, torch.tensor([7, 9]), {1: tokens}))
    assert energies.tolist() == [0.0, 5.0]
    (gradient,) = torch.autograd.grad(energies.sum(), tokens)
    torch.testing.assert_close(gradient[:, 0], torch.tensor([[0.0, 0.0], [0.6, 0.8]]))


@pytest.mark.parametrize("scheduler", ["ddpm", "ddim", "dpm++"])
def test_scale_zero_is_dit_to_the_bit(tiny_pipeline, scheduler):
    given = context(DiTPrior(tiny_pipeline), scheduler=scheduler)
    plain = make(DiT(), given)
    assert torch.equal(make(DAP(scale=0.0), given), plain)
    assert torch.equal(make(DAP(start=0.5, stop=0.5), given), plain)
    assert (make(DAP(), given) - plain).abs().amax((1, 2, 3)).min() > 1e-3


def test_guidance_lowers_the_energy(tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    given = context(prior, num_inference_steps=10, scheduler="ddim")
    method = DAP(scale=20.0)
    artefact = method.prepare(given)
    oracle = Oracle(tiny_pipeline, method, given, method.record(given, artefact)["references"])
    guided, plain = (method.make(given, UNIT, artefact), make(DiT(), given))
    energies = [oracle.energy(x.double(), 0, 1.0) for x in (guided, plain)]
    assert (energies[0] < energies[1]).all()


def test_references_are_stored_for_the_guided_steps_and_the_last_which_orders(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline), num_inference_steps=8)
    artefact = DAP(start=0.25, stop=0.5, references=3).prepare(given)
    assert sorted(artefact.features) == [(step, label) for step in (2, 3, 7) for label in (3, 4, 8)]
    assert artefact.steps == {2, 3}
    assert [len(artefact.features[2, label]) for label in (3, 8, 4)] == [3, 1, 3]
    assert DAP(scale=0.0).prepare(given).features == {}
    assert [len(ids) for ids in DAP().prepare(given).ids.values()] == list(COUNTS)


def test_references_of_a_larger_choice_begin_with_those_of_a_smaller(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline), num_inference_steps=1)
    few, many = (DAP(references=count).prepare(given).ids for count in (2, 5))
    assert all(many[name][:2] == few[name] for name in NAMES)
    first = {name: range(start, start + count) for name, start, count in zip(NAMES, (0, 4, 5), COUNTS, strict=True)}
    assert all(int(image_id) in first[name] for name in NAMES for image_id in many[name])


def test_block_defaults_to_the_recommendation_or_a_third(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline), num_inference_steps=1)
    assert DAP().prepare(given).tap.block == 1
    advised = context(DiTPrior(tiny_pipeline, recommended={"block": 3}), num_inference_steps=1)
    assert DAP().prepare(advised).tap.block == 3
    assert DAP(block=2).prepare(advised).tap.block == 2
    assert DAP(block=2).record(given, DAP(block=2).prepare(given))["block"] == 2
    with pytest.raises(OptionError, match="block: expected 1 to 3, got 4"):
        DAP(block=4).prepare(given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, "scale: expected a number of at least 0, got -1.0"),
        ({"scale": float("nan")}, "scale"),
        ({"references": 0}, "references: expected a whole number of at least 1, got 0"),
        ({"noise": "shard"}, "unknown noise 'shard'; did you mean 'shared'"),
        ({"at": "x0"}, "unknown at 'x0'"),
        ({"pooling": "max"}, "unknown pooling 'max'"),
        ({"start": 0.6, "stop": 0.5}, "0 <= start <= stop <= 1"),
        ({"kernel": "rfb"}, "unknown kernel 'rfb'; did you mean 'rbf'"),
        ({"kernel": {"name": "rbf", "bandwidht": 1.0}}, "unknown option of the rbf kernel 'bandwidht'"),
        ({"kernel": {"bandwidth": 1.0}}, "kernel"),
        ({"kernel": 3}, "kernel"),
        ({"block": 0}, "block"),
        ({"block": ""}, "block"),
        ({"scal": 1.0}, "unknown option of method 'dap' 'scal'; did you mean 'scale'"),
        ({"scale": "big"}, "scale takes float, got 'big'"),
        ({"references": 2.5}, "references takes int, got 2.5"),
        ({"normalise": 1}, "normalise takes bool, got 1"),
        ({"pooling": 3}, "pooling takes str, got 3"),
    ],
    ids=str,
)
def test_options_are_checked_when_the_method_is_made(options, message):
    with pytest.raises(OptionError) as error:
        get_method("dap", options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_names_and_presets():
    paper = get_method("dap:paper")
    assert paper == DAP(scale=1.0, at="sample", normalise=False, stop=1.0, kernel="linear")
    assert get_method("dap:paper", {"scale": 0.5}) == dataclasses.replace(paper, scale=0.5)
    assert get_method("dap", {"scale": 1}) == DAP(scale=1)
    assert get_method(paper) is paper and isinstance(get_method("random"), Random) and get_method("dit") == DiT()
    for method, options, message in (
        ("dpa", None, "unknown method 'dpa'; did you mean 'dap'?"),
        ("dap:papr", None, "unknown preset of method 'dap' 'papr'; did you mean 'paper'?"),
        ("dit:paper", None, "method 'dit' has no presets, got 'dit:paper': leave ':paper' out"),
        ("dit", {"scale": 1.0}, "method 'dit' has no options, got 'scale'"),
        (DAP(), {"scale": 1.0}, "method_options: they go into the method object"),
        (DAP, None, "expected a name or an object of dap.methods.Method"),
        (7, None, "expected a name or an object of dap.methods.Method, got 7"),
    ):
        with pytest.raises(OptionError) as error:
            get_method(method, options)
        assert message in str(error.value)


def test_context_and_random(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    assert given.labels(UNIT).tolist() == [4, 3, 4, 8, 3]
    draws = [torch.randn(1, generator=g).item() for g in given.generators(UNIT)]
    assert draws[1] == torch.randn(1, generator=rng.generator(SEED, "slot", "Dress", 1)).item()
    assert len(set(draws)) == len(draws)
    no_prior = NoPrior((1, 32, 32))
    with pytest.raises(OptionError, match="'prior' to the needs"):
        make(DiT(), dataclasses.replace(given, prior=no_prior))
    with pytest.raises(OptionError, match="'Bag' has 1 image, fewer than ipc=4"):
        Random().prepare(given)
    given = dataclasses.replace(given, ipc=1, prior=no_prior)
    unit = Unit(0, (Slot(1, 0), Slot(0, 0)))
    chosen = Random().prepare(given)
    made = Random().make(given, unit, chosen)
    assert made.dtype == torch.uint8 and made.shape == (2, 1, 32, 32)
    assert np.array_equal(made[0, 0].numpy(), images()[4])
    ids = Random().record(given, chosen)["images"]
    assert np.array_equal(made[1, 0].numpy(), images()[int(ids["Dress"][0])]) and int(ids["Dress"][0]) < 4
