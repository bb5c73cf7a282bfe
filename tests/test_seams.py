"""What users extend is checked when it is made; jobs travel; runs draw only what is missing."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import test_dap
import tiny
import torch
from PIL import Image
from test_terms_in_steps import Affine, run_affine
from test_text_priors import METHODS

import dap
from dap import dataset
from dap.errors import DivergedError, OptionError
from dap.methods import TERMS, DiT, Guide, Guided, Method, Random, SingleGuide
from dap.methods.common.registry import METHODS as METHOD_TABLE
from dap.priors import NoPrior, load_prior
from dap.priors.dit import DiTPrior
from dap.run import Request, local, resolve
from dap.run.header import header_of
from dap.run.progress import Progress
from dap.sampling import DeltaTerm, EnergyTerm, Needs, Place, SamplingSettings, Term, Window, steps_taken

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


# --- jobs -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes of four grey 32 x 32 images."""
    folder, draw = tmp_path_factory.mktemp("tree"), np.random.default_rng(0)
    for name in ("Bag", "Dress"):
        (folder / name).mkdir()
        for number in range(4):
            Image.fromarray(draw.integers(0, 256, (32, 32), np.uint8)).save(folder / name / f"{number}.png")
    return folder


REBUILD = """
import json, pickle, sys
from dap.run.header import header_of
for job in pickle.load(sys.stdin.buffer):
    print(json.dumps(header_of(job)))
"""


def test_a_job_travels_to_a_fresh_process_with_the_same_header(tree, tiny_folder, tmp_path):
    prior = str(tiny_folder)
    index = dap.build_index(tree, prior=prior, num_inference_steps=4, out=tmp_path / "index", progress=False)
    requests = [
        Request(source=tree, prior=prior, method="dap:paper", method_options={"references": 2}, ipc=2, seed=3, eta=0.5,
                scheduler="ddim", num_inference_steps=4, classes=["Dress"], dtype=torch.bfloat16, device="cpu"),
        Request(source=str(tree), method="random", prior="/nowhere", seed=1, ipc=2),
        Request(index=index, prior=prior, method=dap.terms.Mode() + dap.terms.KernelDistance(), ipc=3),
        Request(index=str(tmp_path / "index"), source=tree, prior=prior, num_inference_steps=4),
    ]  # fmt: skip
    jobs = [resolve(request) for request in requests]
    headers = [json.loads(json.dumps(header_of(job))) for job in jobs]
    assert headers[0]["options"]["sampling"]["eta"] == 0.5 and headers[0]["options"]["dtype"] == "torch.bfloat16"
    assert headers[1]["prior"] is headers[1]["index"] is None
    assert headers[2]["index"]["sha256"] == headers[3]["index"]["sha256"] == index.hash
    data = pickle.dumps(jobs)
    assert len(data) < 10_000, "options travel, neither images nor weights"
    for job, again in zip(jobs, pickle.loads(data), strict=True):
        assert header_of(again) == header_of(job)
        assert (again.recipe, again.settings, again.classes) == (job.recipe, job.settings, job.classes)
    ended = subprocess.run(
        [sys.executable, "-c", REBUILD], input=data, capture_output=True, timeout=500, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(dap.__file__).parents[1])},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr.decode()
    assert [json.loads(line) for line in ended.stdout.splitlines()] == headers


def test_a_run_of_real_images_needs_no_prior(tree, tmp_path):
    job = resolve(Request(source=tree, method="random", prior="/nowhere", ipc=2))
    assert isinstance(job.prior, NoPrior) and not job.samples
    assert job.prior.image_shape == (1, 32, 32)
    assert job.recipe.steps_per_slot(job.context()) == 0
    assert len(dap.distill(tree, method="random", prior="/nowhere", ipc=2, out=tmp_path / "out")) == 4
    with pytest.raises(OptionError, match="'prior'"):
        job.context().num_steps()


@dataclass(frozen=True)
class Forgetful(DiT):
    """It samples from the prior and does not say so."""

    name: ClassVar[str] = "forgetful"
    needs: ClassVar[tuple[str, ...]] = ()


def test_a_method_that_samples_without_saying_so_is_told_what_to_add(tree, tmp_path):
    with pytest.raises(OptionError, match="add 'prior' to the needs of the method"):
        dap.distill(tree, method=Forgetful(), ipc=1, out=tmp_path / "out", progress=False)


# --- the progress bar -------------------------------------------------------------------------------------------------


def test_heun_runs_99_steps_for_50(tiny_pipeline):
    prior = DiTPrior(tiny_pipeline)
    given = test_dap.context(prior, scheduler="heun", num_inference_steps=50)
    assert DiT().steps_per_slot(given) == given.num_steps() == steps_taken(prior, given.settings) == 99
    assert steps_taken(prior, dataclasses.replace(given.settings, scheduler="ddim")) == 50
    assert DiT().steps_per_slot(dataclasses.replace(given, settings=SamplingSettings(num_inference_steps=7))) == 7


@pytest.fixture
def totals(monkeypatch):
    """The totals of the progress bars that runs open."""
    seen = []

    class Recorded(Progress):
        def making(self, title, total):
            seen.append(total)
            return super().making(title, total)

    monkeypatch.setattr(local, "Progress", Recorded)
    return seen


REAL = {"random": {}, "herding": {}, "k_center": {}}
CANDIDATES = {"dap_set:several": {"references": 4, "candidates": 3}}


@pytest.mark.parametrize("scheduler", [None, "heun"])
@pytest.mark.parametrize("method", METHODS | REAL | CANDIDATES)
def test_the_total_of_the_bar_is_the_number_of_steps_that_the_callback_sees(
    method, scheduler, totals, photographs, tmp_path
):
    counted = []
    dap.distill(
        photographs, prior=load_prior(tiny.stable_diffusion()), out=tmp_path / "out", ipc=2, num_inference_steps=4,
        method=method.split(",")[0].removesuffix(":several"), scheduler=scheduler, progress=False,
        method_options=(METHODS | REAL | CANDIDATES)[method],
        callback_on_step_end=lambda *call: counted.append(len(call[3]["latents"])) or call[3],
    )  # fmt: skip
    assert totals == [sum(counted)]
    assert (sum(counted) > 0) == (method not in REAL and method != "k_medoids")


# --- what a run makes again -------------------------------------------------------------------------------------------


def test_a_finished_run_draws_nothing_again_and_a_missing_sheet_is_drawn(tree, tmp_path, monkeypatch):
    options = {"method": "random", "ipc": 2, "out": tmp_path / "out", "progress": False}
    dap.distill(tree, **options)
    files = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*")}
    sheet = tmp_path / "out" / "contact_sheet.png"
    drawn = sheet.read_bytes()

    def refuse(*_arguments):
        raise AssertionError("the run is finished")

    monkeypatch.setattr(Random, "prepare", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "source_sheet", refuse)
        assert len(dap.distill(tree, **options)) == 4
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*")} == files
    sheet.unlink()
    dap.distill(tree, **options)
    assert sheet.read_bytes() == drawn
    assert {
        path for path in files if path != sheet and path.is_file() and path.stat().st_ino != files[path][0]
    } == set()


def test_growth_that_is_refused_leaves_the_folder_as_it_was(tree, tmp_path):
    options = {"method": "random", "out": tmp_path / "out", "progress": False}
    dap.distill(tree, ipc=2, **options)
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert tmp_path / "out" / "contact_sheet.png" in files
    with pytest.raises(OptionError, match="has 4 images, fewer than ipc=5"):
        dap.distill(tree, ipc=5, **options)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == files
