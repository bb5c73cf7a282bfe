"""The constraints of plug_and_play, by themselves and in whole steps, against float64."""

from __future__ import annotations

import copy
import dataclasses
import json
from itertools import pairwise

import numpy as np
import oracles
import pytest
import torch
from test_dap import COUNTS, NAMES, UNIT, context, images
from test_plug_and_play import SHORT, check_steps, dit_estimate, make, oracle_estimates

from dap.methods import PlugAndPlay
from dap.methods.common import cached_networks
from dap.priors.dit import DiTPrior

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def real_latents(pipeline):
    """Float64 latents (N, D) of the real images by class number."""
    vae, starts = oracles.double(pipeline.vae), np.cumsum((0, *COUNTS))
    with torch.no_grad():
        z = vae.encode(torch.from_numpy(images()).double()[:, None] / 127.5 - 1).latent_dist.mean
    z = (z * vae.config.scaling_factor).flatten(1)
    return [z[start:stop] for start, stop in pairwise(starts)]


def kernel_values(kernel, x, y):
    """k(x, y) of two vectors."""
    squared = ((x - y) ** 2).sum()
    if kernel == "linear":
        return (x * y).sum()
    if kernel == "distance":
        apart = squared.sqrt() if squared > 0 else 0.0  # the root has no gradient at zero
        return (x**2).sum().sqrt() + (y**2).sum().sqrt() - apart
    return torch.exp(-squared / (2 * kernel**2))


def kernel_constraint(eta, references, kernel):
    """(k(η, η) − 2 mean k(η, z) + mean k(z, z)) / mean D(z, z')² over different ones, pair by pair."""
    if kernel == "median":
        kernel = oracles.median_bandwidth(references)
    k, n = kernel_values, len(references)
    own = sum(k(kernel, z, z) for z in references) / n
    size = [
        k(kernel, a, a) + k(kernel, b, b) - 2 * k(kernel, a, b)
        for i, a in enumerate(references)
        for j, b in enumerate(references)
        if i != j
    ]
    size = float(sum(size) / len(size)) if size and sum(size) > 0 else 2.0
    return (k(kernel, eta, eta) - 2 * sum(k(kernel, eta, z) for z in references) / n + own) / size


