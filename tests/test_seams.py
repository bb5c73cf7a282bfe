"""What users extend is checked when it is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest
import tiny
import torch
from test_terms_in_steps import Affine, run_affine

import dap
from dap.errors import DivergedError, OptionError
from dap.methods import TERMS, Guide, Guided, Method, SingleGuide
from dap.methods.common.registry import METHODS as METHOD_TABLE
from dap.sampling import DeltaTerm, EnergyTerm, Needs, Place, Term, Window

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


# --- terms ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Length(EnergyTerm):
    """Half the squared length of x_t, multiplied by what a test wants to spoil."""

    factor: float = 1.0

    def energy(self, state):
        return self.factor * (state.sample**2).flatten(1).sum(1) / 2


@dataclass(frozen=True, kw_only=True)
class Shift(DeltaTerm):
    def delta(self, state):
        return torch.ones_like(state.sample)


@pytest.mark.parametrize("kind", [Length, Shift])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": "epsilon"}, "unknown at of term {} 'epsilon'; did you mean 'eps'? Known: eps, sample, x0"),
        ({"at": None}, "unknown at of term {} None"),
        ({"needs": "feature"}, "unknown needs of term {} 'feature'; did you mean 'features'"),
        ({"needs": "features"}, "taps of term {}: it needs features and names no block"),
        ({"taps": frozenset({1})}, "needs of term {}: it has taps, so it has to be 'features' or 'denoiser'"),
        (
            {"needs": "features", "taps": {1}},
            "taps of term {}: expected a frozenset of block numbers from 1, got {{1}}",
        ),
        ({"needs": "features", "taps": frozenset({0})}, "taps of term {}: expected a frozenset of block numbers"),
        ({"needs": "features", "taps": frozenset({True})}, "taps of term {}: expected a frozenset of block numbers"),
        ({"scale": "high"}, "scale of term {}: expected a number, got 'high'"),
        ({"scale": float("nan")}, "scale of term {}: expected a number, got nan"),
        ({"window": (0.0, 1.0)}, "window of term {}: expected a dap.sampling.Window, got (0.0, 1.0)"),
    ],
    ids=str,
)
def test_a_term_with_an_invalid_field_is_refused_when_it_is_made(kind, options, message):
    with pytest.raises(OptionError) as caught:
        kind(**options)
    assert message.format(kind.__name__) in str(caught.value)


def test_normalise_is_a_bool_that_only_an_energy_has():
    with pytest.raises(OptionError, match="normalise of term Length: expected a bool, got 1"):
        Length(normalise=1)
    with pytest.raises(TypeError, match="normalise"):
        Shift(normalise=True)


@pytest.mark.parametrize(("base", "part"), [(EnergyTerm, "energy"), (DeltaTerm, "delta")])
def test_a_term_without_its_function_is_refused_when_it_is_made(base, part):
    @dataclass(frozen=True, kw_only=True)
    class Half(base):
        strength: float = 1.0

    with pytest.raises(OptionError, match=f"^term Half lacks {part}$"):
        Half()


@dataclass(frozen=True)
class Duck:
    """All that a term has, but for its base class."""

    at: Place = "sample"
    needs: Needs = "nothing"
    taps: frozenset[int] = frozenset()
    window: Window = field(default_factory=Window)
    scale: float = 1000.0

    def energy(self, state):
        return (state.sample**2).flatten(1).sum(1)


@dataclass(frozen=True, kw_only=True)
class Neither(Term):
    pass


@dataclass(frozen=True, kw_only=True)
class Unchecked(Shift):
    at: Place = "epsilon"

    def __post_init__(self):
        pass


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (Duck(), "terms: expected subclasses of dap.sampling.EnergyTerm or DeltaTerm, got Duck"),
        (Neither(), "terms: expected subclasses of dap.sampling.EnergyTerm or DeltaTerm, got Neither"),
        (Length, "terms: expected subclasses of dap.sampling.EnergyTerm or DeltaTerm, got "),
        (Unchecked(), "unknown at of term Unchecked 'epsilon'"),
    ],
    ids=["duck", "neither", "class", "unchecked"],
)
def test_the_loop_refuses_what_is_no_term_before_the_first_step(term, message):
    prior, calls = Affine(), []
    with pytest.raises(OptionError) as caught:
        run_affine([Shift(), term], prior=prior, callback_on_step_end=lambda *call: calls.append(call) or call[-1])
    assert message in str(caught.value)
    assert prior.seen == calls == []


def wrong(term, change):
    """A term of the same class name whose value is changed."""
    part = "energy" if isinstance(term, EnergyTerm) else "delta"
    right = getattr(type(term), part)
    parts = {part: lambda self, state: change(right(self, state))}
    kind = dataclass(frozen=True, kw_only=True)(type("Wrong", (type(term),), parts))
    return kind(**{entry.name: getattr(term, entry.name) for entry in dataclasses.fields(term)})


@pytest.mark.parametrize("term", [Length(at="sample"), Shift(at="x0")], ids=["energy", "delta"])
@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda value: value.sum(), OptionError, "has to return shape {shape}, got ()"),
        (lambda value: value[:1], OptionError, "has to return shape {shape}, got (1, "),
        (lambda value: value[None], OptionError, "has to return shape {shape}, got (1, 2"),
        (lambda value: 0.0, OptionError, "has to return shape {shape}, got float"),
        (lambda value: value * float("nan"), DivergedError, "is not finite in the first step in which it acts"),
        (lambda value: value / 0, DivergedError, "is not finite in the first step in which it acts"),
        (lambda value: value / torch.arange(2.0).view(-1, *[1] * (value.dim() - 1)), DivergedError, "is not finite"),
    ],
    ids=["sum", "one slot", "one axis more", "number", "nan", "infinity", "one of two"],
)
def test_a_wrong_value_is_refused_at_the_first_guided_step_and_names_the_term(term, change, kind, message):
    prior = Affine()
    late = dataclasses.replace(wrong(term, change), window=Window(0.5, 1.0))
    part, shape = ("energy", (2,)) if isinstance(term, EnergyTerm) else ("delta", (2, 2, 3, 3))
    with pytest.raises(kind) as caught:
        run_affine([late], steps=6, prior=prior)
    assert f"term Wrong: {part} " in str(caught.value)
    message = message.format(shape=shape)
    assert message.replace("(1, ", "(1,") in str(caught.value).replace("(1, ", "(1,")
    assert len(prior.seen) == 4, "step 3 of 6 is the first guided one"


def test_a_term_without_normalise_acts():
    """An energy that did not say whether to normalise was left out, whatever its scale."""
    plain = run_affine([])
    guided = run_affine([Length(at="sample", scale=1e-2)])
    assert (guided - plain).abs().max() > 1e-2
    assert guided.norm() < plain.norm()
    strong = run_affine([Length(at="sample", scale=1000.0)], steps=2)
    assert not torch.equal(strong, run_affine([], steps=2))


# --- guides, methods, priors ------------------------------------------------------------------------------------------

GUIDE = {
    "name": "shift", "prepare": lambda self, context: None, "record": lambda self, context, artefact: {},
    "term": lambda self, context, unit, artefact: Shift(),
}  # fmt: skip
METHOD = {
    "name": "shifted", "paper": "none", "year": None, "couples": "slot", "needs": ("prior",), "presets": {},
    "prepare": lambda self, context: None, "record": lambda self, context, artefact: {},
    "make": lambda self, context, unit, artefact: context.sample(unit),
}  # fmt: skip


def build(base, parts, *left_out):
    return dataclass(frozen=True)(type("Built", (base,), {k: v for k, v in parts.items() if k not in left_out}))


@pytest.mark.usefixtures("own_tables")
@pytest.mark.parametrize("part", GUIDE)
def test_a_guide_that_lacks_a_part_is_refused_when_made_or_registered(part):
    cls = build(Guide, GUIDE, part)
    with pytest.raises(OptionError, match=f"^guide Built lacks {part}$"):
        cls()
    with pytest.raises(OptionError, match=f"^guide Built lacks {part}$"):
        TERMS.register("built")(cls)
    assert "built" not in TERMS
    TERMS.register("built")(build(Guide, GUIDE))
    assert Guided(({"name": "built"},)).terms == (TERMS["built"](),)


@pytest.mark.usefixtures("own_tables")
@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (3, "guide: expected a subclass of Guide, got 3"),
        (Shift, "guide: expected a subclass of Guide, got Shift"),
        (dap.methods.DAP, "guide DAP: it is a method; register it with dap.register_method"),
        (type("Bare", (Guide,), GUIDE), "guide Bare: write @dataclass(frozen=True) directly above the class"),
    ],
    ids=["value", "term", "method", "no dataclass"],
)
def test_what_is_no_guide_is_not_registered_as_a_term(thing, message):
    with pytest.raises(OptionError) as caught:
        TERMS.register("built")(thing)
    assert message in str(caught.value) and "built" not in TERMS


@pytest.mark.usefixtures("own_tables")
@pytest.mark.parametrize("part", METHOD)
def test_a_method_that_lacks_a_part_is_refused_when_made_or_registered(part):
    cls = build(Method, METHOD, part)
    for refused in (cls, lambda: dap.register_method(cls)):
        with pytest.raises(OptionError, match=f"^method Built lacks {part}$"):
            refused()
    assert "shifted" not in METHOD_TABLE
    assert build(Method, METHOD)().order(None, None, 0, None) is None
    assert build(Method, METHOD)().files(None, None) == {}


def test_a_method_of_one_guide_lacks_what_the_guide_lacks():
    guide = type("Half", (Guide,), {"name": "half", "term": GUIDE["term"]})
    with pytest.raises(OptionError, match=r"^method Whole lacks paper, year, presets, prepare, record$"):
        dataclass(frozen=True)(type("Whole", (guide, SingleGuide), {"name": "whole"}))()


def test_a_prior_that_lacks_a_part_is_refused_when_it_is_made():
    class Half(tiny.StubPrior):
        denoise = dap.priors.Prior.denoise

    with pytest.raises(OptionError, match=r"^prior Half: lacks denoise"):
        Half()
