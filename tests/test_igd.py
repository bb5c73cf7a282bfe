"""IGD: whole guided steps against an independent float64 oracle, and its arithmetic by hand."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import oracles
import pytest
import torch
from test_dap import COUNTS, NAMES, SEED, context, images
from torch import nn

from dap import rng
from dap.config import from_options, to_json
from dap.errors import OptionError
from dap.methods import DiT, Guided, Slot, Unit, get_method
from dap.methods.common.igd_steps import DeviationTerm
from dap.methods.common.surrogate import Surrogate
from dap.methods.dap import KernelDistance
from dap.methods.igd import IGD, Influence, InfluenceTerm
from dap.priors.dit import DiTPrior
from dap.sampling import StepState, Window

# one class has three images, one after the other; the two others have none before their only one
UNIT = Unit(0, (Slot(2, 0), Slot(0, 1), Slot(2, 1), Slot(1, 1), Slot(2, 2)))
SURROGATE = {"width": 4, "epochs": 3, "similarity": 1.0, "references": 100}


def latents_by_step(method, given, unit=UNIT):
    """Final latents, and those after each step by slot number, in the order of the unit's slots."""
    given, seen = oracles.traced(given)
    final = method.make(given, unit, method.prepare(given))
    steps = given.settings.num_inference_steps
    numbers = sorted({slot.number for slot in unit.slots})
    by_number = {number: seen[i * steps : (i + 1) * steps] for i, number in enumerate(numbers)}
    return final, by_number


class Oracle:
    """IGD in float64, slot by slot: own real gradients, own classifier states, every gradient by autograd."""

    def __init__(self, pipeline, method, given, surrogate, *, influence=None, deviation=None):
        self.pipeline, self.method, self.given = pipeline, method, given
        self.scale = method.scale if influence is None else influence
        self.gamma = method.deviation if deviation is None else deviation
        self.transformer, self.vae = oracles.double(pipeline.transformer), oracles.double(pipeline.vae)
        self.names = list(pipeline.config["id2label"].values())
        self.nets = [self.at(surrogate, number) for number in range(len(surrogate.epochs))]
        starts = np.cumsum((0, *COUNTS))
        self.real = {
            (number, target): sum(
                self.parameter_gradient(net, torch.from_numpy(image).double()[None] / 127.5 - 1, target)
                for image in images()[starts[target] : starts[target + 1]]
            ).detach()
            / COUNTS[target]
            for number, net in enumerate(self.nets)
            for target in range(3)
        }

    def at(self, surrogate, number):
        net, start = copy.deepcopy(surrogate.net).double(), 0
        with torch.no_grad():
            for each in net.parameters():
                each.copy_(surrogate.weights[number, start : start + each.numel()].reshape(each.shape))
                start += each.numel()
        return net

    def parameter_gradient(self, net, image, target):
        logits = net(image[None])[0]
        loss = torch.logsumexp(logits, 0) - logits[target]
        found = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        return torch.cat([each.reshape(-1) for each in found])

    def influence(self, x0, target):
        """The mean over the classifier's states of 1 − cos."""
        pixels = self.vae.decode(x0[None] / self.vae.config.scaling_factor).sample[0]
        total = 0.0
        for number, net in enumerate(self.nets):
            a, b = self.parameter_gradient(net, pixels, target), self.real[number, target]
            total = total + 1 - (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())
        return total / len(self.nets)

    def change(self, x, t, now, label, target, memory):
        """What is added to x_{t−1} of one slot."""
        x = x.clone().requires_grad_()
        eps, _ = oracles.noise_estimate(self.transformer, x[None], t, label, self.given.settings.guidance_scale)
        x0 = (x - math.sqrt(1 - now) * eps[0]) / math.sqrt(now)
        (slope,) = torch.autograd.grad(self.influence(x0, target), x, retain_graph=True)
        rms = [tensor.detach().square().mean().sqrt() for tensor in (eps, slope)]
        rho = 0.0015 * rms[0] / rms[1] * math.sqrt(1 - now)
        added = -self.scale * rho * slope
        if memory:
            cosines = [(x * m).sum() / (x.square().sum().sqrt() * m.square().sum().sqrt()) for m in memory]
            (slope,) = torch.autograd.grad(max(cosines), x)
            added = added - self.gamma * x.numel() / 4096 * slope
        return added

    def chains(self, unit):
        """Latents of each slot after each step."""
        settings, finished, chains = self.given.settings, {}, {}
        scheduler = self.given.prior.scheduler(settings.scheduler, settings.num_inference_steps)
        schedule = list(zip(scheduler.timesteps.tolist(), oracles.cumulative_products(scheduler), strict=True))
        for slot in sorted(unit.slots, key=lambda slot: slot.number):
            name = NAMES[slot.class_index]
            label = torch.tensor([self.names.index(name)])
            g = rng.generator(SEED, "slot", name, slot.number)
            x = torch.randn((4, 8, 8), generator=g).double()
            memory = finished.setdefault(slot.class_index, [])
            chains[slot] = []
            for step, (t, (now, after)) in enumerate(schedule):
                with torch.no_grad():
                    eps, _ = oracles.noise_estimate(self.transformer, x[None], t, label, settings.guidance_scale)
                added = torch.zeros_like(x)
                if self.method.start * len(schedule) <= step < self.method.stop * len(schedule):
                    added = self.change(x, t, now, label, slot.class_index, memory[-self.method.memory :])
                if settings.scheduler == "ddim":
                    x = oracles.ddim_step(x, eps[0], now, after)
                else:
                    noise = torch.randn((4, 8, 8), generator=g).double() if t > 0 else None
                    x = oracles.ddpm_step(x, eps[0], now, after, noise)
                x = x + added
                chains[slot].append(x)
            memory.append(x)
        return chains


