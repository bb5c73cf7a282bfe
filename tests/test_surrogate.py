"""The surrogate classifier: its gradients against float64, which checkpoints are kept, and the cache."""

from __future__ import annotations

import copy
import dataclasses
import shutil

import numpy as np
import pytest
import torch
from test_dap import COUNTS, NAMES, context, images
from torch.nn import functional

from dap import rng
from dap.errors import FormatError, OptionError
from dap.methods.common import class_gradients, held_images
from dap.methods.common import surrogate_training as module
from dap.methods.common.class_gradients import mean_gradient
from dap.methods.common.surrogate import Surrogate, SurrogateTraining, prepare_surrogate
from dap.nets import create_net, shift_flip
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
    train = module.ClassifierTraining

    def counting(*args, **options):
        counted.append(options)
        return train(*args, **options)

    monkeypatch.setattr(module, "ClassifierTraining", counting)
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


def in_plane(net, x, y):
    """A gradient whose first two numbers are x and y, and the others zero."""
    gradient = torch.zeros_like(flat(net))
    gradient[:2] = torch.tensor([x, y])
    return gradient


def gradients_of(surrogate):
    return surrogate.real_gradients(range(3))


def test_a_mean_gradient_is_the_mean_over_single_images():
    net = small_net()
    real = [torch.from_numpy(part.copy())[:, None] for part in np.split(images(), np.cumsum(COUNTS)[:-1])]
    expected = [
        exact_gradients(net, own.double() / 127.5 - 1, torch.full((len(own),), target)).mean(0)
        for target, own in enumerate(real)
    ]
    for batch in (50, 3):
        for target, class_images in enumerate(real):
            found = mean_gradient(net, iter(class_images.split(batch)), target)
            assert found.shape == (sum(each.numel() for each in net.parameters()),) and not found.requires_grad
            torch.testing.assert_close(found.double(), expected[target], rtol=1e-4, atol=1e-5)


def test_gradients_of_each_image_at_each_checkpoint():
    nets = [small_net(seed) for seed in (1, 2)]
    surrogate = Surrogate(small_net(), (1, 2), torch.stack([flat(net) for net in nets]), ())
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
        ((0, 45, 46, 50, 92, 93), 4, (0, 2, 4)),
        ((0, 90, 0, 90, 0, 90), 4, (0, 1, 2, 3)),
        ((0, 90, 0, 90, 0, 90), 2, (0, 1)),
        ((0, 10, 20, 30, 40, 45), 4, (0,)),
    ],
)
def test_checkpoints_are_kept_where_made_up_gradients_turn(prior, cache, monkeypatch, angles, limit, kept):
    turns = iter(angles)
    seen = []

    def made_up(net, batches, target):
        if target == 0:
            seen.append((flat(net), np.deg2rad(next(turns))))
        angle = seen[-1][1]
        return in_plane(net, np.cos(angle), np.sin(angle))

    monkeypatch.setattr(class_gradients, "mean_gradient", made_up)
    training = dataclasses.replace(QUICK, epochs=len(angles) - 1, similarity=0.7, checkpoints=limit)
    found = prepare_surrogate(context(prior), training)
    gradients = found.real_gradients([0])
    assert found.epochs == kept and gradients.shape == (len(kept), 1, found.weights.shape[1])
    assert torch.equal(found.weights, torch.stack([seen[epoch][0] for epoch in kept]))
    angle_of = torch.rad2deg(torch.atan2(gradients[:, 0, 1], gradients[:, 0, 0]))
    torch.testing.assert_close(angle_of, torch.tensor([float(angles[epoch]) for epoch in kept]))
    assert len(found.files) == len(list(found.files[0].parent.iterdir())) - 1, "gradients of others are not kept"


def test_similarity_is_the_mean_over_classes_of_the_cosine(prior, cache, monkeypatch):
    """Two of three classes turn right round: the mean is −1/3. One vector of all classes would have cosine 0.98."""
    lengths = iter([10.0, 0.7, 0.7, 10.0, -0.7, -0.7, 10.0, -0.7, -0.7])
    monkeypatch.setattr(class_gradients, "mean_gradient", lambda net, *_: in_plane(net, next(lengths), 0.0))
    training = dataclasses.replace(QUICK, epochs=2, similarity=0.7)
    assert prepare_surrogate(context(prior), training).epochs == (0, 1)


