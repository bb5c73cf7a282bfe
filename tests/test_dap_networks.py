"""Guidance by random networks: its mismatch against double sums, a whole step against a float64 oracle, its options."""

from __future__ import annotations

import copy
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import test_dap
import torch
from torch.nn.utils import vector_to_parameters

import dap
from dap import rng
from dap.errors import OptionError
from dap.methods import DAPNetworks, Slot, Unit
from dap.methods.common.network_kernel import mismatch
from dap.methods.dap_networks import NetworkKernel, medoids
from dap.nets import create_net, shift_flip
from dap.priors.dit import DiTPrior
from dap.sampling import StepState

UNIT, NAMES, SEED = test_dap.UNIT, test_dap.NAMES, test_dap.SEED
SMALL = {"width": 4, "batch": 3, "every": 1}


def context(prior):
    """As that of DAP's tests, with no more images of a class than it has real ones."""
    return dataclasses.replace(test_dap.context(prior), counts=(4, 1, 4))


def rows(n, d, name):
    return torch.randn((n, d), generator=rng.generator("rows", n, d, name), dtype=torch.float64)


@pytest.mark.parametrize(("m", "n", "d"), [(4, 5, 3), (1, 5, 3), (4, 1, 3), (1, 1, 1), (3, 2, 1)])
def test_mismatches_are_squared_distances_of_distributions(m, n, d):
    x, y = rows(m, d, "x"), rows(n, d, "y")
    x[-1] = x[0]  # a tie
    means = [sum(row[i] for row in side) / len(side) for i in range(d) for side in (x, y)]
    exact = sum((means[2 * i] - means[2 * i + 1]) ** 2 for i in range(d))
    assert float(mismatch(x, y, "linear")) == pytest.approx(float(exact), abs=1e-12)

    def distance(a, b):
        return math.dist(a.tolist(), b.tolist())

    energy = sum(distance(a, b) for a in x for b in y) / (m * n)
    if m > 1:
        energy -= sum(distance(a, b) for a in x for b in x) / (2 * m * (m - 1))
    assert float(mismatch(x, y, "distance")) == pytest.approx(energy, abs=1e-6)


def state_of(x0, labels, step=1, num_steps=4):
    return StepState(step, num_steps, 500, 0.8, 0.6, 0.3, x0, x0, x0, labels, {})


def drawn(given, method, trained, step, draw, use):
    """A network of a step in float64: of random weights, or at a state of a training, which ``use`` seeds."""
    kind = (method.networks or ("convnet3",))[step % max(len(method.networks), 1)]
    key = ("dap_networks", "network", step, draw) if not trained else ("surrogate", "net")
    net = create_net(
        kind, width=method.width, channels=1, classes=3 if trained else 1, size=32,
        generator=rng.generator(SEED, *key),
    ).double()  # fmt: skip
    if trained:
        rows, draws = trained[step % len(trained)].weights, rng.generator(SEED, "dap_networks", use, step, draw)
        training = int(torch.randint(method.trainings, (1,), generator=draws))
        state = -1 if use == "judge" else int(torch.randint(method.epochs + 1, (1,), generator=draws))
        vector_to_parameters(rows[training, state].double(), net.parameters())
    return net


