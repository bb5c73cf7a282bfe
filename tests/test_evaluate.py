"""Protocol small, the judge, and evaluations that are paired across sets."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from dap import rng
from dap.data.source import Source
from dap.errors import FormatError, OptionError, SourceError
from dap.evaluation import Small, evaluate_sets, evaluate_source, recognised, run_protocol, small, train_judge
from dap.evaluation import judge as judge_module
from dap.evaluation import run as run_module
from dap.evaluation import sets as sets_module
from dap.evaluation.protocol import LabelledImages
from dap.nets import accuracy
from dap.selection import random_per_class

JUDGE = judge_module.JUDGE
QUICK = Small(width=4, few_steps=20, many_steps=30)
HALVES = {"up": np.s_[:8, :], "left": np.s_[:, :8], "middle": np.s_[4:12, 4:12], "none": np.s_[:0, :]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol and the judge at a size that trains in a blink; the real constants are tested by themselves."""
    monkeypatch.setitem(run_module.PROTOCOLS, "small", QUICK)
    monkeypatch.setattr(judge_module, "JUDGE", Small(width=8, few_steps=60, many_steps=60, peak_lr=1e-2))


def picture(name: str, number: int) -> np.ndarray:
    """A noisy 16×16 image of a class, bright where the class is."""
    image = np.full((16, 16), 40, np.int64)
    image[HALVES[name]] = 200
    return (image + np.random.default_rng(number).integers(-40, 41, (16, 16))).astype(np.uint8)


def source(counts: dict[str, int], *, name: str = "fake", first: int = 0, mode: str = "L") -> Source:
    labels = np.repeat(np.arange(len(counts)), list(counts.values())).astype(np.int64)
    names = tuple(counts)

    def load(index: int) -> Image.Image:
        return Image.fromarray(picture(names[labels[index]], first + index)).convert(mode)

    return Source(name, names, names, labels, [str(index) for index in range(len(labels))], load)


def arrays(counts: dict[str, int], first: int = 0) -> LabelledImages:
    made = source(counts, first=first)
    return made.images(np.arange(len(made)), size=16, channels=1), made.labels


@pytest.fixture
def sets() -> tuple[LabelledImages, LabelledImages]:
    return arrays({"up": 5, "left": 5}), arrays({"up": 30, "left": 30}, first=100)


