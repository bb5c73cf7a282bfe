"""d3hr: inversion, the choice of a group and its denoising against float64, runs and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import oracles
import pytest
import torch
from conftest import grey_tree

import dap
from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import OptionError
from dap.features import real_latents
from dap.methods import D3HR, get_method
from dap.methods.base import Context, Slot, Unit
from dap.methods.common.class_gaussians import ClassGaussian
from dap.methods.d3hr import group_scores
from dap.priors.dit import DiTPrior
from dap.sampling import SamplingSettings
from dap.selection import permutation

SETTINGS = SamplingSettings(num_inference_steps=6, guidance_scale=3.0)
SMALL = D3HR(noise_level=0.5, groups=7, references=4)
UNIT = Unit(0, tuple(Slot(index, number) for index in (0, 1) for number in range(3)))


def context_of(prior, tree, settings=SETTINGS):
    source = open_source(tree)
    classes = build_class_map(source, prior.labels)
    return Context(
        source=source, classes=classes, prior=prior, settings=settings, seed=3, ipc=3, size=32,
        channels=prior.image_shape[0],
    )  # fmt: skip


@pytest.fixture(params=[None, "trailing"])
def context(request, tiny_pipeline, tree):
    return context_of(DiTPrior(tiny_pipeline), tree, dataclasses.replace(SETTINGS, timestep_spacing=request.param))


@pytest.fixture
def tree(tmp_path):
    return grey_tree(tmp_path / "tree", 6, ("Bag", "Dress"))


def schedule(context):
    """Timesteps of the run and ᾱ at each, least noise first."""
    scheduler, spacing = context.prior.scheduler("ddim", 6), context.settings.timestep_spacing
    times = scheduler.timesteps.flip(0)
    if spacing == "trailing":  # Lin et al. 2024, Table 2
        times = torch.tensor([round(1000 * number / 6) - 1 for number in range(1, 7)])
    return times, [float(scheduler.alphas_cumprod[int(t)]) for t in times]


def test_gaussians_are_those_of_the_inverted_latents(context, tiny_pipeline):
    gaussians = SMALL.prepare(context)
    network, (times, cumulative) = oracles.double(tiny_pipeline.transformer), schedule(context)
    real = real_latents(context.source, context.classes, context.prior)
    for entry in context.classes:
        order = permutation(6, 3, entry.name)[:4]
        x = real.of_class(entry.name)[order].double()
        for i in (1, 2, 3):
            with torch.no_grad():
                eps, _ = oracles.noise_estimate(network, x, times[i], torch.full((4,), entry.label), 3.0)
            before, now = cumulative[i - 1], cumulative[i]
            x = (now / before) ** 0.5 * (x - (1 - before) ** 0.5 * eps) + (1 - now) ** 0.5 * eps
        found = gaussians[entry.name]
        torch.testing.assert_close(found.mean.double(), x.flatten(1).mean(0), rtol=0, atol=1e-4)
        torch.testing.assert_close(found.deviation.double(), x.flatten(1).std(0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_scores_are_those_of_the_moments(count):
    groups = torch.randn((4, count, 6), generator=rng.generator(0))
    gaussian = ClassGaussian(torch.linspace(-1, 1, 6), torch.linspace(0.5, 2, 6))
    found = group_scores(groups, gaussian, 0.3)
    for group, score in zip(groups.double().numpy(), found.tolist(), strict=True):
        mean = group.mean(0)
        expected = np.sqrt(((mean - gaussian.mean.double().numpy()) ** 2).sum())
        if count > 1:
            deviation = group.std(0, ddof=1)
            expected += np.sqrt(((deviation - gaussian.deviation.double().numpy()) ** 2).sum())
            skew = [6 / (5 * 4) * sum(((point - mean) / deviation) ** 3) for point in group]
            expected += 0.3 * np.sqrt(sum(value**2 for value in skew))
        assert score == pytest.approx(expected, rel=1e-5)


def test_the_best_group_is_denoised_from_one_step_above(context, tiny_pipeline, monkeypatch):
    monkeypatch.setattr("dap.methods.d3hr.NUMBERS", 2 * 3 * 256)  # groups come in parts of two
    gaussians = SMALL.prepare(context)
    made = SMALL.make(context, UNIT, gaussians)
    network, (times, cumulative) = oracles.double(tiny_pipeline.transformer), schedule(context)
    for position, entry in enumerate(context.classes):
        gaussian = gaussians[entry.name]
        parts = [
            torch.randn((draws, 3, 256), generator=rng.generator(3, "d3hr", entry.name, part))
            for part, draws in enumerate((2, 2, 2, 1))
        ]
        groups = gaussian.mean + gaussian.deviation * torch.cat(parts)
        best = groups[int(group_scores(groups, gaussian, 0.1).argmin())]
        x = best.view(3, 4, 8, 8).double()
        for i in (4, 3, 2, 1, 0):  # the points are at level 3
            with torch.no_grad():
                eps, _ = oracles.noise_estimate(network, x, times[i], torch.full((3,), entry.label), 3.0)
            x = oracles.ddim_step(x, eps, cumulative[i], cumulative[i - 1] if i else 1.0)
        torch.testing.assert_close(made[3 * position : 3 * position + 3].double(), x, rtol=0, atol=2e-4)


def test_a_learned_variance_is_left_out(tiny_learned_pipeline, tree):
    made = []
    for learned in (True, False):
        given = context_of(DiTPrior(tiny_learned_pipeline, learned_variance=learned), tree)
        made.append(SMALL.make(given, UNIT, SMALL.prepare(given)))
    assert torch.equal(*made)


def test_options_that_change_nothing_are_named(tiny_pipeline, tree, tmp_path, caplog):
    settings = {"method": SMALL, "ipc": 3, "num_inference_steps": 6, "progress": False, "out": tmp_path / "out"}
    dap.distill(tree, prior=DiTPrior(tiny_pipeline), timestep_spacing="trailing", **settings)
    assert caplog.messages == []
    other = settings | {"out": tmp_path / "other"}
    dap.distill(tree, prior=DiTPrior(tiny_pipeline), scheduler="euler", timestep_spacing="trailing", **other)
    assert caplog.messages == ["these options change nothing with method 'd3hr': scheduler"]


def test_what_methods_ignore():
    sampler, steps = ("scheduler", "eta"), ("num_inference_steps", "scheduler", "eta")
    for name, expected in (
        ("dit", ()), ("d3hr", sampler), ("ld3m", steps), ("plug_and_play", ()), ("plug_and_play:paper", steps),
    ):  # fmt: skip
        assert get_method(name).ignored() == expected
    assert get_method("filtered", {"method": "ld3m"}).ignored() == steps
    for name in ("dm:fashion_latent", "k_medoids"):
        assert {"num_inference_steps", "guidance_scale", "timestep_spacing"} < set(get_method(name).ignored())


def test_runs_resume_and_parts_of_a_class_are_the_same(tiny_pipeline, tree, tmp_path):
    settings = {
        "method": SMALL, "ipc": 3, "num_inference_steps": 6, "progress": False, "prior": DiTPrior(tiny_pipeline),
    }  # fmt: skip
    whole = dap.distill(tree, out=tmp_path / "whole", **settings)
    parts = dap.distill(tree, out=tmp_path / "parts", batch_size=2, **settings)
    assert (whole.to_torch()[0].int() - parts.to_torch()[0].int()).abs().max() <= 1
    (tmp_path / "whole" / whole.files[1]).unlink()
    again = dap.distill(tree, out=tmp_path / "whole", **settings)
    assert torch.equal(again.to_torch()[0], whole.to_torch()[0]) and whole.manifest["record"] == {"inverted_steps": 3}
    other = dap.distill(tree, out=tmp_path / "other", seed=1, **settings)
    assert not torch.equal(other.to_torch()[0], whole.to_torch()[0])


def test_options():
    paper = get_method("d3hr:paper")
    assert (paper.noise_level, paper.groups, paper.references, paper.skewness) == (0.6, 100_000, None, 0.1)
    for options, message in (
        ({"noise_level": 0}, "noise_level: expected"),
        ({"groups": 0}, "groups: expected"),
        ({"references": 1}, "references: expected"),
        ({"skewness": -1}, "skewness: expected"),
    ):
        with pytest.raises(OptionError, match=message):
            D3HR(**options)


def test_what_has_no_room_is_refused(context, tree):
    with pytest.raises(OptionError, match=r"noise_level: 0\.9 of 6 steps leaves no step above it"):
        D3HR(noise_level=0.9).prepare(context)
    for number in range(1, 6):
        (tree / "Bag" / f"{number}.png").unlink()
    alone = dataclasses.replace(context, source=open_source(tree))
    with pytest.raises(OptionError, match="class 'Bag' has 1 image, a Gaussian needs two"):
        SMALL.prepare(alone)