def oracle(given, artefact, method, prior, x0, step):
    """The change of x̂_0 in float64: image by image, class by class, its own draws and decoder."""
    vae = copy.deepcopy(prior.pipeline.vae).double()
    z = x0.double().requires_grad_()
    changes = torch.zeros_like(z)

    def size(values):
        return math.sqrt(sum(float((value**2).sum()) for value in values))

    for class_index in sorted({slot.class_index for slot in UNIT.slots}):
        places = [place for place, slot in enumerate(UNIT.slots) if slot.class_index == class_index]
        name, owned = given.classes[class_index].name, given.source.of_class(class_index)
        rows = torch.randperm(len(owned), generator=rng.generator(SEED, "dap_networks", "references", name))
        real = test_dap.images()[owned[sorted(rows[: method.references].tolist())]]
        images = [vae.decode(z[place : place + 1] / vae.config.scaling_factor).sample for place in places]
        numbers, slopes = sum(image.numel() for image in images), [0] * len(images)
        for draw in range(method.draws):
            key = (SEED, "dap_networks", name, step, draw)

            def seen(image, key=key):
                return shift_flip(image, rng.generator(*key, "augment")) if method.augmentation is None else image

            net = drawn(given, method, artefact.trained, step, draw, "state")
            chosen = torch.randperm(len(real), generator=rng.generator(*key))[: method.batch].tolist()
            means = []
            for side in (
                images,
                [torch.from_numpy(real[row].astype(np.float64) / 127.5 - 1)[None, None] for row in chosen],
            ):
                features = [net.layers[:-1](seen(image))[0] for image in side]
                means.append(sum(features) / len(features))
            losses = [(1.0, ((means[0] - means[1]) ** 2).sum())]
            if method.verdict:
                judge = drawn(given, method, artefact.trained, step, draw, "judge")
                logits = [judge(seen(image))[0] for image in images]
                losses.append((method.verdict, sum(each.exp().sum().log() - each[class_index] for each in logits)))
            for weight, loss in losses:
                gradients = torch.autograd.grad(loss, images, retain_graph=True)
                factor = weight * math.sqrt(numbers) / size(gradients)
                slopes = [slope + factor * gradient for slope, gradient in zip(slopes, gradients, strict=True)]
        (gradient,) = torch.autograd.grad(images, z, slopes)
        for place in places:
            changes[place] = -0.3 * math.sqrt(len(places) * z[0].numel()) * gradient[place] / size(gradient[places])
    return changes.detach()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augmentation": "none", "references": 2},
        {"networks": ("convnet4", "convnet3")},
        {"epochs": 2, "trainings": 2},
        {"epochs": 2, "trainings": 2, "verdict": 0.5, "draws": 2, "networks": ("convnet4", "convnet3")},
    ],
    ids=["shift_flip", "none", "two networks", "trained", "trained, and their verdict"],
)
def test_a_step_equals_the_float64_oracle(make_pipeline, options):
    prior = DiTPrior(make_pipeline())
    given = context(prior)
    method = DAPNetworks(**SMALL | options)
    artefact = method.prepare(given)
    term = method.term(given, UNIT, artefact)
    x0 = torch.randn((5, *prior.latent_shape), generator=rng.generator("x0"))
    ours = term.delta(state_of(x0, given.labels(UNIT)))
    torch.testing.assert_close(ours.double(), oracle(given, artefact, method, prior, x0, 1), rtol=1e-3, atol=1e-4)


def toy(every=1, window=(0.0, 1.0), draws=1, batch=3, **options):
    """A term whose decoder is the identity, for two classes of three and one slots."""
    method = DAPNetworks(
        width=4, batch=batch, space="latent", every=every, draws=draws, start=window[0], stop=window[1], **options
    )
    real = {name: rows(6, 64, name).float().reshape(6, 1, 8, 8) for name in ("a", "b")}
    given = SimpleNamespace(
        seed=0, prior=SimpleNamespace(latent_shape=(1, 8, 8)), channels=1, size=8,
        classes=[SimpleNamespace(name=name) for name in real],
        source=SimpleNamespace(of_class=lambda index: np.arange(6)),
        classes_of=lambda unit: [(0, torch.tensor([0, 2, 3])), (1, torch.tensor([1]))],
    )  # fmt: skip
    artefact = SimpleNamespace(latents=SimpleNamespace(of_class=real.__getitem__), trained=(), starts=None)
    return method.term(given, None, artefact)


@pytest.mark.parametrize("draws", [1, 3])
def test_the_slots_of_a_class_move_together_by_the_noise_of_the_step(draws):
    x0 = torch.randn((4, 1, 8, 8), generator=rng.generator("x0"))
    change = toy(draws=draws).delta(state_of(x0, torch.zeros(4)))
    for places in ([0, 2, 3], [1]):
        assert float(change[places].square().mean().sqrt()) == pytest.approx(0.3, rel=1e-4)


def test_guidance_acts_in_each_nth_step_of_its_window():
    x0, term = torch.randn((4, 1, 8, 8), generator=rng.generator("x0")), toy(every=2, window=(0.375, 1.0))
    acts = [bool(term.delta(state_of(x0, torch.zeros(4), step, 8)).any()) for step in range(3, 8)]
    assert acts == [True, False, True, False, True]


def networks_used(term, steps):
    """The number of each used network's parameters, by step, and the draw that its weights come from."""
    used, make = [], term.matching.network

    def recorded(turn, step, draw):
        used.append((sum(weights.numel() for weights in make(turn, step, draw).parameters()), step))
        return make(turn, step, draw)

    watched = dataclasses.replace(term, matching=dataclasses.replace(term.matching, network=recorded))
    for step in range(steps):
        watched.delta(state_of(torch.ones(4, 1, 8, 8), torch.zeros(4), step, steps))
    return used


