"""rded: crops as torchvision cuts them, their scores and places by hand, teachers, and whole runs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

import dap
from dap import rng
from dap.data.classmap import build_class_map
from dap.data.open import open_source
from dap.errors import OptionError, RunMismatchError, SourceError
from dap.methods import RDED, Context, Slot, Unit, get_method
from dap.methods.common.classifier import Classifier
from dap.methods.rded import padded, put_together, random_square
from dap.nets import create_net
from dap.nets.teacher_file import write_teacher
from dap.priors import NoPrior
from dap.sampling import SamplingSettings
from dap.selection import permutation

SMALL = RDED(images=5, crops=3, grid=2, width=4, epochs=2)
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def context_of(source, size, ipc=1, channels=3):
    settings, prior = SamplingSettings(num_inference_steps=1), NoPrior((channels, size, size))
    return Context(source, build_class_map(source, None), prior, settings, 5, ipc, size, channels)


def test_squares_are_drawn_as_torchvision_draws_them():
    draw = torch.Generator().manual_seed(0)
    boxes = [random_square(30, 40, draw) for _ in range(2000)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        crop = RandomResizedCrop(8, ratio=(1, 1))
        theirs = [crop.make_params([torch.zeros(3, 30, 40)]) for _ in range(2000)]
    ours, expected = (np.array(rows) for rows in (boxes, [(p["top"], p["left"], p["height"]) for p in theirs]))
    assert all(p["height"] == p["width"] for p in theirs)
    for share in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert np.abs(np.quantile(ours, share, axis=0) - np.quantile(expected, share, axis=0)).max() <= 1.5
    assert np.abs(ours.mean(0) - expected.mean(0)).max() < 0.6
    assert random_square(4, 400, torch.Generator().manual_seed(0)) == (0, 198, 4)  # nothing fits: the middle


def test_crops_go_to_their_places():
    crops = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 3, 3)
    images = put_together(crops, 2, 7)  # places of 4 and 3 pixels
    for i in range(2):
        expected = torch.empty(7, 7)
        expected[:4, :4], expected[:4, 4:], expected[4:, :4], expected[4:, 4:] = i, 2 + i, 4 + i, 6 + i
        assert torch.equal(images[i, 0], expected)
    image = padded(torch.ones(1, 3, 2, 2), 5)[0]
    assert (image[:, 1:3, 1:3] == 1).all() and image.sum() == pytest.approx(12 + (21 * (2 * MEAN - 1)).sum().item())


@pytest.mark.parametrize("images", [5, 4])
def test_a_class_by_hand(monkeypatch, photographs, images):
    """Every crop is cut by torchvision and scored in float64; the best of each image, then the best four, in order."""
    monkeypatch.setattr("dap.methods.rded.TOGETHER", 2)  # several parts, the last one smaller
    monkeypatch.setattr("dap.methods.common.classifier.AT_ONCE", 4)
    source = open_source(photographs)
    context, method = context_of(source, 12), dataclasses.replace(SMALL, images=images)
    net = create_net("convnet3", width=4, channels=3, classes=2, size=12, generator=torch.Generator().manual_seed(3))
    exact = create_net(
        "convnet3", width=4, channels=3, classes=2, size=12, generator=torch.Generator().manual_seed(3)
    ).double()
    made = method.make(context, Unit(0, (Slot(1, 0),)), Classifier(net, {}))
    best = []
    rows = source.of_class(1)
    for row in rows[permutation(len(rows), 5, "oak tree")[:images]].tolist():
        draw = rng.generator(5, "rded", source.ids[row], 0)
        pixels = torch.from_numpy(source.pixels(row, channels=3)).double() / 255
        scored = []
        for _ in range(3):
            top, left, side = random_square(*pixels.shape[1:], draw)
            crop = tv.resized_crop(pixels, top, left, side, side, [6, 6], antialias=True)
            image = MEAN.double().expand(3, 12, 12).clone()
            image[:, 3:9, 3:9] = crop
            logits = exact(2 * image[None] - 1)[0]
            scored.append((-torch.log_softmax(logits, 0)[1].item(), crop))
        best.append(min(scored, key=lambda pair: pair[0]))
    best.sort(key=lambda pair: pair[0])
    parts = [crop for _, crop in best[:4]]
    expected = torch.cat([torch.cat(parts[:2], 2), torch.cat(parts[2:], 2)], 1)
    assert (made[0].double() - 255 * expected).abs().max() < 0.51
    assert images == 4 or not math.isclose(best[3][0], best[4][0], rel_tol=1e-4), "the fifth is left out"


def test_a_part_of_a_class_gets_its_own_images(photographs):
    context = context_of(open_source(photographs), 12, ipc=4)
    net = create_net("convnet3", width=4, channels=3, classes=2, size=12, generator=torch.Generator().manual_seed(3))
    method, classifier = dataclasses.replace(SMALL, grid=1), Classifier(net, {})
    whole = method.make(context, Unit(0, tuple(Slot(1, number) for number in range(4))), classifier)
    part = method.make(context, Unit(1, (Slot(0, 0), Slot(1, 2), Slot(1, 3))), classifier)
    assert torch.equal(part[1:], whole[2:]) and not torch.equal(part[1:], whole[:2])


def test_runs_are_the_same_to_the_byte_and_resume(photographs, tmp_path):
    settings = {"method": SMALL, "ipc": 1, "batch_size": 1, "size": 16, "progress": False}
    whole = dap.distill(photographs, out=tmp_path / "whole", **settings)
    assert whole.to_torch()[0].shape == (2, 3, 16, 16) and whole.manifest["record"] == {"epochs": 2}

    def killed(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dap.distill(photographs, out=tmp_path / "cut", callback_on_step_end=killed, **settings)
    cut = dap.distill(photographs, out=tmp_path / "cut", **settings)
    for file in whole.files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()
    dap.distill(photographs, out=tmp_path / "cut", remake="cat", **settings)
    same = [(tmp_path / "whole" / f).read_bytes() == (tmp_path / "cut" / f).read_bytes() for f in cut.files]
    assert same == [False, True]
    dap.distill(photographs, out=tmp_path / "one", classes=["cat"], **settings)
    with pytest.raises(RunMismatchError, match="a classifier of all classes"):
        dap.distill(photographs, out=tmp_path / "one", **settings)


def trained_net(source):
    """A network that tells a source's two classes apart; its first output is that of the second class."""
    net = create_net(
        "convnet3", width=4, channels=3, classes=2, size=16, generator=torch.Generator().manual_seed(3), norm="instance"
    )
    images = (torch.from_numpy(source.images(range(10), size=16, channels=3)) / 255 - MEAN) / STD
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(images), 1 - torch.tensor(source.labels)).backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def written(file, net, class_names):
    write_teacher(
        file, net, network="convnet3", class_names=class_names, channels=3, size=16, margin=False, width=4,
        norm="instance", grey_padding=1, accuracy=90.0, measured_on="test images", images=10, constants={},
    )  # fmt: skip


