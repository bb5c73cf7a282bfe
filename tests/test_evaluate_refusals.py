"""What an evaluation refuses before it decodes or trains anything, and what tells two teachers apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_evaluate import arrays, source
from torch import nn

import dap
from dap.errors import FormatError, OptionError
from dap.evaluation import Teacher, named_protocol, run_protocol
from dap.evaluation.recipe import Case
from dap.evaluation.soft_labels import HEADER
from dap.nets import ConvNet
from dap.nets.teacher import state_hash

TINY = {"size": 16, "margin": False, "epochs": 2, "batch_size": 8, "width": 4, "norm": "instance"}


class Scaled(nn.Module):
    """The mean of each colour times a number, which is no weight."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.factor * images.mean((2, 3)).repeat(1, 2)


@pytest.mark.parametrize(
    "protocol, options, networks",
    [("small", {}, ["small_mlp", "timm/vit_tiny_patch16_224", "convnet6"]),
     ("hard", {"size": 20}, ["convnet3", "convnet6"])],
)  # fmt: skip
def test_all_networks_are_tried_before_the_first_training(monkeypatch, protocol, options, networks) -> None:
    """The training of the first network may take hours."""
    monkeypatch.setattr("dap.evaluation.sets.run_protocol", None)
    test = source({"up": 4, "left": 4}, first=100)
    monkeypatch.setattr(type(test), "images", None)
    with pytest.raises(OptionError, match="a ConvNet of depth 6 needs images of at least 64 pixels"):
        dap.evaluate(
            source({"up": 3, "left": 3}), test, protocol=protocol, protocol_options=options, networks=networks,
            repeats=1, device="cpu",
        )  # fmt: skip


@pytest.mark.parametrize("changes", [{"batch_size": 5}, {"batch_size": 10, "accumulation": 2}, {"batch_size": 1}])
def test_a_step_too_small_for_batch_normalisation_is_found_before_the_first_training(monkeypatch, changes) -> None:
    test = source({"up": 4, "left": 4}, first=100)
    monkeypatch.setattr(type(test), "images", None)
    with pytest.raises(OptionError, match="batch_size: a step with one of 6 images is too small for the batch norm"):
        dap.evaluate(
            source({"up": 3, "left": 3}), test, protocol="hard", protocol_options={"size": 32} | changes,
            networks=["convnet3", "mobilenet_v2"], repeats=1, device="cpu",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "changes"),
    [("mobilenet_v2", {"size": 32, "batch_size": 4}), ("mobilenet_v2", {"size": 64, "batch_size": 5}),
     ("mobilenet_v2", {"size": 32, "batch_size": 20}), ("convnet3", {"size": 32, "batch_size": 5})],
)  # fmt: skip
def test_other_last_steps_are_not_refused(network, changes) -> None:
    state, recipe = torch.get_rng_state(), named_protocol("hard", changes).recipe(Case(network, 3, 2, 32))
    recipe.check_parts(network, images=6, channels=1, classes=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_teacher_of_another_size_is_refused_before_images_are_decoded(monkeypatch) -> None:
    net = ConvNet(channels=1, classes=2, size=16, width=4, depth=3, generator=torch.Generator())
    teacher = Teacher(net, name="mine", outputs=2, channels=1, size=16)
    test = source({"up": 4, "left": 4}, first=100)
    monkeypatch.setattr(type(test), "images", None)
    with pytest.raises(OptionError, match=r"mine does not take images of \(1, 224, 224\).*'size': 16"):
        dap.evaluate(source({"up": 3, "left": 3}), test, protocol="fkd", teacher=teacher, repeats=1, device="cpu")


@pytest.mark.parametrize(
    "output, found",
    [(lambda logits: (logits,), "tuple"), (lambda logits: logits.argmax(1), r"shape \(1,\)"),
     (lambda logits: logits.repeat(1, 2)[:, None], r"shape \(1, 1, 4\)")],
)  # fmt: skip
def test_a_teacher_that_gives_no_logits(output, found) -> None:
    class Other(Scaled):
        def forward(self, images: torch.Tensor) -> object:
            return output(super().forward(images))

    with pytest.raises(OptionError, match=f"Other: expected logits of 2 classes for each image, got {found}"):
        dap.evaluate(
            source({"up": 3, "left": 3}), source({"up": 4, "left": 4}), protocol="rded", teacher=Other(1.0), repeats=1,
            device="cpu",
        )  # fmt: skip


@pytest.mark.parametrize("size", [9, 20, 34, 41])
def test_test_images_are_never_smaller_than_what_is_cut_out(size) -> None:
    """``size // 7 * 8`` is less than these sizes: the middle of such images would be one or two pixels."""
    recipe = named_protocol("rded", {"size": size}).recipe(Case("convnet3", 3, 2, size))
    assert recipe.test_side == size == Teacher(nn.Identity(), name="", outputs=2, size=size).test_side


def test_teachers_that_differ_in_a_number_alone_have_other_labels(tmp_path: Path) -> None:
    data, test = arrays({"up": 3, "left": 3}), arrays({"up": 4, "left": 4})
    options = {"classes": 2, "protocol": "fkd", "protocol_options": TINY, "soft_labels": tmp_path, "device": "cpu"}
    run_protocol(*data, *test, teacher=Scaled(1.0), **options)
    run_protocol(*data, *test, teacher=Scaled(1.0), **options)
    with pytest.raises(OptionError, match="are of another teacher"):
        run_protocol(*data, *test, teacher=Scaled(0.5), **options)
    wrapped = [Teacher(Scaled(factor), name="mine", outputs=2) for factor in (1.0, 1.0, 2.0)]
    first, same, other = map(state_hash, wrapped)
    assert first == same != other


def test_soft_labels_without_their_header(tmp_path: Path) -> None:
    data, test = arrays({"up": 3, "left": 3}), arrays({"up": 4, "left": 4})
    options = {"classes": 2, "protocol": "fkd", "protocol_options": TINY, "soft_labels": tmp_path, "device": "cpu"}
    run_protocol(*data, *test, teacher=Scaled(1.0), **options)
    (tmp_path / HEADER).unlink()
    with pytest.raises(FormatError, match=f"has soft labels, but no {HEADER}; delete the folder"):
        run_protocol(*data, *test, **options)


@pytest.mark.parametrize(
    "name, value",
    [("few_steps", 0), ("many_steps", 0), ("checks", 0), ("batch_size", 0), ("width", 0), ("max_shift", -1),
     ("peak_lr", float("nan")), ("peak_lr", 0.0), ("weight_decay", -1.0)],
)  # fmt: skip
def test_constants_of_small_are_checked(name, value) -> None:
    with pytest.raises(OptionError, match=f"^{name}: expected"):
        named_protocol("small", {name: value})


def test_small_is_tested_at_most_once_a_step() -> None:
    result = dap.evaluate(
        source({"up": 3, "left": 3}), source({"up": 4, "left": 4}), networks=["small_mlp"], repeats=1, device="cpu",
        protocol_options={"few_steps": 5},
    )  # fmt: skip
    assert result.rows[0].checks == 5
