"""ManifoldGD: whole steps against a float64 oracle with a full covariance, the order of its modes, and limits."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import oracles
import pytest
import torch
from test_mgd3 import NAMES, SEED, UNIT, context, make, means_of_groups, trace

from dap import rng
from dap.errors import OptionError
from dap.methods import DiT, Guided, Slot, Unit
from dap.methods.manifold_gd import Cloud, ManifoldGD, ManifoldMode, by_level
from dap.methods.mgd3 import MGD3
from dap.priors.dit import DiTPrior
from dap.sampling import StepState, Window

# diffusers meets numpy 2 here
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (4, 8, 8)


def leaves(vae, start_level):
    """Modes of each class in the order of its slots: the best first split of three groups, by trying all three."""
    found = {}
    for name, groups in means_of_groups(vae).items():
        sizes = [size for size, _, _ in groups]
        means = [mean.flatten() for _, mean, _ in groups]

        def between(pair, sizes=sizes, means=means):
            """The inertia that a pair of groups has for being one cluster."""
            i, j = pair
            return sizes[i] * sizes[j] / (sizes[i] + sizes[j]) * float(((means[i] - means[j]) ** 2).sum())

        deep = min(itertools.combinations(range(3), 2), key=between)
        (shallow,) = set(range(3)) - set(deep)
        first, second = sorted(deep, key=lambda group: -sizes[group])
        order = [shallow, first, second] if start_level < 3 else [first, second, shallow]
        found[name] = [(sizes[group], means[group].view(SHAPE)) for group in order]
    return found


@pytest.mark.parametrize("start_level", [1, 2, 3, 6])
def test_modes_are_the_leaves_in_the_order_of_their_levels(tiny_pipeline, start_level):
    given = context(DiTPrior(tiny_pipeline))
    method = ManifoldGD(start_level=start_level)
    artefact = method.prepare(given)
    record = json.loads(json.dumps(method.record(given, artefact)))
    for name, groups in leaves(tiny_pipeline.vae, start_level).items():
        assert record["sizes"][name] == [size for size, _ in groups]
        for ours, (_, mean) in zip(artefact.latents[name], groups, strict=True):
            torch.testing.assert_close(ours.double(), mean, rtol=0, atol=1e-5)


def test_the_order_is_the_released_codes():
    """One leaf of each level from the start level down, then the rest from the deepest level up."""
    levels, sizes = np.array([2, 4, 4, 3, 5, 5, 2]), np.array([7, 1, 2, 9, 3, 3, 8])
    assert by_level(levels, sizes, 1) == by_level(levels, sizes, 3) == [6, 3, 2, 4, 5, 1, 0]
    assert by_level(levels, sizes, 4) == [3, 2, 4, 5, 1, 6, 0]
    assert by_level(levels, sizes, 6) == by_level(levels, sizes, 99) == [4, 5, 2, 1, 3, 6, 0]
    assert by_level(np.array([0]), np.array([3]), 6) == [0]


def correction(x, mode, generator, step, alpha, sigma, method):
    """tanh(distance / bandwidth) · n / ‖n‖ of one slot as the released code has it, by loops and eigenvectors."""
    flat, center = x.flatten(), mode.flatten()
    directions = torch.randn((300, len(flat)), generator=generator).double()
    shares = torch.rand(150, generator=generator).double()
    noise = torch.randn((300, len(flat)), generator=generator).double()
    p = (5 - step) / 5
    radius = method.radius * (1 + (math.exp(p) - 1) / (math.e - 1)) if step < 5 else method.radius
    points = []
    for j in range(300):
        r = 0.1 + (radius - 0.1) * j / 149 if j < 150 else float(shares[j - 150]) * radius
        point = center + r * directions[j] / math.sqrt(float((directions[j] ** 2).sum()))
        points.append(alpha * point + sigma * noise[j])
    points.sort(key=lambda point: float(((flat - point) ** 2).sum()))
    near = torch.stack(points[:12])
    mean = near.mean(0)
    covariance = (near - mean).T @ (near - mean) / 11 + 1e-5 * torch.eye(len(flat)).double()
    tangent = torch.linalg.eigh(covariance).eigenvectors[:, -3:]
    normal = (flat - mean) - tangent @ (tangent.T @ (flat - mean))
    weight = math.tanh(math.sqrt(float(((flat - points[0]) ** 2).sum())) / method.bandwidth)
    return -(weight * normal / normal.norm()).view_as(x)


def oracle_chain(pipeline, method, given, *, length, parts=(1.0, 1.0)):
    """Float64 latents after each step; ``parts`` weighs the pull to the mode and the correction."""
    transformer, settings = oracles.double(pipeline.transformer), given.settings
    slots = [(NAMES[slot.class_index], slot.number) for slot in UNIT.slots]
    by_class = leaves(pipeline.vae, method.start_level)
    modes = torch.stack([by_class[name][number][1] for name, number in slots])
    labels = torch.tensor([(3, 8, 4)[slot.class_index] for slot in UNIT.slots])
    scheduler = given.prior.scheduler(None, settings.num_inference_steps)
    generators = [rng.generator(SEED, "slot", *slot) for slot in slots]
    x = torch.stack([torch.randn(SHAPE, generator=g) for g in generators]).double()
    steps, n = [], settings.num_inference_steps
    schedule = zip(scheduler.timesteps.tolist(), oracles.cumulative_products(scheduler), strict=True)
    for step, (t, (now, after)) in enumerate(itertools.islice(schedule, length)):
        with torch.no_grad():
            eps, _ = oracles.noise_estimate(transformer, x, t, labels, settings.guidance_scale)
        alpha, sigma = now**0.5, (1 - now) ** 0.5
        std = ((1 - after) / (1 - now) * (1 - now / after)) ** 0.5
        x0, change = (x - sigma * eps) / alpha, torch.zeros_like(x)
        if method.start * n <= step < method.stop * n:
            corrections = [
                correction(x[i], modes[i], rng.generator(SEED, "manifold", *slot), step, alpha, sigma, method)
                for i, slot in enumerate(slots)
            ]
            change = method.scale * (parts[0] * std * (modes - x0) + parts[1] * torch.stack(corrections))
        noise = torch.stack([torch.randn(SHAPE, generator=g) for g in generators]).double() if t > 0 else None
        x = oracles.ddpm_step(x, eps, now, after, noise) + change
        steps.append(x)
    return steps


METHODS = {
    "default": (ManifoldGD(), 3),
    "imagenet": (ManifoldGD(**ManifoldGD.presets["imagenet"]), 3),
    "wide, past the warm-up": (ManifoldGD(radius=4.0, bandwidth=30.0, scale=1.0, stop=1.0), 6),
}


@pytest.mark.parametrize("name", METHODS)
def test_guided_steps_equal_the_oracle(tiny_pipeline, name):
    method, steps = METHODS[name]
    given = context(DiTPrior(tiny_pipeline), num_inference_steps=steps)
    ours = trace(method, given)
    expected = oracle_chain(tiny_pipeline, method, given, length=steps)
    assert len(ours) == len(expected) == steps
    for mine, exact in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, exact, rtol=0, atol=1e-4)
    for parts in ((1.0, 0.0), (0.0, 1.0), (1.0, -1.0)):
        other = oracle_chain(tiny_pipeline, method, given, length=1, parts=parts)
        assert (ours[0] - other[0]).abs().amax((1, 2, 3)).min() > 1e-3, f"both parts count: {parts}"


def state(x, x0=None, *, step=0, alpha=0.6, std=0.3):
    zero = torch.zeros_like(x)
    return StepState(
        step, 50, 500, alpha, (1 - alpha**2) ** 0.5, std, x, zero, zero if x0 is None else x0, torch.zeros(len(x)), {}
    )


def test_the_correction_is_a_short_vector_across_the_tangent_space(tiny_pipeline):
    """At x̂_0 = m nothing else is left: of length tanh(distance / bandwidth), and at a right angle to U."""
    given = context(DiTPrior(tiny_pipeline))
    method = ManifoldGD(bandwidth=40.0)
    artefact = method.prepare(given)
    term = method.term(given, UNIT, artefact)
    x = torch.randn((5, *SHAPE), generator=rng.generator("x"))
    seen = state(x, term.modes)
    delta = term.delta(seen).flatten(1)
    moved = (x - 0.6 * term.modes).flatten(1)
    near = term.cloud.neighbours(moved, 0.1, seen.alpha, seen.sigma)
    distances = (moved[:, None] - near).norm(dim=2).amin(1)
    torch.testing.assert_close(delta.norm(dim=1), torch.tanh(distances / 40), rtol=1e-4, atol=0)
    centred = near - near.mean(1, keepdim=True)
    tangent = torch.linalg.svd(centred, full_matrices=False).Vh[:, :3]
    assert (tangent @ delta.unsqueeze(2)).abs().max() < 1e-4 < 0.01 < delta.norm(dim=1).min()
    assert ((moved - near.mean(1)) * delta).sum(1).max() < 0, "towards the neighbours"
    alone = [method.term(given, Unit(0, (slot,)), artefact).delta(state(x[i : i + 1], term.modes[i : i + 1]))
             for i, slot in enumerate(UNIT.slots)]  # fmt: skip
    torch.testing.assert_close(torch.cat(alone).flatten(1), delta, rtol=0, atol=1e-5)


def test_no_step_handles_a_matrix_of_the_latents_size_squared(tiny_pipeline, monkeypatch):
    shapes, svd = [], torch.linalg.svd

    def spy(matrix, full_matrices=True):
        shapes.append((tuple(matrix.shape), full_matrices))
        return svd(matrix, full_matrices=full_matrices)

    monkeypatch.setattr(torch.linalg, "svd", spy)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    make(ManifoldGD(stop=1.0), context(DiTPrior(tiny_pipeline)))
    assert shapes == [((5, 12, 256), False)] * 3


def test_points_lie_on_spheres_around_the_mode_and_belong_to_the_slot():
    clouds = [Cloud.draw(6, [rng.generator("a", each) for each in names], torch.device("cpu")) for names in ("xy", "y")]
    assert torch.equal(clouds[0].directions[1], clouds[1].directions[0])
    assert torch.equal(clouds[0].noise[1], clouds[1].noise[0])
    torch.testing.assert_close(clouds[0].directions.norm(dim=2), torch.ones(2, 300))
    x = torch.zeros(1, 6)
    near = clouds[1].neighbours(x, 2.0, 0.5, 0.0)  # without noise: the 12 shortest radii of 0.1 … 2 and shares · 2
    radii = torch.cat([torch.linspace(0.1, 2.0, 150), 2 * clouds[1].shares[0]]).sort().values[:12]
    torch.testing.assert_close(near.norm(dim=2)[0], 0.5 * radii)


def test_scale_zero_is_dit_to_the_bit(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    plain = make(DiT(), given)
    assert torch.equal(make(ManifoldGD(scale=0.0), given), plain)
    guided = make(ManifoldGD(), given)
    assert (guided - plain).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.equal(make(ManifoldGD(), given), guided)
    assert torch.equal(make(Guided(({"name": "manifold_mode"},)), given), guided)


def test_the_seed_draws_other_points(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    artefact, term = ManifoldGD().prepare(given), ManifoldGD().term
    clouds = [term(dataclasses.replace(given, seed=seed), UNIT, artefact).cloud for seed in (SEED, SEED, 6)]
    assert torch.equal(clouds[0].noise, clouds[1].noise) and not torch.equal(clouds[0].noise, clouds[2].noise)
    assert len({float(cloud) for cloud in clouds[0].noise[:, 0, 0]}) == len(UNIT.slots)


def test_presets_are_those_of_the_released_scripts():
    nette, woof, imagenet = (ManifoldGD(**ManifoldGD.presets[name]) for name in ("nette", "woof", "imagenet"))
    assert nette == ManifoldGD() == ManifoldGD(scale=0.1, radius=0.05, bandwidth=0.2, start_level=6, stop=0.48)
    assert woof == ManifoldGD(radius=0.1)
    assert imagenet == ManifoldGD(radius=0.1, bandwidth=0.1, start_level=1)
    guided = [step for step in range(50) if Window(nette.start, nette.stop).contains(step, 50)]
    assert guided == list(range(24))
    assert ManifoldGD.couples == MGD3.couples == "class"


def test_one_image_a_class_is_the_mean_of_the_class(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline), ipc=1)
    artefact = ManifoldGD().prepare(given)
    assert artefact.sizes == {"Dress": [10], "Bag": [6], "Coat": [8]}
    unit = Unit(0, (Slot(0, 0), Slot(2, 0)))
    assert ManifoldGD().make(given, unit, artefact).shape == (2, *SHAPE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -0.1}, "scale: expected a number of at least 0, got -0.1"),
        ({"radius": 0.0}, "radius: expected a number above 0, got 0.0"),
        ({"bandwidth": float("inf")}, "bandwidth: expected a number above 0, got inf"),
        ({"start_level": 0}, "start_level: expected a whole number of at least 1, got 0"),
        ({"start": 0.5}, "0 <= start <= stop <= 1"),
    ],
    ids=str,
)
def test_options_are_checked_when_the_method_is_made(options, message):
    for kind in (ManifoldGD, ManifoldMode):
        with pytest.raises(OptionError) as error:
            kind(**options)
        assert message in str(error.value)
