"""cgs: its energy and gradient against sums in float64, the guided step, runs and options."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import grey_tree

import dap
from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import OptionError
from dap.features import real_latents
from dap.methods import CGS, get_method
from dap.methods.base import Context, Slot, Unit
from dap.methods.cgs import class_energy
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings, StepState


def energy_of(x, mean, spread, repulsion):
    """e, number by number, with the determinant by NumPy."""
    count = len(x)
    middle = [sum(column) / count for column in zip(*x, strict=True)]
    pull = count / (2 * spread) * sum((a - b) ** 2 for a, b in zip(middle, mean, strict=True))
    if count == 1:
        return pull
    kernel = [
        [math.exp(-sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) / (2 * spread)) for other in x]
        for one in x
    ]
    return pull - repulsion / 2 * math.log(np.linalg.det(np.array(kernel) + 0.1 * np.eye(count)))


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("repulsion", [0.0, 0.7])
def test_energy_and_gradient(count, size, repulsion):
    draw = rng.generator(count)
    x, mean = torch.randn((count, size), generator=draw).double(), torch.randn(size, generator=draw).double()
    x.requires_grad_()
    energy = class_energy(x, mean, 3.0, repulsion)
    assert float(energy.detach()) == pytest.approx(energy_of(x.tolist(), mean.tolist(), 3.0, repulsion), rel=1e-9)
    (gradient,) = torch.autograd.grad(energy, x)
    step = 1e-5
    for row in range(count):
        for column in range(size):
            values = []
            for sign in (1, -1):
                moved = x.detach().clone()
                moved[row, column] += sign * step
                values.append(energy_of(moved.tolist(), mean.tolist(), 3.0, repulsion))
            assert float(gradient[row, column]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-6)


def test_equal_slots_have_a_finite_push():
    x = torch.ones(3, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(class_energy(x, torch.zeros(4, dtype=torch.float64), 1.0, 1.0), x)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))  # of the mean alone


@pytest.fixture
def context(tiny_pipeline, tmp_path):
    source, prior = open_source(grey_tree(tmp_path / "tree", 6, ("Bag", "Dress"))), DiTPrior(tiny_pipeline)
    return Context(
        source=source, classes=build_class_map(source, prior.labels), prior=prior,
        settings=SamplingSettings(num_inference_steps=4), seed=3, ipc=3, size=32, channels=1,
    )  # fmt: skip


def test_a_step_moves_each_class_by_its_own_mean(context):
    method = CGS(repulsion=0.0)
    unit = Unit(0, (Slot(1, 0), Slot(0, 0), Slot(1, 1), Slot(1, 2)))
    term = method.term(context, unit, method.prepare(context))
    x0 = torch.randn((4, 4, 8, 8), generator=rng.generator(0))
    state = StepState(
        step=0, num_steps=4, timestep=900, alpha=0.5, sigma=0.8, std=0.3, sample=x0, eps=x0, x0=x0,
        labels=context.labels(unit), features={},
    )  # fmt: skip
    moves, real = term.delta(state).double(), real_latents(context.source, context.classes, context.prior)
    for name, places in (("Bag", [1]), ("Dress", [0, 2, 3])):
        latents = real.of_class(name).double()
        expected = 0.3 * (latents.mean(0) - x0[places].double().mean(0))
        for place in places:
            torch.testing.assert_close(moves[place], expected, rtol=0, atol=1e-5)
        spread = latents.flatten(1).var(0).sum()
        found = next(center for center in term.classes if center.places.tolist() == places)
        assert found.spread == pytest.approx(float(spread), rel=1e-5)
    with_push = CGS(repulsion=2.0).term(context, unit, method.prepare(context))
    more = with_push.delta(state).double() - moves
    own = x0[[0, 2, 3]].flatten(1).double().requires_grad_()
    center = with_push.classes[1] if len(with_push.classes[1].places) == 3 else with_push.classes[0]
    push = class_energy(own, center.mean.double(), center.spread, 2.0) - class_energy(
        own, center.mean.double(), center.spread, 0.0
    )
    (gradient,) = torch.autograd.grad(push, own)
    torch.testing.assert_close(more[[0, 2, 3]].flatten(1), -0.3 * center.spread * gradient, rtol=0, atol=1e-5)
    assert more[1].abs().max() == 0


def test_runs_resume_and_add(tiny_pipeline, tmp_path):
    tree = grey_tree(tmp_path / "tree", 6, ("Bag", "Dress"))
    settings = {"ipc": 3, "num_inference_steps": 4, "progress": False, "prior": DiTPrior(tiny_pipeline)}
    made = dap.distill(tree, method="cgs", out=tmp_path / "run", **settings)
    (tmp_path / "run" / made.files[1]).unlink()
    again = dap.distill(tree, method="cgs", out=tmp_path / "run", **settings)
    assert torch.equal(made.to_torch()[0], again.to_torch()[0])
    alone = dap.distill(tree, method=dap.terms.ClassMean(), out=tmp_path / "alone", **settings)
    assert torch.equal(made.to_torch()[0], alone.to_torch()[0])
    still = dap.distill(tree, method="cgs", method_options={"scale": 0}, out=tmp_path / "still", **settings)
    plain = dap.distill(tree, method="dit", out=tmp_path / "plain", **settings)
    assert torch.equal(still.to_torch()[0], plain.to_torch()[0])
    single = grey_tree(tmp_path / "single", 1, ("Bag", "Dress"))
    with pytest.raises(OptionError, match="has 1 image"):
        dap.distill(single, method="cgs", out=tmp_path / "refused", **settings | {"ipc": 1})


@pytest.mark.parametrize("wrong", [{"repulsion": -1.0}, {"scale": -1.0}, {"start": 0.9}])
def test_wrong_options(wrong):
    with pytest.raises(OptionError):
        get_method("cgs", wrong)
