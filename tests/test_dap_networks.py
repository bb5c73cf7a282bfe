"""dap_networks: its options, memory, sums and starts; tests/test_network_kernel.py has its step."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import test_dap
import torch
from test_network_kernel import SMALL, UNIT, context, state_of

import dap
from dap import rng
from dap.errors import OptionError
from dap.methods import DAPNetworks, Guided, Slot, Unit
from dap.methods.common import held_images
from dap.methods.common.network_guide import NetworkKernel
from dap.methods.dap_networks import medoids
from dap.methods.dap_set import SetEnergy
from dap.methods.mgd3 import Mode
from dap.nets import create_net
from dap.nets.network import LibraryNetwork
from dap.priors import load_prior
from dap.priors.dit import DiTPrior


def test_a_class_is_made_alike_alone_and_beside_others(make_pipeline):
    given, method = context(DiTPrior(make_pipeline())), DAPNetworks(**SMALL)
    artefact = method.prepare(given)
    whole = method.make(given, UNIT, artefact)
    alone = method.make(given, Unit(0, (Slot(2, 0), Slot(2, 3))), artefact)
    torch.testing.assert_close(alone, whole[[0, 2]], rtol=1e-3, atol=1e-3)


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


def test_real_images_are_planned_for_the_slots_that_share_them(make_pipeline, monkeypatch):
    given = context(DiTPrior(make_pipeline()))
    own = [DAPNetworks(width=4, references=count).demand(given).own for count in (1, 3, 7, 100)]
    # of the classes of 4, 1 and 7 images, with 4, 1 and 4 slots, one is compared with most images a slot
    assert [each - own[0] for each in own] == [0, 0, 3 * 1024 // 4, 3 * 1024 // 4]
    latents = (DAPNetworks(width=4, references=count, space="latent").demand(given) for count in (1, 100))
    assert len(set(latents)) == 1
    monkeypatch.setattr(held_images, "HELD_BYTES", 7 * 1024 - 1)
    assert DAPNetworks(width=4, references=7).demand(given).own == own[0] - 1024


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


@pytest.mark.parametrize(
    "others",
    [[SetEnergy(references=3)], [Mode(), SetEnergy(references=3)], [NetworkKernel(**SMALL, space="latent")]],
    ids=["set energy", "set energy and modes", "another kernel"],
)
def test_a_sum_guides_by_all_its_terms(make_pipeline, others):
    given = context(DiTPrior(make_pipeline()))

    def made(*guides):
        method = Guided(tuple(guides))
        return method.make(given, UNIT, method.prepare(given))

    both = made(NetworkKernel(**SMALL), *others)
    assert torch.isfinite(both).all()
    assert not torch.allclose(both, made(*others)) and not torch.allclose(both, made(NetworkKernel(**SMALL)))
    assert torch.equal(made(NetworkKernel(**SMALL, scale=0.0), *others), made(*others))


@pytest.mark.parametrize("options", [{}, {"space": "latent"}, {"epochs": 2, "verdict": 1.0}], ids=str)
@pytest.mark.parametrize("vae_dtype", ["float32", "bfloat16"])
def test_colour_images_and_half_precision_guide_near_to_float32(make_pipeline, tmp_path, options, vae_dtype):
    make_pipeline(image_channels=3).save_pretrained(tmp_path / "prior")
    made = []
    for dtype, vae in (("float32", "float32"), ("bfloat16", vae_dtype)):
        prior = load_prior(tmp_path / "prior", dtype=dtype, options={"vae_dtype": vae})
        given = dataclasses.replace(context(prior), channels=3)
        method = DAPNetworks(**SMALL | options)
        term = method.term(given, UNIT, method.prepare(given))
        x0 = torch.randn((5, *prior.latent_shape), generator=rng.generator("x0"))
        made.append(term.delta(state_of(x0, given.labels(UNIT))))
    assert made[1].dtype == torch.float32
    assert float(torch.cosine_similarity(made[0].flatten(), made[1].flatten(), 0)) > 0.95


@pytest.mark.parametrize("size", [32, 128])
def test_kinds_of_the_mixed_preset_take_turns(size):
    method = DAPNetworks(**DAPNetworks.presets["mixed"])
    given = SimpleNamespace(seed=0)
    nets = [method.random_network(given, (3, size, size), turn, 0, 0) for turn in range(4)]
    assert len({type(net.net) if isinstance(net, LibraryNetwork) else type(net) for net in nets}) == 4
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
