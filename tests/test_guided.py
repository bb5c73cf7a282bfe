"""Terms that add: their sum as a method, its JSON, its one backward pass, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar

import oracles
import pytest
import test_dap
import torch

import dap
from dap.config import from_options, to_json
from dap.errors import OptionError
from dap.methods import DAP, TERMS, DAPSet, DiT, Guide, Guided, Random, SingleGuide, get_method
from dap.priors.dit import DiTPrior
from dap.sampling import DeltaTerm, Window
from dap.terms import KernelDistance, SetEnergy

UNIT, context, make = test_dap.UNIT, test_dap.context, test_dap.make


@dataclass(frozen=True, kw_only=True)
class PushTerm(DeltaTerm):
    """A constant change of what it acts on; it notes the steps in which it was asked."""

    asked: list[int]

    def delta(self, state):
        self.asked.append(state.step)
        return torch.ones_like(state.x0)


@dataclass(frozen=True)
class Push(Guide):
    name: ClassVar[str] = "push"
    scale: float = 0.1
    start: float = 0.0
    stop: float = 1.0
    at: str = "x0"
    asked: list[int] = dataclasses.field(default_factory=list)

    def prepare(self, context):
        return "made once"

    def term(self, context, unit, artefact):
        assert artefact == "made once"
        return PushTerm(at=self.at, window=Window(self.start, self.stop), scale=self.scale, asked=self.asked)

    def record(self, context, artefact):
        return {"push": artefact}


def test_terms_add_in_order_and_a_sum_is_a_method():
    a, b, c = SetEnergy(space="features"), KernelDistance(), SetEnergy(space="latent")
    for total in (a + b + c, a + (b + c), Guided((a, b)) + c, a + Guided((b, c)), Guided((a, b)) + Guided((c,))):
        assert total == Guided((a, b, c)) and total.terms == (a, b, c)
    assert get_method(a) == Guided((a,)) and get_method(a + b) == Guided((a, b))
    assert get_method("guided", {"terms": [to_json(a), b]}) == a + b
    assert (Guided.couples, Guided.needs) == ("class", ("prior", "labels"))


def test_a_sum_goes_to_json_and_back():
    total = SetEnergy(
        space="features", scale=0.2, kernel={"name": "rbf", "bandwidth": 2.0}, paired=True
    ) + KernelDistance(stop=0.5)
    values = json.loads(json.dumps(to_json(total)))
    assert values.pop("name") == "guided"
    assert [term["name"] for term in values["terms"]] == ["set_energy", "kernel_distance"]
    assert values["terms"][0]["kernel"] == {"name": "rbf", "bandwidth": 2.0} and values["terms"][1]["stop"] == 0.5
    assert from_options(Guided, values, "guided") == total


@pytest.mark.parametrize("scheduler", ["ddpm", "dpm++"])
def test_a_sum_of_one_is_the_single_method_to_the_bit(tiny_pipeline, scheduler):
    given = context(DiTPrior(tiny_pipeline), scheduler=scheduler)
    plain = make(DiT(), given)
    pairs = (
        (KernelDistance(), DAP()),
        (SetEnergy(space="features"), DAPSet(space="features")),
        (SetEnergy(space="latent"), DAPSet(space="latent")),
    )
    for term, method in pairs:
        made = make(Guided((term,)), given)
        assert torch.equal(made, make(method, given)) and not torch.equal(made, plain)
    nothing = SetEnergy(scale=0.0) + KernelDistance(scale=0.0) + Push(scale=0.0)
    assert torch.equal(make(nothing, given), plain)


def test_energies_at_one_place_share_one_backward_pass(tiny_pipeline, monkeypatch):
    given = context(DiTPrior(tiny_pipeline))
    count = []
    grad = torch.autograd.grad

    def counting(outputs, inputs, **options):
        count.append(1)
        return grad(outputs, inputs, **options)

    def passes(method):
        artefact = method.prepare(given)
        count.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch.autograd, "grad", counting)
            method.make(given, UNIT, artefact)
        return len(count)

    both = SetEnergy(space="features") + KernelDistance(block=2)
    assert passes(DAP()) == passes(both) == 3, "one for each of three steps, whatever the number of terms"
    assert passes(both + SetEnergy(space="features", kernel="rbf", scale=0.1)) == 3
    assert passes(SetEnergy(space="features") + KernelDistance(at="sample")) == 6, "two places"
    assert passes(SetEnergy(space="features", stop=0.5) + KernelDistance(stop=0.3)) == 2, "none where none acts"


class SumOracle(test_dap.Oracle):
    """Two kernel distances, each by the oracle of one, and a constant change of x̂_0 in the last two of three steps."""

    def __init__(self, pipeline, guides, push, given, records):
        super().__init__(pipeline, dataclasses.replace(DAP(), scale=1.0), given, records[0]["references"])
        pairs = zip(guides, records, strict=True)
        self.parts = [test_dap.Oracle(pipeline, guide, given, own["references"]) for guide, own in pairs]
        for part in self.parts:
            part.start = None
        self.push, self.step = push, 0

    def gradient(self, x, eps, t, now, after):
        total = torch.zeros_like(x)
        for part in self.parts:
            if part.method.start * 3 <= self.step < part.method.stop * 3:
                total += part.method.scale * part.gradient(x, eps, t, now, after)
        if self.push.start * 3 <= self.step < self.push.stop * 3:
            total -= now**0.5 / (1 - now) * self.push.scale  # ε for x̂_0, over the √(1 − ᾱ_t) that the chain puts on it
        self.step += 1
        return total


def test_each_term_keeps_its_window_and_scale(tiny_pipeline):
    given, ours = oracles.traced(context(DiTPrior(tiny_pipeline)))
    guides = (KernelDistance(scale=2.0, stop=0.4), KernelDistance(scale=5.0, start=0.3, block=2, kernel="rbf"))
    push = Push(scale=0.05, start=0.5)
    total = guides[0] + guides[1] + push
    artefact = total.prepare(given)
    total.make(given, UNIT, artefact)
    assert push.asked == [2]
    records = total.record(given, artefact)["terms"]
    assert records[2] == {"push": "made once"} and [each["block"] for each in records[:2]] == [1, 2]
    expected = SumOracle(tiny_pipeline, guides, push, given, records[:2]).chain()
    for mine, exact in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=0, atol=5e-5)
    for change in ({"scale": 1.0}, {"stop": 0.3}):
        changed = (dataclasses.replace(guides[0], **change), guides[1])
        other = SumOracle(tiny_pipeline, changed, push, given, records[:2]).chain()
        assert max((mine - each).abs().max() for mine, each in zip(ours, other, strict=True)) > 1e-3


@pytest.mark.parametrize("at", ["eps", "x0", "sample"])
def test_changes_at_one_place_add(tiny_pipeline, at):
    given = context(DiTPrior(tiny_pipeline), scheduler="ddim")
    window = {"start": 0.5, "at": at}
    plain, once = make(DiT(), given), make(Guided((Push(0.3, **window),)), given)
    halves = make(Push(0.1, **window) + Push(0.2, **window), given)
    torch.testing.assert_close(halves, once, rtol=0, atol=1e-5)
    assert (once - plain).abs().min() > 1e-3
    now, after = oracles.cumulative_products(given.prior.scheduler("ddim", 3))[-1]
    assert after == 1.0
    slope = {"x0": 1.0, "sample": 1.0, "eps": -(((1 - now) / now) ** 0.5)}[at]  # the last step gives x̂_0
    torch.testing.assert_close(once - plain, torch.full_like(plain, 0.3 * slope), rtol=1e-2, atol=1e-5)


def test_the_order_is_that_of_the_first_term_that_has_one(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    images = torch.from_numpy(test_dap.images()[:4, None])
    kernel = KernelDistance(references=2)
    for total, expected in ((Push() + kernel, kernel), (Guided((Push(),)), None)):
        artefact = total.prepare(given)
        found = total.order(given, artefact, 0, images)
        assert found == (None if expected is None else expected.order(given, expected.prepare(given), 0, images))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Guided(()), "terms: expected at least one of dap.terms; without any it is the method 'dit'"),
        (lambda: Guided(3), "terms: expected a list of terms, got 3"),
        (lambda: Guided("set_energy"), "terms: expected a list of terms, got 'set_energy'"),
        (lambda: Guided({"name": "set_energy"}), "terms: expected a list of terms"),
        (lambda: SetEnergy(space="features") + DAP(), "terms add, methods do not: take the term of DAP from dap.terms"),
        (lambda: DAPSet() + SetEnergy(space="features"), "terms add, methods do not: take the term of DAPSet"),
        (lambda: SetEnergy(space="features") + Random(), "take the term of Random"),
        (lambda: Guided(({"name": "set_enery"},)), "unknown term 'set_enery'; did you mean 'set_energy'?"),
        (lambda: Guided(({"scale": 1.0},)), "unknown term None"),
        (lambda: Guided(({"name": "set_energy", "scal": 1.0},)), "'scal'; did you mean 'scale'"),
        (lambda: get_method("guided", {"term": []}), "unknown option of method 'guided' 'term'; did you mean 'terms'"),
        (lambda: get_method("guided"), "terms: expected at least one"),
        (
            lambda: get_method(SetEnergy(space="features") + KernelDistance(), {"scale": 1.0}),
            "method_options: they go into the method object, leave them out beside one",
        ),
    ],
    ids=range(13),
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(OptionError) as caught:
        wrong()
    assert message in str(caught.value)


def test_every_term_by_name_with_its_defaults():
    for name in TERMS:
        guide = TERMS[name]()
        assert Guided(({"name": name},)).terms == (guide,)
        assert Guided((to_json(guide),)).terms == (guide,)
        assert not isinstance(guide, SingleGuide) and getattr(dap.terms, type(guide).__name__) is type(guide)
