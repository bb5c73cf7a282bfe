"""Guidance by random networks: its mismatch against double sums, a whole step against a float64 oracle, its options."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
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
from dap.methods.common import held_images
from dap.methods.common.network_kernel import mismatch
from dap.methods.common.siamese import siamese_augmentation
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
    return net.layers[:-1](image) if hasattr(net, "layers") else net.features(image)


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
    x0 = torch.randn((5, *prior.latent_shape), generator=rng.generator("x0"))
    ours = term.delta(state_of(x0, given.labels(UNIT)))
    exact = oracle(given, artefact, method, prior, x0, 1)
    # in norm: a ReLU whose input is nearly 0 may open in one of the two precisions alone
    assert float((ours - exact).norm() / exact.norm()) < 3e-3


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
        real = net.features(target.real(torch.arange(target.count)))
        before, after = (float(mismatch(net.features(x[target.places]), real, "linear")) for x in (x0, moved))
        assert after < 0.999 * before


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


def test_images_that_are_too_many_to_hold_are_decoded_in_the_steps(make_pipeline, monkeypatch):
    given, method = context(DiTPrior(make_pipeline())), DAPNetworks(**SMALL | {"batch": 2})
    artefact = method.prepare(given)
    x0 = torch.randn((5, *given.prior.latent_shape), generator=rng.generator("x0"))
    held = method.term(given, UNIT, artefact).delta(state_of(x0, given.labels(UNIT)))
    monkeypatch.setattr(held_images, "HELD_BYTES", (4 + 1 + 7) * 32 * 32 - 1)
    decoded, images = [], type(given).images
    monkeypatch.setattr(type(given), "images", lambda own, rows: decoded.append(len(rows)) or images(own, rows))
    term = method.term(given, UNIT, artefact)
    assert not decoded
    assert torch.equal(term.delta(state_of(x0, given.labels(UNIT))), held)
    assert decoded == [2, 1, 2]


def test_real_images_are_planned_for_the_slots_that_share_them(make_pipeline):
    given = context(DiTPrior(make_pipeline()))
    few, many = (DAPNetworks(width=4, references=references).demand(given) for references in (100, 1100))
    assert many.own - few.own == 1000 * 32 * 32  # a class of one slot
    latents = (DAPNetworks(width=4, references=count, space="latent").demand(given) for count in (100, 1100))
    assert len(set(latents)) == 1


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"stop": 0.25}, True), ({"stop": 0.25, "scale": 0.0}, False), ({"stop": 0.25, "strength": 1.0}, False),
        ({"stop": 0.5}, False), ({"every": 20}, True), ({"every": 20, "start": 0.4}, False),
    ],
)  # fmt: skip
def test_guidance_that_acts_in_no_step_is_told(options, warned, make_pipeline, caplog):
    given = test_dap.context(DiTPrior(make_pipeline()), num_inference_steps=20)
    DAPNetworks(width=4, **options).check(given)
    expected = "does not guide: .* none of the steps 7 to 20 of 20, which are taken with strength=0.7"
    assert bool(re.search(expected, caplog.text)) == warned == bool(caplog.records)


@pytest.mark.parametrize("size", [32, 128])
def test_kinds_of_the_mixed_preset_take_turns_at_any_size(size):
    method = DAPNetworks(**DAPNetworks.presets["mixed"])
    given = SimpleNamespace(seed=0)
    nets = [method.random_network(given, (3, size, size), turn, 0, 0) for turn in range(4)]
    assert len({type(net.net if hasattr(net, "net") else net) for net in nets}) == 4
    assert all(torch.isfinite(net.features(torch.zeros(1, 3, size, size))).all() for net in nets)


def test_a_network_that_has_one_value_a_channel_is_refused_in_one_line(tmp_path):
    method = NetworkKernel(networks="small_resnet_ap10", space="latent")
    with pytest.raises(OptionError, match="small_resnet_ap10 does not take images of 8 pixels"):
        dap.distill("fashion-mini", method=method, ipc=1, out=tmp_path / "o", progress=False)


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
        ({"networks": "convnet3, small_mlp"}, r'networks=\["convnet3", "small_mlp"\], got'),
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
