"""The states of networks that are trained on the real images of a run, against trainings step by step."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_dap import SEED, context

from dap import rng
from dap.errors import OptionError
from dap.methods.common.cached_networks import prepare_classifier, prepare_states
from dap.methods.common.drawn_networks import NetworkOptions
from dap.nets import ClassifierTraining, create_net
from dap.priors.dit import DiTPrior

EPOCHS = 2


@pytest.fixture
def given(make_pipeline, tmp_path, monkeypatch):
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    return context(DiTPrior(make_pipeline()))


def trained(given, network, number):
    """Copies of a network before its training and after each epoch; an epoch of these few images is one step."""
    key = (number,) if number else ()
    net = create_net(
        network, width=4, channels=1, classes=3, size=32, generator=rng.generator(SEED, "surrogate", "net", *key)
    )
    images, labels = given.images(range(len(given.source))), torch.tensor(given.source.labels)
    training = ClassifierTraining(
        net, images.__getitem__, labels, steps=EPOCHS, batch_size=len(labels), peak_lr=3e-3, weight_decay=5e-4,
        momentum=None, max_shift=3, generator=rng.generator(SEED, "surrogate", "training", *key),
        device=torch.device("cpu"), at_once=len(labels),
    )  # fmt: skip
    states = []
    for epoch in range(EPOCHS + 1):
        states.append({name: value.clone() for name, value in net.state_dict().items()})
        if epoch < EPOCHS:
            training.step()
    return states


@pytest.mark.parametrize("network", ["convnet3", "convnet4", "small_mlp", "small_resnet_ap10", "small_vit"])
def test_states_are_those_of_a_training(given, network):
    states = prepare_states(given, network, 4, EPOCHS, 2)
    assert states.weights.shape[:2] == (2, EPOCHS + 1)
    for number in range(2):
        for state, expected in enumerate(trained(given, network, number)):
            net = states.network(number, state)
            assert not net.training and not any(each.requires_grad for each in net.parameters())
            for name, value in net.state_dict().items():
                torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_trainings_are_found_in_the_cache_one_by_one(given, monkeypatch):
    one = prepare_states(given, "convnet3", 4, EPOCHS, 1)
    seen, step = [], ClassifierTraining.step
    monkeypatch.setattr(ClassifierTraining, "step", lambda self: (seen.append(1), step(self))[1])
    two = prepare_states(given, "convnet3", 4, EPOCHS, 2)
    assert len(seen) == EPOCHS and torch.equal(two.weights[:1], one.weights)
    assert not torch.equal(two.weights[0, 0], two.weights[1, 0])


def test_the_last_state_is_that_of_a_classifier(given):
    states = prepare_states(given, "convnet3", 4, EPOCHS, 1)
    classifier = prepare_classifier(given, "convnet3", 4, EPOCHS)
    for ours, theirs in zip(states.network(0, -1).parameters(), classifier.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_steps_draw_all_states_and_judges_are_the_ends(given):
    options = NetworkOptions(width=4, epochs=EPOCHS, trainings=2)
    shape, states = (1, 32, 32), options.trained(given)
    rows = states[0].weights

    def place(net):
        flat = torch.cat([each.flatten() for each in net.parameters()])
        return next((n, s) for n in range(2) for s in range(EPOCHS + 1) if torch.equal(rows[n, s], flat))

    drawn = {place(options.drawn(given, shape, states, 0, step, 0)) for step in range(60)}
    assert drawn == {(n, s) for n in range(2) for s in range(EPOCHS + 1)}
    assert {place(options.judge(given, states, 0, step, 0)) for step in range(20)} == {(0, EPOCHS), (1, EPOCHS)}


def test_kinds_that_are_trained_take_turns(given):
    options = NetworkOptions(networks=("small_mlp", "small_vit"), epochs=EPOCHS)
    shape, states = (1, 32, 32), options.trained(given)
    for turn in range(4):
        for net in (options.drawn(given, shape, states, turn, 3, 0), options.judge(given, states, turn, 3, 0)):
            parameters = torch.cat([each.flatten() for each in net.parameters()])
            rows = states[turn % 2].weights[0]
            assert rows.shape[1] == len(parameters) and any(torch.equal(row, parameters) for row in rows)
    assert states[0].weights.shape[2] != states[1].weights.shape[2]


@pytest.mark.parametrize("network", ["resnet18", "alexnet", "swin_v2_t"])
def test_networks_with_statistics_or_draws_are_not_trained(given, network):
    colour, shape = dataclasses.replace(given, channels=3, size=64), (3, 64, 64)
    NetworkOptions(networks=network).check_networks(colour, shape)
    words = "batch normalisation" if network == "resnet18" else "dropout or stochastic depth"
    with pytest.raises(OptionError, match=f"networks: {network} has {words}, .* epochs=0"):
        NetworkOptions(networks=network, epochs=EPOCHS).check_networks(colour, shape)


def test_states_that_do_not_fit_the_cache_are_refused_before_a_training(given, monkeypatch):
    monkeypatch.setenv("DAP_CACHE_SIZE", "1KB")
    monkeypatch.setattr(ClassifierTraining, "step", lambda self: pytest.fail("trained"))
    with pytest.raises(OptionError, match="states of a training of convnet3"):
        prepare_states(given, "convnet3", 4, EPOCHS, 1)


def test_one_class_has_nothing_to_tell_apart(given):
    alone = dataclasses.replace(given, classes=given.classes[:1])
    with pytest.raises(OptionError, match="two classes"):
        NetworkOptions(epochs=EPOCHS).check_networks(alone, (1, 32, 32))
