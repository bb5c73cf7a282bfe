"""The term of dap_networks: its mismatch against double sums, and a whole step against a float64 oracle."""

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

from dap import rng
from dap.methods import DAPNetworks
from dap.methods.common import network_kernel
from dap.methods.common.network_kernel import mismatch
from dap.methods.common.siamese import siamese_augmentation
from dap.nets import ConvNet, create_net, shift_flip
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
    channels, size = (1, 32) if method.space == "pixels" else given.prior.latent_shape[:2]
    net = create_net(
        kind, width=method.width, channels=channels, classes=3 if trained else 1, size=size,
        generator=rng.generator(SEED, *key),
    ).double()  # fmt: skip
    net.eval()
    if trained:
        rows, draws = trained[step % len(trained)].weights, rng.generator(SEED, "dap_networks", use, step, draw)
        training = int(torch.randint(method.trainings, (1,), generator=draws))
        state = -1 if use == "judge" else int(torch.randint(method.epochs + 1, (1,), generator=draws))
        vector_to_parameters(rows[training, state].double(), net.parameters())
    return net


def psi(net, image):
    """The input of the last layer; of a ConvNet by its layers."""
    return net.layers[:-1](image) if isinstance(net, ConvNet) else net.features(image)


def squared_distance_of_means(ours, theirs):
    return ((sum(ours) / len(ours) - sum(theirs) / len(theirs)) ** 2).sum()


def energy_distance(ours, theirs):
    between = sum((x - y).norm() for x in ours for y in theirs) / (len(ours) * len(theirs))
    if len(ours) == 1:
        return between
    pairs = [(x - y).norm() for i, x in enumerate(ours) for j, y in enumerate(ours) if i != j]
    return between - sum(pairs) / (2 * len(pairs))


MISMATCHES = {"linear": squared_distance_of_means, "distance": energy_distance}


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
        rows = sorted(rows[: method.references].tolist())
        if method.space == "pixels":
            real = torch.from_numpy(test_dap.images()[owned[rows]].astype(np.float64) / 127.5 - 1)[:, None]
            images = [vae.decode(z[place : place + 1] / vae.config.scaling_factor).sample for place in places]
        else:
            real = artefact.latents.of_class(name)[rows].double()
            images = [z[place : place + 1] for place in places]
        numbers, slopes = sum(image.numel() for image in images), [0] * len(images)
        for draw in range(method.draws):
            key = (SEED, "dap_networks", name, step, draw)

            def seen(image, key=key):
                draws = rng.generator(*key, "augment")
                if method.augmentation == "dsa":
                    return siamese_augmentation(image, draws)
                both = method.augmentation == "none" or method.space == "latent"
                return image if both else shift_flip(image, draws)

            net = drawn(given, method, artefact.trained, step, draw, "state")
            chosen = torch.randperm(len(real), generator=rng.generator(*key))[: method.batch].tolist()
            ours, theirs = (
                [psi(net, seen(image))[0] for image in side] for side in (images, [real[row][None] for row in chosen])
            )
            losses = [(1.0, MISMATCHES[method.kernel](ours, theirs))]
            if method.verdict:
                judge = drawn(given, method, artefact.trained, step, draw, "judge")
                logits = [judge(seen(image))[0] for image in images]
                losses.append((method.verdict, sum(each.exp().sum().log() - each[class_index] for each in logits)))
            for weight, loss in losses:
                gradients = torch.autograd.grad(loss, images, retain_graph=True)
                factor = weight * math.sqrt(numbers) / size(gradients)
                slopes = [slope + factor * gradient for slope, gradient in zip(slopes, gradients, strict=True)]
        (gradient,) = torch.autograd.grad(images, z, slopes)  # of latents: through their slices
        for place in places:
            changes[place] = -0.3 * math.sqrt(len(places) * z[0].numel()) * gradient[place] / size(gradient[places])
    return changes.detach()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augmentation": "none", "references": 2},
        {"networks": ("convnet4", "convnet3")},
        {"kernel": "distance"},
        {"augmentation": "dsa"},
        {"networks": ("small_vit", "small_resnet_ap10")},
        {"networks": ("small_resnet_ap10", "small_mlp")},
        {"space": "latent"},
        {"space": "latent", "networks": ("convnet3", "small_vit")},
        {"epochs": 2, "trainings": 2},
        {"epochs": 2, "trainings": 2, "verdict": 0.5, "draws": 2, "networks": ("convnet4", "convnet3")},
    ],
    ids=[
        "shift_flip",
        "none",
        "two networks",
        "distance",
        "dsa",
        "ResNet",
        "MLP",
        "latent",
        "ViT of latents",
        "trained",
        "trained, and their verdict",
    ],
)
def test_a_step_equals_the_float64_oracle(make_pipeline, options):
    prior = DiTPrior(make_pipeline())
    given = context(prior)
    method = DAPNetworks(**SMALL | options)
    artefact = method.prepare(given)
    term = method.term(given, UNIT, artefact)
    x0 = torch.randn((5, *prior.latent_shape), generator=rng.generator("x0", 0))  # no ReLU is at 0 in one precision
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


def test_a_step_brings_the_features_of_each_class_nearer_to_the_real_ones():
    x0, term = torch.randn((4, 1, 8, 8), generator=rng.generator("x0")), toy(batch=6)
    net = term.matching.network(1, 1, 0)
    moved = x0 + 0.01 * term.delta(state_of(x0, torch.zeros(4)))
    for target in term.targets:
        real = net.features(target.real(torch.arange(target.count)))
        before, after = (float(mismatch(net.features(x[target.places]), real, "linear")) for x in (x0, moved))
        assert after < 0.999 * before


def test_many_real_images_are_read_in_parts_that_fit(monkeypatch):
    x0, term, sizes = torch.randn((4, 1, 8, 8), generator=rng.generator("x0")), toy(batch=5, augmentation="dsa"), []
    whole = term.delta(state_of(x0, torch.zeros(4)))

    def counted(target):
        return dataclasses.replace(target, real=lambda rows: sizes.append(len(rows)) or target.real(rows))

    monkeypatch.setattr(network_kernel, "images_at_once", lambda net, shape: {(1, 8, 8): 2}[shape])
    parts = dataclasses.replace(term, targets=tuple(map(counted, term.targets)))
    torch.testing.assert_close(parts.delta(state_of(x0, torch.zeros(4))), whole)
    assert sizes == [2, 2, 1] * 2


@pytest.mark.parametrize("factor", [1e-25, 1e25])
@pytest.mark.parametrize("kernel", ["linear", "distance"])
def test_features_of_any_size_guide_as_those_near_one(factor, kernel):
    """Those of an EfficientNet with random weights are 1e-24, whose square is no float32."""
    x0, term = torch.randn((4, 1, 8, 8), generator=rng.generator("x0")), toy(kernel=kernel)
    expected, make = term.delta(state_of(x0, torch.zeros(4))), term.matching.network

    def scaled(*place):
        net = make(*place)
        features = net.features
        net.features = lambda images: factor * features(images)
        return net

    matching = dataclasses.replace(term.matching, network=scaled)
    found = dataclasses.replace(term, matching=matching).delta(state_of(x0, torch.zeros(4)))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
