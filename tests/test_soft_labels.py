"""Protocol fkd: its constants and its step by source and line, and soft labels that are stored and replayed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from protocol_trainings import Teacher, recipe
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_evaluate import arrays
from torch import nn
from torch.nn import functional

from dap import rng
from dap.errors import DivergedError, FormatError, OptionError
from dap.evaluation import Outcome, evaluate_sets, run_protocol, training
from dap.evaluation.optimiser import parameter_groups
from dap.evaluation.protocols.fkd import D4M, FKD
from dap.evaluation.soft_labels import SoftLabels
from dap.nets import create_net

TINY = {"size": 16, "margin": False, "epochs": 3, "batch_size": 8, "width": 4, "norm": "instance"}
NAMES = ["up", "left"]


class Silent(nn.Module):
    """A teacher that must not be asked; its weights and its name are those of :class:`Teacher`."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise AssertionError("asked again")


Silent.__qualname__ = Teacher.__qualname__


def trained(folder: Path | None = None, teacher: nn.Module | None = None, **changes: object) -> Outcome:
    images, labels = arrays({"up": 5, "left": 5})
    test = arrays({"up": 20, "left": 20}, first=100)
    options: dict[str, object] = {"protocol_options": TINY, "device": "cpu", "classes": 2} | changes
    if folder is None or teacher is not None:
        options["teacher"] = teacher or Teacher()
    return run_protocol(images, labels, *test, protocol="fkd", soft_labels=folder, **options)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """The weights at each test of a network."""
    seen: list[dict[str, torch.Tensor]] = []
    original = training.accuracy_on

    def spy(net: nn.Module, *rest: object) -> float:
        seen.append({name: value.detach().clone() for name, value in net.state_dict().items()})
        return original(net, *rest)

    monkeypatch.setattr(training, "accuracy_on", spy)
    return seen


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first | second)


def test_constants_are_sre2ls() -> None:
    """SRe2L, relabel/relabel.sh; validate/train_FKD.sh; validate/train_FKD.py 104-117, 133-140, 157, 163, 183."""
    found = recipe("fkd", "resnet18")
    assert (found.size, found.test_side, found.own_size, found.epochs, found.batch_size) == (224, 256, True, 300, 1024)
    assert (found.optimiser, found.lr, found.weight_decay, found.decay_all) == ("adamw", 1e-3, 0.01, False)
    assert (found.crop, found.flip, found.cutmix, found.jitter, found.lighting) == (0.08, True, 1.0, 0, 0)
    assert (found.temperature, found.accumulation, found.labels) == (20.0, 2, "stored")
    tested = [epoch for epoch in range(300) if found.is_tested(epoch)]
    assert tested == [*range(0, 300, 10), 299]
    assert [epoch for epoch in range(300) if recipe("fkd:d4m").is_tested(epoch)] == [0, 50, 100, 150, 200, 250, 299]
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1.0 + math.cos(math.pi * step / 300)) if step <= 300 else 0
    )
    for epoch in range(300):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(found.rate(epoch), abs=1e-12)
        optimizer.step()
        schedule.step()
    assert [FKD.known, D4M.known] == ["whole", "partly"]
    assert found.label_bytes(100, 1000) == 300 * 100 * 1000 * 2
    assert recipe("rded").label_bytes(100, 1000) is None


def test_the_step_is_sre2ls(tmp_path: Path, weights: list[dict[str, torch.Tensor]]) -> None:
    """validate/train_FKD.py, train(): parts of batch_size / 2, each loss divided by 2, KLDivLoss(batchmean), T = 20.

    By SGD, because AdamW does not see a factor of the loss, and makes steps of rounding errors.
    """
    options = TINY | {"optimiser": "sgd", "lr": 3.0}
    trained(tmp_path, Teacher(), protocol_options=options)
    generator = rng.generator(0, "evaluate", "convnet3", 0)
    net = create_net(
        "convnet3", channels=1, classes=2, size=16, width=4, norm="instance", generator=generator, first_padding=3
    ).double()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    groups = parameter_groups(net, recipe("fkd"))
    optimizer = torch.optim.SGD(groups, lr=3.0, momentum=0.9, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / 3)))
    kl = nn.KLDivLoss(reduction="batchmean")
    images, labels = (torch.tensor(values) for values in arrays({"up": 5, "left": 5}))
    stored = SoftLabels(recipe("fkd", **options), images, labels, 2, None, tmp_path)
    for epoch in range(3):
        for _, mixed, soft_label in stored.steps(epoch):
            optimizer.zero_grad()
            for part in range(math.ceil(len(mixed) / 4)):
                output = functional.log_softmax(net(mixed[4 * part : 4 * part + 4].double()) / 20, dim=1)
                target = functional.softmax(soft_label[4 * part : 4 * part + 4].double() / 20, dim=1)
                (kl(output, target) / 2).backward()
            optimizer.step()
        schedule.step()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(weights[-1][name].double(), value, rtol=1e-4, atol=1e-5)
    assert (before["layers.0.weight"] - net.state_dict()["layers.0.weight"]).abs().max() > 0.01


