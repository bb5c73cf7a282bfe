"""Teachers: trained, written, opened in any form, measured, and refused if their classes do not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from protocol_trainings import TINY, Teacher
from safetensors.torch import load_file, save_file
from test_evaluate import arrays, source
from test_soft_labels import TINY as STORED
from torch import nn

import dap
from dap.data.source import Source
from dap.errors import FormatError, OptionError, SourceError
from dap.evaluation import Teacher as OwnTeacher
from dap.evaluation import TeacherCheck, evaluate_sets, evaluate_source, measure_teacher, soft_label_file, training
from dap.evaluation.augment import normalised
from dap.evaluation.teacher_check import check_teacher
from dap.nets import create_net
from dap.nets.teacher import output_rows
from dap.priors import timm_download

NAMES = ["up", "left"]
TRAINING = {"width": 4, "batch_size": 10, "lr": 0.05, "crop": 0.8, "flip": False}


def real(count: int, first: int = 0) -> Source:
    return source({"up": count, "left": count}, first=first)


def written(path: Path, **changes: object) -> OwnTeacher:
    options = {"network": "convnet3", "epochs": 6, "options": TRAINING, "device": "cpu", "progress": False} | changes
    return dap.train_teacher(real(20), out=path, **options)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    written(path, test=real(15, first=300))
    return path


class TestTraining:
    def test_the_file_says_what_it_is(self, file: Path) -> None:
        teacher = dap.open_teacher(file)
        assert (teacher.name, teacher.class_names, teacher.channels) == ("teacher.safetensors", ("up", "left"), 1)
        assert (teacher.size, teacher.margin) == (16, False)
        assert teacher.accuracy > 90
        check = check_teacher(file, real(15, first=300), device="cpu")
        assert (check.images, check.accuracy) == (30, teacher.accuracy)
        check.raise_if_bad()

    def test_a_stopped_training_ends_with_the_same_file(
        self, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
        epochs, original = [], training._epoch

        def stop(*arguments: object) -> float:
            epochs.append(1)
            if len(epochs) == 4:
                raise KeyboardInterrupt
            return original(*arguments)

        monkeypatch.setattr(training, "_epoch", stop)
        path = tmp_path / "again.safetensors"
        with pytest.raises(KeyboardInterrupt):
            written(path, test=real(15, first=300))
        assert not path.exists()
        (part,) = tmp_path.iterdir()
        assert part.name.startswith("again.safetensors.") and part.suffix == ".part"
        written(path, test=real(15, first=300))
        assert len(epochs) == 4 + 3
        assert path.read_bytes() == file.read_bytes()
        assert [path.name for path in tmp_path.iterdir()] == ["again.safetensors"]

    def test_refusals(self, tmp_path: Path, file: Path) -> None:
        for path, changes, message in (
            (file, {}, "is there already; take another name"),
            (tmp_path / "teacher.pt", {}, r"expected a file that ends with \.safetensors"),
            (tmp_path / "a.safetensors", {"options": {"labels": "teacher"}}, "labels: expected 'hard', got 'teacher'"),
            (tmp_path / "a.safetensors", {"options": {"width": 4, "rate": 1}}, "unknown option of protocol 'teacher'"),
            (tmp_path / "a.safetensors", {"network": "resnet"}, "unknown network 'resnet'"),
            (tmp_path / "a.safetensors", {"epochs": 0}, "epochs: expected a whole number"),
        ):  # fmt: skip
            with pytest.raises(OptionError, match=message):
                written(path, **changes)
        with pytest.raises(SourceError, match="has classes 'middle', which fake has not; classes are matched by name"):
            written(tmp_path / "a.safetensors", test=source({"up": 2, "middle": 2}))
        assert list(tmp_path.iterdir()) == []

    def test_images_that_do_not_fit_into_memory_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.sysconf", lambda name: 20)
        with pytest.raises(OptionError, match=r"40 images of \(1, 16, 16\) take 0 GB, this machine has 0 GB"):
            written(tmp_path / "a.safetensors")
        assert list(tmp_path.iterdir()) == []


def plain(network: str, classes: int, size: int = 64) -> nn.Module:
    net: nn.Module = create_net(network, channels=3, classes=classes, size=size, generator=torch.Generator())
    return net.net


class TestOpening:
    @pytest.mark.parametrize("form", ["safetensors", "pt", "model", "parallel"])
    def test_weights_of_other_programs(self, form: str, tmp_path: Path) -> None:
        net = plain("mobilenet_v2", 5).eval()
        state, path = net.state_dict(), tmp_path / f"weights.{'safetensors' if form == 'safetensors' else 'pt'}"
        if form == "safetensors":
            save_file(state, path)
        elif form == "parallel":
            torch.save({f"module.{name}": value for name, value in state.items()}, path)
        else:
            torch.save({"model": state} if form == "model" else state, path)
        teacher = dap.open_teacher(path, network="mobilenet_v2", size=64)
        images = torch.rand(2, 3, 64, 64)
        assert torch.equal(teacher(images), net(images))
        assert (teacher.outputs, teacher.class_names, teacher.size) == (5, None, 64)

    def test_timm_has_its_own_normalisation(self, tmp_path: Path) -> None:
        net = timm.create_model("test_vit", num_classes=7).eval()
        save_file(net.state_dict(), tmp_path / "vit.safetensors")
        (tmp_path / "names.txt").write_text("\n".join("gfedcba"))
        teacher = dap.open_teacher(
            "timm/test_vit", weights=tmp_path / "vit.safetensors", class_names=tmp_path / "names.txt"
        )
        images = torch.randint(256, (2, 3, 160, 160)).to(torch.uint8)
        expected = net((images / 255 - 0.5) / 0.5)
        assert timm.data.resolve_data_config({}, model=net)["mean"] == (0.5, 0.5, 0.5)
        torch.testing.assert_close(teacher(normalised(images)), expected, rtol=1e-4, atol=1e-4)
        chosen = teacher.for_classes(["a", "g", "c"])
        torch.testing.assert_close(chosen(normalised(images)), expected[:, [6, 0, 4]], rtol=1e-4, atol=1e-4)
        assert teacher.size == 160

    def test_torchvision_by_name_takes_imagenets_rows(self, tmp_path: Path) -> None:
        net = torchvision.models.mobilenet_v3_small().eval()
        torch.save(net.state_dict(), tmp_path / "v3.pth")
        teacher = dap.open_teacher("torchvision/mobilenet_v3_small", weights=tmp_path / "v3.pth")
        images = torch.rand(1, 3, 64, 64)
        chosen = teacher.for_classes(["n02102040", "tench"])
        torch.testing.assert_close(chosen(images), net(images)[:, [217, 0]])

    def test_refusals(self, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        net = plain("mobilenet_v2", 5)
        torch.save(net.state_dict(), tmp_path / "weights.pt")
        torch.save({"net": nn.Linear(2, 2)}, tmp_path / "object.pt")
        (tmp_path / "text.pt").write_text("weights")
        state = load_file(file)
        save_file(state, tmp_path / "damaged.safetensors", metadata={"dap teacher": '{"format": "dap teacher 1"}'})
        monkeypatch.setattr(timm_download, "ask_once", lambda *_: (_ for _ in ()).throw(OSError("no network")))
        for error, where, options, message in (
            (SourceError, "no.safetensors", {}, "there is no such file; expected the file of a teacher, timm/NAME"),
            (OptionError, "weights.pt", {}, "give the network that its weights belong to"),
            (OptionError, "weights.pt", {"network": "resnet"}, "unknown network 'resnet'"),
            (FormatError, "weights.pt", {"network": "resnet18"}, "has no weights of resnet18: no tensor fc.weight"),
            (FormatError, "text.pt", {"network": "resnet18"}, "neither safetensors nor a .pt of tensors"),
            (FormatError, "object.pt", {"network": "resnet18"}, "neither safetensors nor a .pt of tensors"),
            (FormatError, "damaged.safetensors", {}, "expected an object with format, network"),
            (OptionError, file, {"network": "convnet3"}, "says its network itself; leave network= out"),
            (OptionError, "weights.pt", {"network": "mobilenet_v2", "class_names": ["a"]}, "names of its 5 classes"),
            (OptionError, "timm/resnet1", {}, "unknown teacher 'timm/resnet1'"),
            (OptionError, "torchvision/resnet", {}, "unknown teacher 'torchvision/resnet'"),
            (OptionError, "timm/test_vit", {}, r"cannot be downloaded \(OSError: no network\); give them as "),
            (OptionError, "timm/test_vit", {"network": "resnet18"}, "it names its network"),
        ):  # fmt: skip
            place = where if isinstance(where, Path) or "/" in where else tmp_path / where
            with pytest.raises(error, match=message):
                dap.open_teacher(place, **options)
        with pytest.raises(OptionError, match="unknown option of a teacher 'networks'; did you mean 'network'"):
            check_teacher(file, real(2), teacher_options={"networks": "resnet18"})


def checked(confusion: object, names: str = "abc") -> TeacherCheck:
    return TeacherCheck("mine", tuple(names), np.array(confusion))


class TestOrder:
    def test_another_order_is_named(self) -> None:
        """Both accuracies, and the output that fits each class."""
        check = checked([[5, 40, 5], [0, 5, 45], [48, 1, 1]])
        assert check.order == [1, 2, 0]
        assert (check.accuracy, check.ordered_accuracy) == pytest.approx((22 / 3, 266 / 3))
        with pytest.raises(OptionError, match=re.escape(
            "teacher mine: its classes are in another order: 7.3 % of 150 images are right, and 88.7 % would be if its "
            "outputs were those of other classes: 'a: output 1', 'b: output 2', 'c: output 0'; give its outputs the "
            "order of these classes: 'a', 'b', 'c'"
        )):  # fmt: skip
            check.raise_if_bad()

    def test_two_of_many_classes_in_each_others_place(self) -> None:
        confusion = 9 * np.eye(26, dtype=np.int64)
        confusion[[3, 4]] = confusion[[4, 3]]
        with pytest.raises(OptionError, match="'d: output 4', 'e: output 3'"):
            checked(confusion, "abcdefghijklmnopqrstuvwxyz").raise_if_bad()

    def test_honest_mistakes_are_none(self) -> None:
        """A class that is mostly taken for another, whose own images are right; weak teachers; few images."""
        checked([[40, 10, 0], [45, 5, 0], [0, 0, 50]]).raise_if_bad()
        checked([[20, 15, 15], [15, 20, 15], [10, 10, 30]]).raise_if_bad()
        checked([[2, 0, 0], [0, 1, 1], [0, 0, 2]]).raise_if_bad()

    def test_chance_is_refused(self) -> None:
        with pytest.raises(OptionError, match=r"33\.3 % of 150 images are right, where chance is 33\.3 %"):
            checked([[16, 17, 17], [17, 17, 16], [17, 16, 17]]).raise_if_bad()

    def test_the_order_is_the_best_assignment_where_classes_are_told_apart(self) -> None:
        from scipy.optimize import linear_sum_assignment

        generator = np.random.default_rng(0)
        for _ in range(20):
            confusion = generator.integers(0, 20, (6, 6)) + 40 * np.eye(6, dtype=np.int64)[generator.permutation(6)]
            assert checked(confusion, "abcdef").order == linear_sum_assignment(-confusion)[1].tolist()

    def test_a_table_and_json(self) -> None:
        check = checked([[4, 1, 0], [0, 5, 0], [0, 0, 0]])
        assert "teacher mine: 90.0 % of 10 images" in check.table()
        assert re.search(r"a +5 +80.0 +b \(20.0 %\)", check.table())
        assert json.loads(check.to_json())["confusion"] == [[4, 1, 0], [0, 5, 0], [0, 0, 0]]


class TestClasses:
    def test_rows(self) -> None:
        assert output_rows("t", 2, None, ["x", "y"]) == [0, 1]
        assert output_rows("t", 3, ["a", "b", "c"], ["c", "a"]) == [2, 0]
        assert output_rows("t", 1000, None, ["n01440764", "Goldfish", "great white shark"]) == [0, 1, 2]
        names = [f"class {number}" for number in range(1000)]
        assert output_rows("t", 1000, None, names) == list(range(1000))
        for outputs, known, classes, message in (
            (3, None, ["x", "y"], "teacher t has 3 outputs, the set has 2 classes: 'x', 'y'; take a teacher of these"),
            (2, ["a", "b"], ["a", "x"], "teacher t has no class 'x', which the set has; its 2 classes are 'a', 'b'"),
            (1000, None, ["tench", "Bag"], "the set has 2 classes; ImageNet has no wnid or name 'Bag'"),
            (1000, None, ["tench", "n01440764"], "has the 1000 classes of ImageNet"),
        ):  # fmt: skip
            with pytest.raises(OptionError, match=message):
                output_rows("t", outputs, known, classes)

    def test_an_evaluation_takes_the_sets_classes_by_name(self, file: Path) -> None:
        """The set has the classes in another order than the teacher, and fewer."""
        train, test = source({"left": 5, "up": 5}, first=50), source({"left": 20, "up": 20}, first=100)
        for name in ("rded", "fkd"):
            options = (TINY | {"margin": False, "strips": 1}) if name == "rded" else STORED
            result = evaluate_source(
                train, test, protocol=name, protocol_options=options, repeats=1, teacher=dap.open_teacher(file)
            )
            assert result.teacher["accuracy"] > 90
        with pytest.raises(OptionError, match="has no class 'middle', which the set has; its 2 classes"):
            three = source({"left": 5, "up": 5, "middle": 5})
            evaluate_source(three, three, protocol="rded", teacher=dap.open_teacher(file))

    def test_an_evaluation_refuses_a_teacher_that_does_not_fit(self) -> None:
        class Swapped(Teacher):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return super().forward(images).flip(1)

        sets, test = {"a": arrays({"up": 3, "left": 3})}, arrays({"up": 9, "left": 9}, first=50)
        options = {"class_names": NAMES, "protocol": "fkd", "protocol_options": STORED}
        with pytest.raises(OptionError, match=r"in another order: 0\.0 % of 18 images are right, and 100\.0 % would"):
            evaluate_sets(sets, test, teacher=Swapped(), **options)
        with pytest.raises(OptionError, match="teacher Sequential has 3 outputs, the set has 2 classes"):
            evaluate_sets(sets, test, teacher=nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), **options)
        with pytest.raises(OptionError, match=r"teacher Linear does not take images of \(1, 16, 16\) "):
            evaluate_sets(sets, test, teacher=nn.Linear(3, 3), **options)
        grey = OwnTeacher(nn.Flatten(), name="mine", outputs=2)
        with pytest.raises(OptionError, match="teacher mine takes images of 3 channels, the set has 1"):
            measure_teacher(grey, test, NAMES, size=16, device=torch.device("cpu"))


def test_a_stopped_teacher_may_be_tested_on_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written(tmp_path / "whole.safetensors", test=real(15, first=300))
    monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
    epoch = training._epoch
    calls = iter(range(3))
    monkeypatch.setattr(training, "_epoch", lambda *rest: epoch(*rest) if next(calls, None) is not None else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        written(tmp_path / "cut.safetensors")
    monkeypatch.setattr(training, "_epoch", epoch)
    again = written(tmp_path / "cut.safetensors", test=real(15, first=300))
    assert again.accuracy == whole.accuracy
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in again.state_dict().items())


def tree(folder: Path, count: int, first: int) -> Path:
    images = real(count, first)
    for number, label in enumerate(images.labels):
        place = folder / images.class_names[label] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        images.load(number).save(place)
    return folder


def test_from_the_command_line(
    tmp_path: Path, command_line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Train a teacher, check it, evaluate by rded and fkd; stopped in the labels, continued, and replayed."""
    train, test, small = (tree(tmp_path / name, *rest) for name, *rest in (
        ("train", 20, 0), ("test", 15, 300), ("small", 5, 0),
    ))  # fmt: skip
    teacher, labels = tmp_path / "teacher.safetensors", tmp_path / "labels"
    settings = [f"--set={name}={json.dumps(value)}" for name, value in TRAINING.items()]
    code, out, _ = command_line("teacher", "train", train, "--out", teacher, "--network", "convnet3", "--epochs", 6,
                                "--test", test, *settings)  # fmt: skip
    assert code == 0 and re.search(r"teacher\.safetensors: (9\d|100)\.\d % of the test images", out)
    code, out, _ = command_line("teacher", "check", teacher, "--test", test, "--json", tmp_path / "check.json")
    assert code == 0 and "of 30 images" in out
    assert json.loads((tmp_path / "check.json").read_text())["order"] == [0, 1]

    def evaluate(protocol: str, options: dict[str, object], *more: object) -> tuple[int, str, str]:
        result = tmp_path / "result.json"
        result.unlink(missing_ok=True)
        values = [f"--protocol-set={name}={json.dumps(value)}" for name, value in options.items()]
        code, out, err = command_line("evaluate", small, "--test", test, "--protocol", protocol, "--repeats", 1,
                                      "--json", result, *values, *more)  # fmt: skip
        return code, json.loads(result.read_text())["rows"] if code == 0 else out, err

    with_teacher = ("--teacher", teacher)
    code, rows, _ = evaluate("rded", TINY | {"margin": False, "strips": 1}, *with_teacher)
    assert code == 0 and rows[0]["constants"]["labels"] == "teacher"
    options = STORED | {"norm": "batch"}
    code, online, _ = evaluate("fkd", options, *with_teacher)
    assert code == 0 and online[0]["label_bytes"] == 120
    assert "soft labels of distilled: 0.1 kB for 3 epochs of 10 images and 2 classes in float16" in caplog.text
    original, written = soft_label_file.write_atomic, []

    def stop(path: Path, data: bytes) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        original(path, data)

    monkeypatch.setattr(soft_label_file, "write_atomic", stop)
    assert evaluate("fkd", options, *with_teacher, "--soft-labels", labels)[0] == 130
    monkeypatch.setattr(soft_label_file, "write_atomic", original)
    assert len(list(labels.rglob("epoch-*"))) == 2
    assert evaluate("fkd", options, *with_teacher, "--soft-labels", labels)[:2] == (0, online)
    assert evaluate("fkd", options, "--soft-labels", labels)[:2] == (0, online)  # without the teacher
    (small / "up" / "more.png").write_bytes((train / "up" / "9.png").read_bytes())
    code, _, err = evaluate("fkd", options, "--soft-labels", labels)
    assert code == 2
    assert "the soft labels are of another set (it had 10 images, this one has 11)" in err