class TestSmall:
    def test_constants_are_the_designs(self) -> None:
        assert asdict(Small()) == {
            "width": 32, "peak_lr": 3e-3, "weight_decay": 5e-4, "few_steps": 400, "many_steps": 1200, "many": 100,
            "batch_size": 128, "max_shift": 3, "checks": 10,
        }  # fmt: skip
        assert Small().steps(999, 10) == 400
        assert Small().steps(1000, 10) == 1200

    def test_recipe_reaches_the_training(
        self, sets: tuple[LabelledImages, LabelledImages], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, object] = {}
        train = small.train_classifier
        monkeypatch.setattr(small, "train_classifier", lambda *a, **k: (seen.update(k), train(*a, **k)))
        net = QUICK.fit(*sets[0], classes=2, network="convnet3", generator=rng.generator(0), device=torch.device("cpu"))
        recipe = {"steps": 20, "batch_size": 10, "peak_lr": 3e-3, "weight_decay": 5e-4, "max_shift": 3}
        assert {key: seen[key] for key in recipe} == recipe
        assert next(net.parameters()).shape == (4, 1, 3, 3)

    def test_ten_checks_last_and_best(
        self, sets: tuple[LabelledImages, LabelledImages], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = iter([0.1, 0.2, 0.9, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.4])
        steps: list[int] = []
        monkeypatch.setattr(small, "accuracy", lambda *_: next(answers))
        train = small.train_classifier

        def spy(*args: object, after_step: object, **options: object) -> None:
            def hook(net: object, step: int) -> None:
                before = answers.__length_hint__()
                after_step(net, step)
                if answers.__length_hint__() < before:
                    steps.append(step)

            train(*args, after_step=hook, **options)

        monkeypatch.setattr(small, "train_classifier", spy)
        assert run_protocol(*sets[0], *sets[1], classes=2) == (pytest.approx(40), pytest.approx(90))
        assert steps == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]

    def test_last_is_the_accuracy_of_the_trained_net(self, sets: tuple[LabelledImages, LabelledImages]) -> None:
        found = run_protocol(*sets[0], *sets[1], classes=2, seed=5, repeat=2, device="cpu")
        net = QUICK.fit(
            *sets[0],
            classes=2,
            network="convnet3",
            generator=rng.generator(5, "evaluate", "convnet3", 2),
            device=torch.device("cpu"),
        )
        assert found.last == pytest.approx(100 * accuracy(net, *map(torch.tensor, sets[1]), "cpu"))
        assert found.best >= found.last

    def test_same_seed_same_outcome(self, sets: tuple[LabelledImages, LabelledImages]) -> None:
        before = torch.get_rng_state()
        found = {
            (seed, repeat): run_protocol(*sets[0], *sets[1], classes=2, seed=seed, repeat=repeat)
            for seed, repeat in [(0, 0), (0, 1), (1, 0)]
        }
        assert torch.equal(torch.get_rng_state(), before)
        assert run_protocol(*sets[0], *sets[1], classes=2) == found[0, 0]
        assert len(set(found.values())) > 1

    def test_refusals(self, sets: tuple[LabelledImages, LabelledImages]) -> None:
        (images, labels), test = sets
        with pytest.raises(OptionError, match=r"expected uint8 images .* got float32 \(10, 1, 16, 16\)"):
            run_protocol(images.astype(np.float32), labels, *test, classes=2)
        with pytest.raises(OptionError, match="expected labels in 0 … 0, got 0 … 1"):
            run_protocol(images, labels, *test, classes=1)
        with pytest.raises(OptionError, match=r"one label for each of 10 images, got shape \(9,\)"):
            run_protocol(images, labels[:9], *test, classes=2)
        with pytest.raises(OptionError, match="unknown protocol 'smal'; did you mean 'small'"):
            run_protocol(images, labels, *test, classes=2, protocol="smal")
        with pytest.raises(OptionError, match="unknown network 'resnet19'; did you mean 'resnet18'"):
            run_protocol(images, labels, *test, classes=2, network="resnet19")


class TestJudge:
    def test_recognises_what_it_has_learnt(self) -> None:
        judge = train_judge(*arrays({"up": 40, "left": 40, "middle": 40}), 3, device="cpu")
        images, labels = arrays({"up": 20, "left": 10, "middle": 10}, first=500)
        assert recognised(judge, images, labels, "cpu").share > 0.9
        wrong = labels.copy()
        wrong[:20] = 1
        found = recognised(judge, images, wrong, "cpu")
        assert found.share < 0.6
        assert found.per_class[2] > 0.9
        assert found.per_class[1] < 0.5
        assert list(found.per_class) == [1, 2]
        with pytest.raises(OptionError, match="got 40 images"):
            recognised(judge, images, labels[:3], "cpu")

    def test_constants_are_the_designs(self) -> None:
        assert Small(width=64, few_steps=1200) == JUDGE