def test_stored_labels_are_what_the_teacher_says_of_the_mixed_images(tmp_path: Path) -> None:
    """A second account of the table in the module: crop, flip, paste, ask."""
    trained(tmp_path, Teacher())
    images, _ = arrays({"up": 5, "left": 5})
    record = load_file(tmp_path / "epoch-0001.safetensors")
    assert {name: (value.dtype, tuple(value.shape)) for name, value in record.items()} == {
        "rows": (torch.int32, (10,)), "crops": (torch.int16, (10, 4)), "flips": (torch.bool, (10,)),
        "partners": (torch.int32, (10,)), "boxes": (torch.int16, (2, 4)), "logits": (torch.float16, (10, 2)),
    }  # fmt: skip
    assert sorted(record["rows"].tolist()) == list(range(10))
    for number, first in enumerate((0, 8)):
        batch = []
        for place in range(first, min(first + 8, 10)):
            top, left, height, width = record["crops"][place].tolist()
            part = torch.tensor(images[record["rows"][place]])[:, top : top + height, left : left + width].float()
            part = functional.interpolate(part[None], (16, 16), mode="bilinear", antialias=True)[0]
            batch.append((part.flip(2) if record["flips"][place] else part) / 255)
        mixed = torch.stack(batch)
        top, left, bottom, right = record["boxes"][number].tolist()
        partners = record["partners"][first : first + 8].tolist()
        for image, partner in zip(mixed, partners, strict=True):
            image[:, top:bottom, left:right] = batch[partner][:, top:bottom, left:right]
        expected = Teacher()((mixed - 0.449) / 0.226).half()
        torch.testing.assert_close(record["logits"][first : first + 8], expected, rtol=2e-3, atol=2e-2)