def test_networks_take_turns_whatever_steps_guidance_acts_in():
    kinds = ("convnet3", "small_mlp")
    ((conv, _),), ((mlp, _),) = (networks_used(toy(networks=kind), 1) for kind in kinds)
    assert networks_used(toy(every=2, networks=kinds), 8) == [(conv, 0), (mlp, 2), (conv, 4), (mlp, 6)]


def test_a_class_is_made_alike_alone_and_beside_others(make_pipeline):
    given, method = context(DiTPrior(make_pipeline())), DAPNetworks(**SMALL)
    artefact = method.prepare(given)
    whole = method.make(given, UNIT, artefact)
    alone = method.make(given, Unit(0, (Slot(2, 0), Slot(2, 3))), artefact)
    torch.testing.assert_close(alone, whole[[0, 2]], rtol=1e-3, atol=1e-3)


def test_a_step_brings_the_features_of_each_class_nearer_to_the_real_ones():
    x0, term = torch.randn((4, 1, 8, 8), generator=rng.generator("x0")), toy(batch=6)
    net = term.matching.network(1, 1, 0)
    moved = x0 + 0.01 * term.delta(state_of(x0, torch.zeros(4)))
    for target in term.targets:
        real = net.features(target.real)
        before, after = (float(mismatch(net.features(x[target.places]), real, "linear")) for x in (x0, moved))
        assert after < 0.999 * before


def test_slots_start_at_medoids(make_pipeline):
    given = context(DiTPrior(make_pipeline()))
    method = DAPNetworks(**SMALL, strength=0.4)
    artefact = method.prepare(given)
    record = method.record(given, artefact)["started"]
    assert {name: len(set(ids)) for name, ids in record.items()} == {"Dress": 4, "Bag": 1, "Coat": 4}
    assert method.steps_per_slot(given) == 1
    points = np.array([[0.0], [1.0], [1.5], [9.0], [10.0], [10.4], [11.0]], np.float32)
    found = medoids(points, 2, 0)
    assert found.centers.tolist() == [[10.0], [1.0]] and found.labels.tolist() == [1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"networks": "convnet9"}, "did you mean"),
        ({"kernel": "rbf"}, "kernel"),
        ({"space": "features"}, "space"),
        ({"every": 0}, "every"),
        ({"networks": 3}, "a list of names"),
        ({"networks": "small_vit", "epochs": 2}, "trained"),
        ({"epochs": 1}, "at least 2"),
        ({"epochs": 2, "trainings": 0}, "trainings"),
        ({"epochs": 2, "space": "latent"}, "trained on images"),
        ({"verdict": 1.0}, "only trained networks"),
        ({"epochs": 2, "verdict": -1.0}, "verdict"),
        ({"strength": 0.0}, "strength"),
        ({"start": 0.6, "stop": 0.5}, "start"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        DAPNetworks(**options)


def test_modes_and_trained_networks_are_planned_on_disk(make_pipeline):
    given = context(DiTPrior(make_pipeline()))
    trained, random = (DAPNetworks(width=4, epochs=epochs, trainings=2).disk(given) for epochs in (3, 0))
    parameters = sum(each.numel() for each in create_net(
        "convnet3", width=4, channels=1, classes=3, size=32, generator=torch.Generator()
    ).parameters())  # fmt: skip
    assert trained - random == 4 * 2 * 4 * parameters and random > 0


def test_too_few_images_for_the_slots_are_refused_before_a_training(make_pipeline, monkeypatch):
    given = dataclasses.replace(context(DiTPrior(make_pipeline())), counts=(4, 50, 4))
    monkeypatch.setattr(NetworkKernel, "trained", lambda self, context: pytest.fail("trained"))
    with pytest.raises(OptionError, match="fewer than"):
        DAPNetworks(epochs=2).prepare(given)


def test_the_first_option_by_position_is_the_scale():
    assert NetworkKernel(1.5).scale == 1.5


def test_a_network_for_larger_images_is_refused_before_a_step(tmp_path):
    with pytest.raises(OptionError, match="at least 64 pixels"):
        dap.distill("fashion-mini", method=NetworkKernel(networks="convnet6"), ipc=1, out=tmp_path / "o")
    assert not list((tmp_path / "o").glob("train/*"))