class TestEvaluateSets:
    def test_rows(self, sets: tuple[LabelledImages, LabelledImages], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(run_module.PROTOCOLS, "small", Small(width=8, few_steps=60, peak_lr=1e-2))
        train, test = sets
        images, labels = arrays({"up": 3, "left": 3}, first=50)
        other = images, 1 - labels  # taught the wrong way round, so that it does worse
        result = evaluate_sets(
            {"a": train, "b": other}, test, class_names=["up", "left"], repeats=3, seed=4, device="cpu"
        )
        assert [(row.set_name, row.network, row.images) for row in result.rows] == [
            ("a", "convnet3", 10),
            ("b", "convnet3", 6),
        ]
        a, b = result.row("a"), result.row("b")
        for row, data in ((a, train), (b, other)):
            outcomes = [run_protocol(*data, *test, classes=2, seed=4, repeat=repeat) for repeat in range(3)]
            assert list(zip(row.last, row.best, strict=True)) == outcomes
        assert a.difference is None
        assert b.difference is not None
        assert b.difference.mean == pytest.approx(np.mean(b.last) - np.mean(a.last))
        assert b.difference.mean < -50
        assert b.last_summary.mean == pytest.approx(np.mean(b.last))
        assert b.best_summary.n == 3
        with pytest.raises(KeyError):
            result.row("c")

    def test_repeats_are_paired(self, sets: tuple[LabelledImages, LabelledImages]) -> None:
        train, test = sets
        result = evaluate_sets({"a": train, "again": train}, test, class_names=["up", "left"], repeats=3)
        again = result.row("again")
        assert again.last == result.row("a").last
        assert again.difference is not None
        assert (again.difference.low, again.difference.high) == (0, 0)
        assert len(set(again.last) | set(again.best)) > 1

    def test_a_set_may_be_drawn_anew(self, sets: tuple[LabelledImages, LabelledImages]) -> None:
        asked: list[int] = []

        def draw(repeat: int) -> LabelledImages:
            asked.append(repeat)
            return sets[0]

        evaluate_sets({"drawn": draw}, sets[1], class_names=["up", "left"], repeats=2)
        assert asked == [0, 1]

    def test_table_and_json(self, sets: tuple[LabelledImages, LabelledImages]) -> None:
        train, test = sets
        result = evaluate_sets({"a": train, "b": train}, test, class_names=["up", "left"], repeats=2)
        head, columns, first, second = result.table().splitlines()
        assert "60 test images of 2 classes" in head
        assert " of 10" in result.table()  # best, of so many
        assert "n = 2" in head
        assert columns.split("  ")[-1].strip() == "last - a"
        assert f"{result.row('a').last_summary.mean:.1f} ± {result.row('a').last_summary.standard_error:.1f}" in first
        assert second.endswith("+0.0 [+0.0, +0.0]")
        read = json.loads(result.to_json())
        assert read == result.to_dict()
        assert read["rows"][1]["last"] == list(result.row("b").last)
        assert read["rows"][1]["difference"]["mean"] == 0
        assert read["rows"][0]["last_summary"]["standard_error"] == result.row("a").last_summary.standard_error

    def test_one_repeat(self, sets: tuple[LabelledImages, LabelledImages]) -> None:
        result = evaluate_sets(dict.fromkeys("ab", sets[0]), sets[1], class_names=["up", "left"], repeats=1)
        row = json.loads(result.to_json())["rows"][1]
        assert row["last_summary"] == {"mean": result.rows[0].last[0], "standard_error": None, "n": 1}
        assert row["difference"]["low"] is None
        assert "±" not in result.table().splitlines()[2]
        assert "inf" not in result.table()
        assert result.table().splitlines()[3].endswith(" +0.0")

    def test_refusals(self, sets: tuple[LabelledImages, LabelledImages]) -> None:
        def run(**changes: object) -> None:
            options = {"class_names": ["up", "left"], "repeats": 1}
            evaluate_sets({"a": sets[0]}, sets[1], **(options | changes))

        for changes, message in (
            ({"repeats": 0}, "repeats: expected a whole number of at least 1, got 0"),
            ({"protocol": "large"}, "unknown protocol 'large'"),
            ({"networks": ["convnet3", "convnet33"]}, "unknown network 'convnet33'; did you mean 'convnet3'"),
            ({"networks": "convnet3"}, "expected a list of different network names, got 'convnet3'"),
            ({"networks": ["convnet3"] * 2}, "expected a list of different"),
            ({"networks": []}, "expected a list of different"),
        ):
            with pytest.raises(OptionError, match=message):
                run(**changes)
        with pytest.raises(OptionError, match="at least one set"):
            evaluate_sets({}, sets[1], class_names=["up", "left"])


class TestEvaluateSource:
    TRAIN = source({"up": 4, "left": 4, "middle": 3}, name="train")
    TEST = source({"middle": 20, "left": 20, "up": 20}, name="test", first=100)
    REAL = source({"left": 30, "up": 30, "middle": 2}, name="real", first=300)

    def test_rows_are_the_protocols(self) -> None:
        result = evaluate_source(self.TRAIN, self.TEST, real=self.REAL, repeats=2, seed=9, device="cpu")
        assert result.class_names == ("up", "left", "middle")
        assert [row.set_name for row in result.rows] == ["random real", "distilled"]
        test, labels = arrays({"middle": 20, "left": 20, "up": 20}, first=100)
        test_labels = np.array([2, 1, 0])[labels]
        for repeat in range(2):
            own = arrays({"up": 4, "left": 4, "middle": 3})
            options = {"classes": 3, "seed": 9, "repeat": repeat, "device": "cpu"}
            assert result.row("distilled").last[repeat] == run_protocol(*own, test, test_labels, **options).last
            seed = rng.derive_seed(9, "evaluate", "real", repeat)
            chosen = random_per_class(self.REAL, {"up": 4, "left": 4, "middle": 3}, seed)
            pixels = self.REAL.images(chosen, size=16, channels=1)
            real_labels = np.repeat([0, 1, 2], [4, 4, 2])  # the source has only two of the last class
            found = run_protocol(pixels, real_labels, test, test_labels, **options)
            assert result.row("random real").last[repeat] == found.last
        assert result.row("random real").images == 10

    def test_learns_across_sources_in_another_class_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(run_module.PROTOCOLS, "small", Small(width=8, few_steps=80, peak_lr=1e-2))
        result = evaluate_source(source({"up": 20, "left": 20, "middle": 20}), self.TEST, repeats=1)
        assert result.row("distilled").last[0] > 80

    def test_test_classes_that_were_not_taught_are_left_out(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, "dap"):
            result = evaluate_source(source({"left": 3, "up": 3}), self.TEST, repeats=1)
        assert result.test_images == 40
        assert "test: test images of 'middle' are left out" in caplog.text

    def test_missing_classes(self) -> None:
        with pytest.raises(SourceError, match="test: has no class 'none'"):
            evaluate_source(source({"up": 2, "none": 2}), self.TEST)
        with pytest.raises(SourceError, match="real: has no class 'middle'"):
            evaluate_source(self.TRAIN, self.TEST, real=source({"up": 2, "left": 2}, name="real"))

    def test_shape_is_that_of_the_first_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shapes: list[tuple[int, ...]] = []
        run = sets_module.run_protocol

        def spy(images: np.ndarray, *args: object, **options: object) -> object:
            shapes.append(images.shape[1:])
            return run(images, *args, **options)

        monkeypatch.setattr(sets_module, "run_protocol", spy)
        for mode in ("L", "RGB"):
            evaluate_source(source({"up": 2, "left": 2}, mode=mode), self.TEST, repeats=1)
        evaluate_source(self.TRAIN, self.TEST, repeats=1, size=24, channels=3)
        assert shapes == [(1, 16, 16), (3, 16, 16), (3, 24, 24)]

    def test_unreadable_first_image(self) -> None:
        def load(index: int) -> Image.Image:
            raise OSError("truncated")

        broken = Source("broken", ("up",), ("up",), np.zeros(1, np.int64), ["up/0.png"], load)
        with pytest.raises(FormatError, match=r"broken/up/0.png: cannot be read as an image \(OSError: truncated\)"):
            evaluate_source(broken, self.TEST)

    def test_judge(self) -> None:
        real = source({"left": 40, "up": 40, "middle": 40}, name="real", first=300)
        train = source({"up": 8, "left": 8, "middle": 8}, name="train")
        result = evaluate_source(train, self.TEST, real=real, repeats=1, judge=True)
        assert result.recognised is not None
        assert result.recognised > 0.8
        assert result.recognised_per_class is not None
        assert list(result.recognised_per_class) == ["up", "left", "middle"]
        assert "recognised by the judge" in result.table()
        assert json.loads(result.to_json())["recognised"] == result.recognised
        with pytest.raises(OptionError, match="give real="):
            evaluate_source(self.TRAIN, self.TEST, judge=True)