STRONG = {"scale": 600.0, "deviation": 500.0}  # so that each part of a step is far above rounding
METHODS = {
    "default": (IGD(**SURROGATE), {}),
    "strong": (IGD(**SURROGATE, **STRONG), {}),
    "ddim, each step": (
        IGD(**SURROGATE, scale=200.0, deviation=300.0, start=0.0, stop=1.0), {"scheduler": "ddim"},
    ),
    "one remembered": (IGD(**SURROGATE, **STRONG, memory=1), {"guidance_scale": 1.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_guided_steps_equal_the_oracle(tiny_pipeline, name):
    method, settings = METHODS[name]
    given = context(DiTPrior(tiny_pipeline), **settings)
    surrogate = method.prepare(given)
    assert len(surrogate.epochs) >= 2
    final, by_number = latents_by_step(method, given)
    chains = Oracle(tiny_pipeline, method, given, surrogate).chains(UNIT)
    without = {
        option: Oracle(tiny_pipeline, method, given, surrogate, **{option: 0.0}).chains(UNIT)
        for option in ("influence", "deviation")
    }
    guided = [step for step in range(3) if Window(method.start, method.stop).contains(step, 3)]
    assert guided == ([0, 1, 2] if "each" in name else [1])
    for place, slot in enumerate(UNIT.slots):
        row = [each for each in UNIT.slots if each.number == slot.number].index(slot)
        ours = [latents[row] for latents in by_number[slot.number]]
        for mine, exact in zip(ours, chains[slot], strict=True):
            accuracy = 1e-4 if name == "default" else 1e-3 * float(exact.abs().max())
            torch.testing.assert_close(mine, exact, rtol=0, atol=accuracy)
        assert torch.equal(final[place].double(), ours[-1])
        first = guided[0]
        assert (ours[first] - without["influence"][slot][first]).abs().max() > (0.005 if name == "default" else 0.1)
        remembers = slot.class_index == 2 and slot.number > 0
        if remembers:
            assert (ours[first] - without["deviation"][slot][first]).abs().max() > (0.01 if name == "default" else 0.05)
    if name != "one remembered":
        return
    third = Oracle(tiny_pipeline, dataclasses.replace(method, memory=64), given, surrogate).chains(UNIT)
    assert torch.equal(third[UNIT.slots[2]][1], chains[UNIT.slots[2]][1])


def test_step_by_hand():
    """A softmax regression with W = 0: ∇_W ℓ = ½ (−x, x), so G_I = 1 − cos(r, x) for a reference (−r, r).

    ε = (3, 4) and √(1 − ᾱ) = 0.6: whatever the gradient's size, x moves by 0.0015 · 0.6 · 5, here at a right angle to
    x.
    """
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    surrogate = Surrogate(net, (1,), torch.zeros(1, 4), ())

    class Plain:
        @staticmethod
        def decode_with_graph(latents):
            return torch.tensor([0.5, 0.0, 0.5]).view(3, 1, 1, 1) * latents

    r = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, -7.0]])
    references = torch.cat([-r, r], dim=1)[None]
    sample = torch.tensor([[1.0, 0.0], [2.0, 0.0], [100.0, 0.0]]).view(3, 1, 1, 2).requires_grad_()
    eps = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2).expand(3, 1, 1, 2)
    targets = torch.zeros(3, dtype=torch.int64)
    term = InfluenceTerm(prior=Plain, surrogate=surrogate, targets=targets, references=references)
    state = StepState(0, 1, 10, 0.8, 0.6, 0.0, sample, eps, 2 * sample, torch.zeros(3, dtype=torch.int64), {})
    with torch.no_grad():
        change = term.delta(state)
    expected = torch.tensor([[0.0, 3.0], [0.0, 0.0], [0.0, -3.0]]).view(3, 1, 1, 2)
    torch.testing.assert_close(change, 0.0015 * expected, rtol=1e-5, atol=1e-8)
    assert torch.equal(change[1], expected[1]), "where the gradient is zero nothing moves"
    assert torch.equal(term.delta(state), change), "the graph is left for the next term"