class TestReplay:
    def test_equals_online_labels_bit_for_bit(self, tmp_path: Path, weights: list[dict[str, torch.Tensor]]) -> None:
        online, at_once = trained(), weights[-1]
        assert trained(tmp_path / "kept", Teacher()) == online
        assert equal(weights[-1], at_once)
        files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
        assert sorted(files) == [*(f"epoch-000{number}.safetensors" for number in range(3)), "labels.json"]
        assert trained(tmp_path / "kept", Silent()) == trained(tmp_path / "kept") == online
        assert equal(weights[-1], at_once)
        assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()} == files
        assert trained(tmp_path / "kept", repeat=1) and not equal(weights[-1], at_once)  # other initial weights

    def test_labelling_that_was_stopped_continues(
        self, tmp_path: Path, weights: list[dict[str, torch.Tensor]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        online, at_once = trained(), weights[-1]
        asked = []

        def stop(self: Teacher, images: torch.Tensor) -> torch.Tensor:
            asked.append(len(images))
            if len(asked) == 4:  # in the second batch of the second epoch
                raise KeyboardInterrupt
            return original(self, images)

        original = Teacher.forward
        monkeypatch.setattr(Teacher, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path, Teacher())
        assert [path.name for path in tmp_path.glob("epoch*")] == ["epoch-0000.safetensors"]
        with pytest.raises(OptionError, match="has the soft labels of 1 of 3 epochs; give the teacher"):
            trained(tmp_path)
        assert trained(tmp_path, Teacher()) == online
        assert asked == [8, 2, 8, 2, 8, 2, 8, 2]
        assert equal(weights[-1], at_once)

    def test_others_are_refused(self, tmp_path: Path) -> None:
        trained(tmp_path, Teacher())
        images, labels = arrays({"up": 5, "left": 5})
        more = arrays({"up": 6, "left": 5})
        changed = images.copy()
        changed[3, 0, 0, 0] ^= 1
        other = Teacher()
        other.scale.data += 1

        def run(images: np.ndarray, labels: np.ndarray, teacher: nn.Module | None = None, **changes: object) -> None:
            classes, test = changes.pop("classes", 2), arrays({"up": 4, "left": 4})
            run_protocol(images, labels, *test, classes=classes, protocol="fkd", protocol_options=TINY | changes,
                         teacher=teacher, soft_labels=tmp_path)  # fmt: skip

        for arguments, changes, message in (
            (more, {}, r"the soft labels are of another set \(it had 10 images, this one has 11\); give "),
            ((changed, labels), {}, r"are of another set \(other pixels or labels\)"),
            ((images, labels[::-1].copy()), {}, r"are of another set \(other pixels or labels\)"),
            ((images, labels), {"classes": 3}, "are of 2 classes, the set has 3"),
            ((images, labels, other), {}, "are of another teacher"),
            ((images, labels), {"crop": 0.5}, "are of trainings with crop=0.08, this one has crop=0.5"),
            ((images, labels), {"epochs": 4}, "are of trainings with epochs=3, this one has epochs=4"),
        ):  # fmt: skip
            with pytest.raises(OptionError, match=message):
                run(*arguments, **changes)
        epochs = [tmp_path / f"epoch-000{number}.safetensors" for number in range(2)]
        epochs[0].write_bytes(epochs[1].read_bytes())  # as if a file was moved
        with pytest.raises(FormatError, match=r"epoch-0000\.safetensors: soft labels of another set or epoch"):
            trained(tmp_path)
        record = load_file(epochs[1])
        with safe_open(epochs[1], framework="pt") as file:
            notes = file.metadata()
        for name, change, message in (
            ("rows", lambda rows: rows.clamp(max=3), "crops, boxes or numbers out of range"),
            ("partners", lambda partners: partners + 3, "crops, boxes or numbers out of range"),
            ("crops", lambda crops: crops + 9, "crops, boxes or numbers out of range"),
            ("boxes", lambda boxes: boxes - 1, "crops, boxes or numbers out of range"),
            ("logits", lambda logits: logits[:, :1].contiguous(), r"logits: expected torch.float16 \(10, 2\), got"),
            ("flips", lambda flips: flips.int(), r"flips: expected torch.bool \(10,\), got torch.int32"),
        ):
            save_file({**record, name: change(record[name])}, epochs[0], metadata=notes | {"epoch": "0"})
            with pytest.raises(FormatError, match=message):
                trained(tmp_path)
        epochs[0].write_bytes(b"damaged")
        with pytest.raises(FormatError, match=r"epoch-0000\.safetensors: damaged soft labels"):
            trained(tmp_path)

    def test_logits_that_are_not_finite_are_named(self) -> None:
        teacher = Teacher()
        teacher.scale.data *= 1e6
        with pytest.raises(DivergedError, match="the teacher's logits are not finite in float16"):
            trained(teacher=teacher)


def test_an_evaluation_keeps_the_labels_of_each_set(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fixed, test = arrays({"up": 5, "left": 5}), arrays({"up": 9, "left": 9}, first=50)

    def run(teacher: nn.Module | None = None, sets: object = None, **changes: object) -> object:
        options = {"class_names": NAMES, "protocol": "fkd", "protocol_options": TINY, "repeats": 2} | changes
        sets = sets or {"random real": lambda repeat: arrays({"up": 5, "left": 5}, first=200 + repeat), "mine": fixed}
        return evaluate_sets(sets, test, teacher=teacher, soft_labels=tmp_path / "labels", **options)

    with caplog.at_level("INFO", "dap.evaluation"):
        result = run(Teacher(), checkpoints=tmp_path / "kept")
    size = "soft labels of mine: 0.1 kB for 3 epochs of 10 images and 2 classes in float16, in "
    assert f"{size}{tmp_path / 'labels'}, and as much for each of 2 repeats of random real" in caplog.text
    folders = sorted(path.name for path in (tmp_path / "labels").iterdir())
    assert folders == ["mine", "random real, seed 0, repeat 1", "random real, seed 0, repeat 2"]
    assert [row.label_bytes for row in result.rows] == [120, 120]
    assert result.teacher["name"] == "Teacher"
    assert result.teacher["accuracy"] == 100
    assert "teacher Teacher: 100.0 % of the test images" in result.table()
    assert "soft labels: 0.1 kB of random real, 0.1 kB of mine" in result.table()
    assert run().rows == result.rows
    with pytest.raises(OptionError, match=r"mine: the soft labels are of another set \(it had 10 images, this one has"):
        run(sets={"random real": lambda repeat: pytest.fail("too late"), "mine": arrays({"up": 6, "left": 5})})


def test_options_that_stored_labels_do_not_record_are_refused() -> None:
    for options, message in (
        ({"jitter": 0.4}, "leave strips=1, jitter=0 and lighting=0"),
        ({"batch_size": 9}, "batch_size: expected a multiple of accumulation=2, got 9"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=message):
            recipe("fkd", **options)
    images = arrays({"up": 5, "left": 5})
    for protocol, message in (
        ("hard", "protocol 'hard' stores no soft labels: leave soft_labels= out, or take 'fkd'"),
        ("small", "protocol 'small' trains on hard labels: leave soft_labels= out"),
        ("fkd", "protocol 'fkd' trains on the labels of a teacher: give teacher="),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=message):
            run_protocol(*images, *images, classes=2, protocol=protocol,
                         soft_labels=None if protocol == "fkd" else Path("labels"))  # fmt: skip