def test_epochs_become_steps_and_training_helps(prior, cache, trainings, monkeypatch):
    monkeypatch.setattr(module, "IGD_SGD", module.IGD_SGD._replace(batch_size=5))
    given = context(prior)
    found = prepare_surrogate(given, dataclasses.replace(QUICK, epochs=8, checkpoints=8))
    (options,) = trainings
    assert (options["steps"], options["batch_size"]) == (8 * 3, 5), "12 images are 3 batches of 5"
    assert found.epochs[0] == 0 and found.epochs[-1] <= 8
    pixels, targets = given.images(range(sum(COUNTS))).float() / 127.5 - 1, torch.tensor(given.source.labels)

    @torch.no_grad()
    def loss(number):
        sizes = [each.numel() for each in found.net.parameters()]
        for each, part in zip(found.net.parameters(), found.weights[number].split(sizes), strict=True):
            each.copy_(part.view(each.shape))
        return functional.cross_entropy(found.net(pixels), targets).item()

    assert loss(-1) < loss(0)


def test_the_surrogate_is_trained_as_the_released_one_from_an_untrained_first_checkpoint(prior, cache, monkeypatch):
    """SGD of 0.01 with momentum 0.9 and weight decay 5e-4 in batches of 64, written out."""
    assert module.IGD_SGD == (64, 0.01, 5e-4, 0.9)
    given = context(prior)
    found = prepare_surrogate(given, dataclasses.replace(QUICK, epochs=2))
    assert found.epochs == (0, 1, 2)
    net = create_net(
        "convnet3", width=4, channels=1, classes=3, size=32, generator=rng.generator(given.seed, "surrogate", "net")
    )
    torch.testing.assert_close(found.weights[0], flat(net), rtol=0, atol=0)
    draws, momentum = rng.generator(given.seed, "surrogate", "training"), torch.zeros_like(flat(net))
    pixels, labels = given.images(range(12)).float() / 127.5 - 1, torch.tensor(given.source.labels)
    for number in (1, 2):  # twelve images are one batch
        order = torch.randperm(12, generator=draws)
        loss = functional.cross_entropy(net(shift_flip(pixels[order], draws, 3)), labels[order])
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(net.parameters()))])
        momentum = 0.9 * momentum + gradient + 5e-4 * flat(net)
        torch.nn.utils.vector_to_parameters(flat(net) - 0.01 * momentum, net.parameters())
        torch.testing.assert_close(found.weights[number], flat(net), rtol=0, atol=1e-6)


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
        torch.testing.assert_close(gradients_of(found)[number], means, rtol=1e-3, atol=1e-5)
    assert torch.equal(found.real_gradients([2, 0, 2]), gradients_of(found)[:, [2, 0, 2]])


def test_prepared_once_and_read_back(prior, cache, trainings):
    given = context(prior)
    first, again = (prepare_surrogate(given, QUICK) for _ in range(2))
    assert len(trainings) == 1 and cache_folder() == cache
    assert first.epochs == again.epochs
    assert torch.equal(first.weights, again.weights) and torch.equal(gradients_of(first), gradients_of(again))
    (folder,) = (cache / "surrogates").iterdir()
    written = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert written.keys() == {"states.safetensors", *(file.name for file in first.files)}
    shutil.rmtree(folder)
    prepare_surrogate(given, QUICK)
    assert len(trainings) == 2 and {file.name: file.read_bytes() for file in folder.iterdir()} == written


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
        surrogate = prepare_surrogate(context(prior), QUICK)
        found.append((surrogate.weights, gradients_of(surrogate)))
        assert torch.equal(torch.get_rng_state(), before)
        shutil.rmtree(cache / "surrogates")
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def test_a_damaged_file_and_a_cache_that_cannot_be_written(prior, cache, monkeypatch, tmp_path):
    given = context(prior)
    surrogate = prepare_surrogate(given, QUICK)
    before, file = gradients_of(surrogate), surrogate.files[0]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert torch.equal(gradients_of(prepare_surrogate(given, QUICK)), before)
    file.write_bytes(b"")
    with pytest.raises(FormatError, match=r"gradients-0\.safetensors: not the safetensors file.*delete it"):
        surrogate.real_gradients([0])
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "taken"))
    with pytest.raises(OptionError, match=r"cannot be written.*set DAP_CACHE"):
        prepare_surrogate(given, QUICK)


def test_streamed_images_give_the_same_bytes_as_images_in_memory(prior, cache, monkeypatch):
    given, found = context(prior), []
    for limit in (held_images.HELD_BYTES, 0):
        monkeypatch.setattr(held_images, "HELD_BYTES", limit)
        surrogate = prepare_surrogate(given, QUICK)
        found.append([surrogate.weights, gradients_of(surrogate)])
        shutil.rmtree(cache)
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))


def test_gradients_that_do_not_fit_the_disk_are_refused_before_the_training(prior, cache, trainings, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12, 10**4))
    with pytest.raises(OptionError, match=r"gradients \(4 checkpoints, 3 classes, convnet3 of width 4 with \d+ param"):
        prepare_surrogate(context(prior), QUICK)
    assert not trainings and not cache.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "convnet7"}, "unknown network 'convnet7'; did you mean 'convnet"),
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