def test_published_window_is_step_4_to_19_from_the_noisiest():
    window = IGD().window
    inside = [step for step in range(50) if window.contains(step, 50)]
    assert inside == sorted(49 - index for index in range(30, 46)) == list(range(4, 20))


def test_deviation_is_the_largest_cosine_of_x_t():
    g = rng.generator("deviation")
    x0 = torch.randn((3, 4, 8, 8), generator=g).requires_grad_()
    estimate = torch.randn((3, 4, 8, 8), generator=g)  # is not used
    memories = (torch.randn((5, 4, 8, 8), generator=g), torch.empty(0, 4, 8, 8), torch.randn((1, 4, 8, 8), generator=g))
    label = torch.zeros(3, dtype=torch.int64)
    found = DeviationTerm(memories=memories).energy(StepState(0, 1, 1, 1.0, 0.0, 0.0, x0, x0, estimate, label, {}))
    exact, cosines = x0.detach().double().requires_grad_(), []
    for row, memory in zip(exact, memories, strict=True):
        each = [(row * m).sum() / (row.norm() * m.double().norm()) for m in memory]
        cosines.append(max(each) if each else 0 * row.sum())
    torch.testing.assert_close(found.double(), torch.stack(cosines), rtol=0, atol=1e-6)
    assert found[1] == 0 and found.unique().numel() == 3
    (slope,) = torch.autograd.grad(found.sum(), x0)
    (expected,) = torch.autograd.grad(sum(cosines), exact)
    torch.testing.assert_close(slope.double(), expected, rtol=0, atol=1e-6)
    assert slope[1].abs().max() == 0 and slope[0].abs().max() > 0