def test_a_teacher_of_another_order_or_without_training_is_refused(photographs, tmp_path):
    net, context = trained_net(open_source(photographs)), context_of(open_source(photographs), 16)
    chance = create_net(
        "convnet3", width=4, channels=3, classes=2, size=16, generator=torch.Generator().manual_seed(3), norm="instance"
    )
    for number, (teacher, names, message) in enumerate((
        (net, ["cat", "oak tree"], "its classes are in another order: 0.0 % of 10 images are right, and 100.0 % would"),
        (chance, ["oak tree", "cat"], "of 10 images are right, where chance is 50.0 %"),
    )):  # fmt: skip
        file = tmp_path / f"{number}.safetensors"
        written(file, teacher, names)
        with pytest.raises(OptionError, match=message):
            RDED(images=5, crops=3, teacher=str(file)).prepare(context)


def test_a_teacher_is_taken_by_its_classes(photographs, tmp_path):
    net, file = trained_net(open_source(photographs)), tmp_path / "teacher.safetensors"
    written(file, net, ["oak tree", "cat"])
    method = RDED(images=5, crops=3, teacher=str(file))
    classifier = method.prepare(context_of(open_source(photographs), 16))
    images = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = net(((images + 1) / 2 - MEAN) / STD).flip(1)  # its classes are in another order
    torch.testing.assert_close(classifier.logits(images), expected)
    losses = classifier.surprise(images, 1, torch.device("cpu"))
    torch.testing.assert_close(losses, -torch.log_softmax(expected, 1)[:, 1])
    made = dap.distill(photographs, method=method, ipc=1, size=16, out=tmp_path / "out", progress=False)
    assert made.manifest["record"]["teacher"] == "teacher.safetensors" and method.shared() is None
    for options, message in (
        ({"size": 24}, "takes images of 16 pixels, this run's have 24: give size=16"),
        ({"size": 16, "channels": "grey"}, "takes images of 3 channels, this run's have 1"),
        ({"size": 16, "classes": None, "ipc": 2}, "class 'cat' gives 5 crops, ipc=2 needs 8"),
    ):
        with pytest.raises(OptionError, match=message):
            dap.distill(photographs, method=method, out=tmp_path / "no", progress=False, **{"ipc": 1} | options)
    with pytest.raises(SourceError, match="there is no such file"):
        dap.distill(photographs, method=RDED(teacher="none.pt"), ipc=1, out=tmp_path / "no", progress=False)
    assert not (tmp_path / "no").exists()


def test_options():
    paper = get_method("rded:paper")
    assert paper == RDED() and (paper.images, paper.crops, paper.grid) == (300, 5, 2)
    for options, message in (
        ({"crops": 0}, "crops: expected"),
        ({"teacher": 3}, "teacher: expected a file"),
        ({"teacher_options": {"network": "resnet18"}}, "teacher_options: they are for a teacher"),
        ({"network": "resnet"}, "unknown network"),
        ({"epochs": 1}, "epochs: expected"),
    ):
        with pytest.raises(OptionError, match=message):
            RDED(**options)
