"""The surrogate classifier: its gradients against float64, which checkpoints are kept, and the cache."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from test_dap import COUNTS, NAMES, context, images
from torch.nn import functional

from dap.errors import OptionError
from dap.methods.common import surrogate as module
from dap.methods.common.surrogate import Surrogate, SurrogateTraining, mean_gradients, prepare_surrogate
from dap.nets import create_net
from dap.priors.dit import DiTPrior
from dap.storage.cache import cache_folder

QUICK = SurrogateTraining(width=4, epochs=3, similarity=1.0, references=3)


@pytest.fixture
def prior(tiny_pipeline):
    return DiTPrior(tiny_pipeline)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trainings(monkeypatch):
    """The options of each training."""
    counted = []
    train = module.train_classifier

    def counting(*args, **options):
        counted.append(options)
        train(*args, **options)

    monkeypatch.setattr(module, "train_classifier", counting)
    return counted


def small_net(seed=0, width=4):
    return create_net(
        "convnet3", width=width, channels=1, classes=3, size=32, generator=torch.Generator().manual_seed(seed)
    )


def exact_gradients(net, pixels, targets):
    """∇_θ of the cross-entropy of each image, written out, in float64: rows (B, P)."""
    net, rows = copy.deepcopy(net).double(), []
    for image, target in zip(pixels.double(), targets.tolist(), strict=True):
        logits = net(image[None])[0]
        loss = torch.log(torch.exp(logits - logits.max()).sum()) - (logits[target] - logits.max())
        rows.append(torch.cat([each.reshape(-1) for each in torch.autograd.grad(loss, list(net.parameters()))]))
    return torch.stack(rows)


def flat(net):
    return torch.cat([each.detach().flatten() for each in net.parameters()])


def test_mean_gradients_equal_the_mean_over_single_images(monkeypatch):
    net = small_net()
    real = [torch.from_numpy(part.copy())[:, None] for part in np.split(images(), np.cumsum(COUNTS)[:-1])]
    expected = [
        exact_gradients(net, own.double() / 127.5 - 1, torch.full((len(own),), target)).mean(0)
        for target, own in enumerate(real)
    ]
    for batch in (50, 3):
        monkeypatch.setattr(module, "GRADIENT_BATCH", batch)
        found = mean_gradients(net, real)
        assert found.shape == (3, sum(each.numel() for each in net.parameters())) and not found.requires_grad
        torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_gradients_of_each_image_at_each_checkpoint():
    nets = [small_net(seed) for seed in (1, 2)]
    surrogate = Surrogate(small_net(), (1, 2), torch.stack([flat(net) for net in nets]), torch.zeros(2, 3, 1))
    pixels = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(3)).requires_grad_()
    targets = torch.tensor([2, 0, 1, 2])
    for number, net in enumerate(nets):
        found = surrogate.gradients_of(number, pixels, targets)
        torch.testing.assert_close(found.double(), exact_gradients(net, pixels, targets), rtol=1e-4, atol=1e-5)
        alone = torch.cat([surrogate.gradients_of(number, pixels[i : i + 1], targets[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
        (slope,) = torch.autograd.grad(found[1].square().sum(), pixels)
        assert slope[1].abs().max() > 0 and slope[[0, 2, 3]].abs().max() == 0


@pytest.mark.parametrize(
    ("angles", "limit", "kept"),
    [
        # cos 45° = 0.71 is not below 0.7, cos 46° = 0.69 is; the angle counts from the last one that was kept
        ((0, 45, 46, 50, 92, 93), 4, (1, 3, 5)),
        ((0, 90, 0, 90, 0, 90), 4, (1, 2, 3, 4)),
        ((0, 90, 0, 90, 0, 90), 2, (1, 2)),
        ((0, 10, 20, 30, 40, 45), 4, (1,)),
    ],
)
def test_checkpoints_are_kept_where_made_up_gradients_turn(prior, cache, monkeypatch, angles, limit, kept):
    turns = iter(angles)
    seen = []

    def made_up(net, real):
        angle = np.deg2rad(next(turns))
        seen.append(flat(net))
        return torch.tensor([[np.cos(angle), np.sin(angle)]] * 3, dtype=torch.float32)

    monkeypatch.setattr(module, "mean_gradients", made_up)
    training = dataclasses.replace(QUICK, epochs=len(angles), similarity=0.7, checkpoints=limit)
    found = prepare_surrogate(context(prior), training)
    assert found.epochs == kept and found.gradients.shape == (len(kept), 3, 2)
    assert torch.equal(found.weights, torch.stack([seen[epoch - 1] for epoch in kept]))
    angle_of = torch.rad2deg(torch.atan2(found.gradients[:, 0, 1], found.gradients[:, 0, 0]))
    torch.testing.assert_close(angle_of, torch.tensor([float(angles[epoch - 1]) for epoch in kept]))


def test_similarity_is_the_mean_over_classes_of_the_cosine(prior, cache, monkeypatch):
    """Two of three classes turn right round: the mean is −1/3. One vector of all classes would have cosine 0.98."""
    long, short = torch.tensor([[10.0, 0.0]]), torch.tensor([[0.7, 0.0]])
    found = iter([torch.cat([long, short, short]), torch.cat([long, -short, -short])])
    monkeypatch.setattr(module, "mean_gradients", lambda *_: next(found))
    training = dataclasses.replace(QUICK, epochs=2, similarity=0.7)
    assert prepare_surrogate(context(prior), training).epochs == (1, 2)


def test_epochs_become_steps_and_training_helps(prior, cache, trainings, monkeypatch):
    monkeypatch.setattr(module, "BATCH_SIZE", 5)
    given = context(prior)
    found = prepare_surrogate(given, dataclasses.replace(QUICK, epochs=8, checkpoints=8))
    (options,) = trainings
    assert (options["steps"], options["batch_size"]) == (8 * 3, 5), "12 images are 3 batches of 5"
    assert found.epochs[0] == 1 and found.epochs[-1] <= 8
    pixels, targets = given.images(range(sum(COUNTS))).float() / 127.5 - 1, torch.tensor(given.source.labels)

    @torch.no_grad()
    def loss(number):
        sizes = [each.numel() for each in found.net.parameters()]
        for each, part in zip(found.net.parameters(), found.weights[number].split(sizes), strict=True):
            each.copy_(part.view(each.shape))
        return functional.cross_entropy(found.net(pixels), targets).item()

    assert loss(-1) < loss(0)


def test_gradients_belong_to_the_real_images_of_the_class(prior, cache):
    given = context(prior)
    found = prepare_surrogate(given, dataclasses.replace(QUICK, references=100))
    assert [entry.name for entry in given.classes] == list(NAMES)
    real = [torch.from_numpy(part.copy())[:, None] for part in np.split(images(), np.cumsum(COUNTS)[:-1])]
    for number in range(len(found.epochs)):
        pixels = torch.cat(real).float() / 127.5 - 1
        targets = torch.tensor(np.repeat(np.arange(3), COUNTS))
        rows = found.gradients_of(number, pixels, targets)
        means = torch.stack([rows[targets == target].mean(0) for target in range(3)])
        torch.testing.assert_close(found.gradients[number], means, rtol=1e-3, atol=1e-5)


def test_prepared_once_and_read_back(prior, cache, trainings):
    given = context(prior)
    first, again = (prepare_surrogate(given, QUICK) for _ in range(2))
    assert len(trainings) == 1 and cache_folder() == cache
    assert first.epochs == again.epochs
    assert torch.equal(first.weights, again.weights) and torch.equal(first.gradients, again.gradients)
    (file,) = (cache / "surrogates").iterdir()
    assert file.suffix == ".safetensors"
    written = file.read_bytes()
    file.unlink()
    prepare_surrogate(given, QUICK)
    assert len(trainings) == 2 and file.read_bytes() == written


@pytest.mark.parametrize(
    "change",
    [{"seed": 6}, {"width": 3}, {"epochs": 4}, {"references": 2}, {"similarity": 0.5}, {"checkpoints": 2}],
    ids=str,
)
def test_anything_else_is_made_anew(prior, cache, trainings, change):
    given = context(prior)
    first = prepare_surrogate(given, QUICK)
    if "seed" in change:
        other = prepare_surrogate(dataclasses.replace(given, **change), QUICK)
        assert not torch.equal(first.weights[0], other.weights[0])
    else:
        prepare_surrogate(given, dataclasses.replace(QUICK, **change))
    assert len(trainings) == 2 and len(list((cache / "surrogates").iterdir())) == 2


def test_nothing_comes_from_the_global_generator(prior, cache):
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(prepare_surrogate(context(prior), QUICK))
        assert torch.equal(torch.get_rng_state(), before)
        for file in (cache / "surrogates").iterdir():
            file.unlink()
    assert torch.equal(found[0].weights, found[1].weights) and torch.equal(found[0].gradients, found[1].gradients)


def test_a_damaged_file_and_a_cache_that_cannot_be_written(prior, cache, monkeypatch, tmp_path):
    given = context(prior)
    before = prepare_surrogate(given, QUICK)
    (file,) = (cache / "surrogates").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert torch.equal(prepare_surrogate(given, QUICK).gradients, before.gradients)
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "taken"))
    with pytest.raises(OptionError, match=r"cannot be written.*set DAP_CACHE"):
        prepare_surrogate(given, QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "convnet4"}, "unknown network 'convnet4'; did you mean 'convnet3'"),
        ({"width": 0}, "width: expected a whole number of at least 1, got 0"),
        ({"epochs": 1}, "epochs: expected a whole number of at least 2, got 1"),
        ({"checkpoints": True}, "checkpoints: expected a whole number of at least 1, got True"),
        ({"references": 0.5}, "references: expected a whole number of at least 1, got 0.5"),
        ({"similarity": 1.5}, "similarity: expected a number from -1 to 1, got 1.5"),
    ],
    ids=str,
)
def test_options_are_checked(options, message):
    with pytest.raises(OptionError) as error:
        SurrogateTraining(**options)
    assert message in str(error.value)