def test_memory_holds_the_last_finished_of_the_class(tiny_pipeline, monkeypatch):
    given, asked = context(DiTPrior(tiny_pipeline)), []

    def made_up(prior, labels, generators, *, terms, **_):
        asked.append([term for term in terms if isinstance(term, DeviationTerm)])
        return (10.0 * len(asked) + labels).view(-1, 1, 1, 1).expand(-1, 4, 8, 8)

    monkeypatch.setattr("dap.methods.context.sample", made_up)
    method = IGD(**SURROGATE, memory=2)
    slots = [Slot(index, number) for index in (0, 1) for number in range(4)]  # the prior's labels 3 and 8
    final = method.make(given, Unit(0, tuple(slots)), method.prepare(given))
    assert final[:, 0, 0, 0].tolist() == [13, 23, 33, 43, 18, 28, 38, 48]
    held = [[memory[:, 0, 0, 0].tolist() for memory in term.memories] for (term,) in asked[1:]]
    assert asked[0] == [] and held == [[[13], [18]], [[13, 23], [18, 28]], [[23, 33], [28, 38]]]


def dit_by_number(given, unit):
    made = {}
    for number in sorted({slot.number for slot in unit.slots}):
        slots = tuple(slot for slot in unit.slots if slot.number == number)
        made |= dict(zip(slots, DiT().make(given, Unit(0, slots), None), strict=True))
    return torch.stack([made[slot] for slot in unit.slots])