@pytest.mark.parametrize(("kernel", "exact"), [("linear", "linear"), ("distance", "distance"), ("rbf", "median")])
def test_the_kernel_constraint_and_its_gradient(tiny_pipeline, kernel, exact):
    given = context(DiTPrior(tiny_pipeline))
    method = PlugAndPlay(constraint="kernel", kernel=kernel)
    artefact = method.prepare(given)
    eta = 0.3 * torch.randn((5, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    point = eta.clone().requires_grad_()
    values = artefact.of(given, UNIT)(point)
    (gradient,) = torch.autograd.grad(values.sum(), point)
    real, doubled = real_latents(tiny_pipeline), eta.double().requires_grad_()
    expected = torch.stack([
        kernel_constraint(each.flatten(), real[slot.class_index], exact)
        for each, slot in zip(doubled, UNIT.slots, strict=True)
    ])  # fmt: skip
    (slope,) = torch.autograd.grad(expected.sum(), doubled)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-3, atol=float(2e-4 * slope.abs().max()))
    record = json.loads(json.dumps(method.record(given, artefact)))
    assert [len(record["references"][name]) for name in NAMES] == list(COUNTS)


def test_the_references_of_the_kernel_mean_follow_the_seed(tiny_pipeline):
    given = context(DiTPrior(tiny_pipeline))
    method = PlugAndPlay(constraint="kernel", references=3)
    drawn = [method.prepare(dataclasses.replace(given, seed=seed)).record()["references"] for seed in (0, 0, 1, 2)]
    assert [len(drawn[0][name]) for name in NAMES] == [3, 1, 3] and drawn[0] == drawn[1]
    assert len({json.dumps(each) for each in drawn}) > 1
    starts = dict(zip(NAMES, np.cumsum((0, *COUNTS)), strict=False))
    for name, count in zip(NAMES, COUNTS, strict=True):
        assert {int(image) for image in drawn[0][name]} <= set(range(starts[name], starts[name] + count))


@pytest.fixture
def classified(tiny_pipeline):
    """A context, a method with a classifier, and the classifier as it was prepared."""
    given = context(DiTPrior(tiny_pipeline))
    method = PlugAndPlay(**SHORT | {"constraint": "classifier", "weight": 0.5, "width": 4, "epochs": 3})
    return given, method, method.prepare(given)


@pytest.mark.parametrize("constraint", ["classifier", "not_class"])
def test_the_classifier_constraint_and_its_gradient(classified, tiny_pipeline, constraint):
    """−log p, and the released form: the sigmoid of the logit of "not the class", one against the rest."""
    given, method, _ = classified
    method = dataclasses.replace(method, constraint=constraint)
    artefact = method.prepare(given)
    eta = torch.randn((5, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    point = eta.clone().requires_grad_()
    values = artefact.of(given, UNIT)(point)
    (gradient,) = torch.autograd.grad(values.sum(), point)
    net, vae = copy.deepcopy(artefact.net).double(), oracles.double(tiny_pipeline.vae)

    def exact(latents):
        pixels = vae.decode(latents / vae.config.scaling_factor).sample
        logits = net(torch.where(pixels.abs() > 1, pixels.sign(), pixels))
        own = logits[torch.arange(5), torch.tensor([slot.class_index for slot in UNIT.slots])]
        if constraint == "classifier":
            return torch.logsumexp(logits, 1) - own
        rest = [
            [logits[row, k].exp() for k in range(3) if k != slot.class_index] for row, slot in enumerate(UNIT.slots)
        ]
        return torch.sigmoid(torch.stack([torch.log(sum(others)) for others in rest]) - own)

    doubled = eta.double().requires_grad_()
    expected = exact(doubled)
    (slope,) = torch.autograd.grad(expected.sum(), doubled)
    pixels = given.prior.decode_pixels(eta)
    assert (pixels.abs() > 1).any() and (pixels.abs() < 1).any()
    torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient.double(), slope, rtol=1e-3, atol=float(1e-4 * slope.abs().max()))
    assert method.record(given, artefact) == {"epochs": artefact.epochs}


def test_the_classifier_is_the_end_of_its_training(classified, monkeypatch):
    given, method, artefact = classified
    states, train = [], cached_networks.train

    def watched(context, net, *rest, **more):
        weights = train(context, net, *rest, **more)
        states.append([each.detach().clone() for each in net.parameters()])
        return weights

    monkeypatch.setattr(cached_networks, "train", watched)
    monkeypatch.setattr(cached_networks, "CLASSIFIER_RULE", -1)  # so that nothing is found in the cache
    trained, read = method.prepare(given), method.prepare(given)
    assert len(states) == 1 and trained.epochs == artefact.epochs == 3
    for made in (artefact.net, trained.net, read.net):
        assert not made.training
        for ours, theirs in zip(made.parameters(), states[0], strict=True):
            assert torch.equal(ours, theirs) and not ours.requires_grad


def test_steps_under_a_constraint_equal_the_oracle(classified, tiny_pipeline):
    """The constraint's weight falls to zero with the steps, and grows with the number of values."""
    given = dataclasses.replace(classified[0], latent_dtype="float32")
    method = PlugAndPlay(**SHORT | {"constraint": "kernel", "kernel": "linear", "weight": 0.5})
    real = real_latents(tiny_pipeline)

    def constraint(eta):
        return torch.stack([
            kernel_constraint(each.flatten(), real[slot.class_index], "linear")
            for each, slot in zip(eta, UNIT.slots, strict=True)
        ])  # fmt: skip

    estimate = dit_estimate(tiny_pipeline, 3.0)
    expected = oracle_estimates(method, given, estimate, tiny_pipeline.scheduler, constraint)
    check_steps(method, given, expected)
    free = make(dataclasses.replace(method, constraint="none"), given)
    for other in (free, make(classified[1], given)):
        assert (other - expected[-1]).abs().amax((1, 2, 3)).min() > 1e-2
    assert torch.equal(make(dataclasses.replace(method, weight=0.0), given), free)
