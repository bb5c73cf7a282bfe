"""dmgd: the transport plan against SciPy's linear programs, one guided run against float64, and its options."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch
from conftest import grey_tree
from scipy.optimize import linprog

import dap
from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import OptionError
from dap.methods import DMGD, get_method
from dap.methods.base import Context, Slot, Unit
from dap.methods.dmgd import transport_plan
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings, Window

SETTINGS = SamplingSettings(num_inference_steps=4, guidance_scale=2.0, scheduler="ddpm")
SHAPES = [(1, 1), (1, 4), (3, 1), (5, 7), (10, 10)]


def problem(rows, columns, seed=0):
    draw = rng.generator(seed)
    masses = torch.rand(columns, generator=draw) + 0.1
    return torch.rand((rows, columns), generator=draw), masses / masses.sum()


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_margins_are_kept_and_the_plan_is_optimal(rows, columns):
    """Of all plans with these margins, the one whose cost and entropy cannot be lowered: a fixed point of scaling."""
    cost, masses = problem(rows, columns)
    plan = transport_plan(cost, masses, 0.1)
    np.testing.assert_allclose(plan.sum(1), np.full(rows, 1 / rows), atol=2e-6)
    np.testing.assert_allclose(plan.sum(0), masses, atol=1e-9)
    epsilon = 0.1 * float(cost.double().mean())
    potentials = epsilon * plan.log() + cost.double()  # a sum of a row's and a column's potential
    rest = potentials - potentials.mean(0) - potentials.mean(1)[:, None] + potentials.mean()
    assert float(rest.abs().max()) < 1e-9


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_little_entropy_gives_the_cost_of_the_linear_program(rows, columns):
    cost, masses = problem(rows, columns, 1)
    margins = np.zeros((rows + columns, rows * columns))
    for row in range(rows):
        margins[row, row * columns : (row + 1) * columns] = 1
    for column in range(columns):
        margins[rows + column, column::columns] = 1
    least = linprog(
        cost.double().numpy().ravel(), A_eq=margins, b_eq=[*np.full(rows, 1 / rows), *masses.double().numpy()]
    ).fun
    found = float((transport_plan(cost, masses, 0.02) * cost).sum())
    assert least - 1e-4 <= found <= least + 0.03


def test_equal_costs_share_everything():
    plan = transport_plan(torch.zeros(2, 3), torch.tensor([0.5, 0.25, 0.25]), 0.05)
    np.testing.assert_allclose(plan, [[0.25, 0.125, 0.125]] * 2, atol=1e-9)


@pytest.fixture
def context(tiny_pipeline, tmp_path):
    source, prior = open_source(grey_tree(tmp_path / "tree", 6, ("Bag", "Dress"))), DiTPrior(tiny_pipeline)
    return Context(
        source=source, classes=build_class_map(source, prior.labels), prior=prior, settings=SETTINGS, seed=3, ipc=3,
        size=32, channels=1,
    )  # fmt: skip


def test_each_step_moves_to_the_plans_means(context, tiny_pipeline):
    """DDPM's steps in float64, with a plan by plain scaling of exp(−C / ε)."""
    method = DMGD(scale=0.7, atoms=4, entropy=0.2, stop=0.5)
    modes = method.prepare(context)
    unit = Unit(0, tuple(Slot(index, number) for index in (0, 1) for number in range(3)))
    traced, seen = oracles.traced(context)
    method.make(traced, unit, modes)
    network, scheduler = oracles.double(tiny_pipeline.transformer), context.prior.scheduler("ddpm", 4)
    labels, draws = context.labels(unit), context.generators(unit)
    x = torch.stack([torch.randn((4, 8, 8), generator=draw) for draw in draws]).double()
    times = scheduler.timesteps.tolist()
    for step, t in enumerate(times):
        now = float(scheduler.alphas_cumprod[t])
        after = float(scheduler.alphas_cumprod[times[step + 1]]) if step + 1 < len(times) else 1.0
        with torch.no_grad():
            eps, _ = oracles.noise_estimate(network, x, t, labels, 2.0)
        x0 = (x - (1 - now) ** 0.5 * eps) / now**0.5
        beta = 1 - now / after
        std = (beta * (1 - after) / (1 - now)) ** 0.5 if after < 1 else 0.0
        if step < 2:
            for index, name in enumerate(("Bag", "Dress")):
                rows, centers = x0[3 * index : 3 * index + 3].flatten(1), modes.latents[name].flatten(1).double()
                masses = torch.tensor(modes.sizes[name]).double() / 6
                plan = scaled(((rows[:, None] - centers) ** 2).sum(2) / 2, masses, 0.2)
                x0[3 * index : 3 * index + 3] += 0.7 * std * (3 * plan @ centers - rows).view(3, 4, 8, 8)
            eps = (x - now**0.5 * x0) / (1 - now) ** 0.5
        mean = after**0.5 * beta / (1 - now) * x0 + (now / after) ** 0.5 * (1 - after) / (1 - now) * x
        noise = torch.stack([torch.randn((4, 8, 8), generator=draw) for draw in draws]).double() if after < 1 else 0.0
        x = mean + std * noise
        torch.testing.assert_close(seen[step], x, rtol=0, atol=1e-4)


def scaled(cost, masses, entropy):
    kernel = torch.exp(-cost / (entropy * cost.mean()))
    u = torch.ones(len(cost), dtype=torch.float64)
    for _ in range(3000):
        v = masses / (kernel.T @ u)
        u = 1 / len(cost) / (kernel @ v)
    return u[:, None] * kernel * v


def test_runs_resume_add_and_take_few_images(tiny_pipeline, tmp_path):
    tree = grey_tree(tmp_path / "tree", 6, ("Bag", "Dress"))
    settings = {"ipc": 3, "num_inference_steps": 4, "progress": False, "prior": DiTPrior(tiny_pipeline)}
    made = dap.distill(tree, method="dmgd", out=tmp_path / "run", **settings)
    (tmp_path / "run" / made.files[1]).unlink()
    again = dap.distill(tree, method="dmgd", out=tmp_path / "run", **settings)
    assert torch.equal(made.to_torch()[0], again.to_torch()[0])
    assert sum(made.manifest["record"]["sizes"]["Bag"]) == 6 and len(made.manifest["record"]["sizes"]["Bag"]) == 6
    alone = dap.distill(tree, method=dap.terms.Transport(), out=tmp_path / "alone", **settings)
    assert torch.equal(made.to_torch()[0], alone.to_torch()[0])
    sums = dap.distill(tree, method=dap.terms.Transport() + dap.terms.Mode(), out=tmp_path / "sum", **settings)
    assert not torch.equal(made.to_torch()[0], sums.to_torch()[0])
    still = dap.distill(tree, method="dmgd", method_options={"scale": 0}, out=tmp_path / "still", **settings)
    plain = dap.distill(tree, method="dit", out=tmp_path / "plain", **settings)
    assert torch.equal(still.to_torch()[0], plain.to_torch()[0])


def test_the_published_window_is_step_4_to_19_from_the_noisiest():
    """30 to 45 of 50, counted from the least noise, and ten centres a class."""
    method = get_method("dmgd:window")
    window = Window(method.start, method.stop)
    assert [49 - step for step in range(50) if window.contains(step, 50)] == list(range(45, 29, -1))
    assert method.atoms == 10 and DMGD.sampled_by == {"window": "dit-repo"}


@pytest.mark.parametrize("wrong", [{"atoms": 0}, {"entropy": 0.0}, {"scale": -1.0}, {"stop": 1.5}])
def test_wrong_options(wrong):
    with pytest.raises(OptionError):
        get_method("dmgd", wrong)