def test_strength_zero_is_dit_to_the_bit(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    plain = dit_by_number(given, UNIT)
    surrogate = IGD(**SURROGATE).prepare(given)

    def make(**options):
        return IGD(**SURROGATE, **options).make(given, UNIT, surrogate)

    assert torch.equal(make(scale=0.0, deviation=0.0), plain)
    assert torch.equal(make(start=0.5, stop=0.5), plain)
    assert (make(**STRONG) - plain).abs().amax((1, 2, 3)).min() > 0.1
    alone = make(scale=0.0, deviation=STRONG["deviation"])
    moved = torch.tensor([slot.class_index == 2 and slot.number > 0 for slot in UNIT.slots])
    assert torch.equal(alone[~moved], plain[~moved]), "the deviation needs a finished image of the class"
    assert (alone[moved] - plain[moved]).abs().amax((1, 2, 3)).min() > 0.05


def test_gradient_is_open_in_the_guided_steps_alone(tiny_pipeline, monkeypatch):
    prior, seen = DiTPrior(tiny_pipeline), []
    denoise = prior.denoise

    def spy(sample, *args, through=False, **options):
        seen.append((sample.requires_grad, torch.is_grad_enabled(), through))
        return denoise(sample, *args, through=through, **options)

    monkeypatch.setattr(prior, "denoise", spy)
    method, given = IGD(**SURROGATE), context(prior)
    final = method.make(given, Unit(0, (Slot(0, 0),)), method.prepare(given))
    assert seen == [(False,) * 3, (True,) * 3, (False,) * 3]
    assert not final.requires_grad


def test_an_image_depends_on_earlier_ones_of_its_class_alone(tiny_pipeline):
    given, method = context(DiTPrior(tiny_pipeline)), IGD(**SURROGATE, **STRONG)
    surrogate = method.prepare(given)
    whole = method.make(given, UNIT, surrogate)
    first = method.make(given, Unit(0, UNIT.slots[:1]), surrogate)
    assert torch.equal(whole[:1], first)
    own = Unit(0, tuple(slot for slot in UNIT.slots if slot.class_index == 2))
    torch.testing.assert_close(method.make(given, own, surrogate), whole[[0, 2, 4]], rtol=0, atol=1e-3)
    later = Unit(0, UNIT.slots[2:3])
    assert (method.make(given, later, surrogate) - whole[2:3]).abs().max() > 0.05


def test_in_a_sum_the_influence_acts_without_the_deviation(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    unit = Unit(0, (Slot(0, 0), Slot(2, 0), Slot(1, 0)))
    alone = Guided((Influence(**SURROGATE),))
    expected = IGD(**SURROGATE).make(given, unit, IGD(**SURROGATE).prepare(given))
    assert torch.equal(alone.make(given, unit, alone.prepare(given)), expected)


def test_energies_and_the_influence_share_one_graph(tiny_pipeline):
    """In one step, the effect of an energy on features at two places and that of the influence add."""
    given = context(DiTPrior(tiny_pipeline))
    unit = Unit(0, (Slot(0, 0), Slot(2, 0)))
    distance = KernelDistance(scale=5.0, at="sample", normalise=False)
    terms = [Influence(**SURROGATE, start=0.0, scale=60.0), distance, dataclasses.replace(distance, at="eps")]

    def after_first_step(method):
        return latents_by_step(method, given, unit)[1][0][0]

    def effect(*chosen):
        return after_first_step(Guided(chosen)) - after_first_step(DiT())

    singles = [effect(term) for term in terms]
    assert all(single.abs().amax((1, 2, 3)).min() > 1e-3 for single in singles)
    torch.testing.assert_close(effect(*terms), sum(singles), rtol=0, atol=2e-4)


def test_decoded_pixels_round_to_the_image_and_carry_the_gradient(tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    x = torch.randn((2, 4, 8, 8), generator=rng.generator("pixels")).requires_grad_()
    pixels = prior.decode_pixels(x)
    assert pixels.shape == (2, 1, 32, 32) and pixels.dtype == torch.float32
    vae = oracles.double(tiny_pipeline.vae)
    exact = vae.decode(x.detach().double() / vae.config.scaling_factor).sample
    torch.testing.assert_close(pixels.double(), exact, rtol=1e-4, atol=1e-4)
    rounded = (exact * 127.5 + 127.5).clamp(0, 255)
    assert (prior.decode(x).double() - rounded).abs().max() <= 0.51 and not prior.decode(x).requires_grad
    direction = torch.randn(x.shape, generator=rng.generator("direction")).double()
    (slope,) = torch.autograd.grad(pixels.square().sum(), x)

    def value(step):
        return vae.decode((x.detach().double() + step * direction) / vae.config.scaling_factor).sample.square().sum()

    difference = (value(1e-6) - value(-1e-6)) / 2e-6
    torch.testing.assert_close((slope.double() * direction).sum(), difference, rtol=1e-3, atol=0)


def test_presets_and_json():
    published = from_options(IGD, IGD.presets["paper"], "igd")
    assert dataclasses.replace(published, deviation=50.0) == IGD() and published.memory == 64
    table = {name: (get_method(f"igd:{name}").scale, get_method(f"igd:{name}").deviation) for name in IGD.presets}
    del table["fashion"]
    assert table == {
        "paper": (5, 120), "paper_ipc10": (5, 50), "minimax": (10, 100), "minimax_woof_ipc10": (10, 50),
        "minimax_nette": (15, 10),
    }  # fmt: skip
    assert (published.epochs, published.references, published.similarity) == (50, 200, 0.7)
    for options in IGD.presets.values():
        method = from_options(IGD, options, "igd")
        written = to_json(method)
        assert written.pop("name") == "igd" and from_options(IGD, written, "igd") == method
    term = Guided(({"name": "influence", "scale": 0.1},)).terms[0]
    assert term == Influence(scale=0.1)
    with pytest.raises(OptionError, match="terms add, methods do not"):
        Influence() + IGD()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, "scale: expected a number of at least 0, got -1.0"),
        ({"scale": math.nan}, "scale: expected a number of at least 0, got nan"),
        ({"deviation": math.inf}, "deviation: expected a number of at least 0, got inf"),
        ({"memory": 0}, "memory: expected a whole number of at least 1, got 0"),
        ({"start": 0.5, "stop": 0.4}, "window: expected 0 <= start <= stop <= 1, got start=0.5, stop=0.4"),
        ({"width": 0}, "width: expected a whole number of at least 1, got 0"),
    ],
    ids=str,
)
def test_options_are_checked(options, message):
    with pytest.raises(OptionError) as error:
        IGD(**options)
    assert message in str(error.value)
