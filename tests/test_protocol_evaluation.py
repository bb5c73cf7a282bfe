"""Published protocols: whole evaluations, their folders, sizes, and what is told of the images."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from protocol_trainings import NAMES, TINY, Teacher
from test_evaluate import arrays, source

from dap.errors import SourceError
from dap.evaluation import Small, evaluate_sets, evaluate_source, labelling, training
from dap.evaluation import run as run_module
from dap.evaluation import sets as sets_module
from dap.evaluation import source as source_module


class TestEvaluation:
    def test_an_evaluation_continues_from_its_folder(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        sets, test = {"a": arrays({"up": 3, "left": 3})}, arrays({"up": 9, "left": 9}, first=50)

        def run(**changes: object) -> object:
            options = {"class_names": NAMES, "protocol": "hard", "protocol_options": TINY, "repeats": 2}
            return evaluate_sets(sets, test, checkpoints=tmp_path / "kept", **options | changes)

        first = run()
        assert first.rows[0].checks == 3
        assert first.rows[0].constants["lr"] == 0.01
        assert "protocol hard, size=16, epochs=3, width=4: accuracy" in first.table()
        assert " of 3" in first.table()
        assert first.to_dict()["protocol_options"] == TINY
        assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".json"}
        monkeypatch.setattr(sets_module, "run_protocol", lambda *arguments, **options: pytest.fail("trained again"))
        assert run() == first
        with pytest.raises(pytest.fail.Exception):
            run(seed=1)

    def test_processes_share_the_trainings_of_a_folder(self, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
        sets, test = {"a": arrays({"up": 3, "left": 3})}, arrays({"up": 9, "left": 9}, first=50)
        options = {"class_names": NAMES, "protocol": "hard", "protocol_options": TINY, "repeats": 4}
        alone, made, whole = evaluate_sets(sets, test, **options), Counter(), sets_module.run_protocol

        def training(*arguments, repeat, **more):
            made[repeat] += 1
            time.sleep(0.1)
            return whole(*arguments, repeat=repeat, **more)

        monkeypatch.setattr(sets_module, "run_protocol", training)
        with ThreadPoolExecutor(3) as pool:  # each is a worker of its own
            runs = [pool.submit(evaluate_sets, sets, test, checkpoints=tmp_path, **options) for _ in range(3)]
        assert [run.result() for run in runs] == [alone] * 3
        assert made == dict.fromkeys(range(4), 1)
        assert {path.suffix for path in tmp_path.iterdir()} == {".json"}

    def test_small_is_as_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its result has neither constants nor options in it, as before there were other protocols."""
        monkeypatch.setitem(run_module.PROTOCOLS, "small", Small(width=4, few_steps=12))
        result = evaluate_sets({"a": arrays({"up": 3, "left": 3})}, arrays({"up": 9, "left": 9}), class_names=NAMES,
                               repeats=1, protocol_options={"few_steps": 10})  # fmt: skip
        assert result.to_dict()["protocol_options"] == {"few_steps": 10}
        plain = evaluate_sets({"a": arrays({"up": 3, "left": 3})}, arrays({"up": 9, "left": 9}), class_names=NAMES,
                              repeats=1).to_dict()  # fmt: skip
        assert list(plain) == ["protocol", "seed", "repeats", "test_images", "class_names", "rows", "recognised",
                               "recognised_per_class"]  # fmt: skip
        assert "checks" not in plain["rows"][0]

    def test_each_network_has_its_own_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        shapes = {}

        def run(images: np.ndarray, labels: object, test: np.ndarray, *rest: object, **options: object) -> object:
            shapes[options["network"]] = images.shape[2], test.shape[2]
            return training.Outcome(50.0, 60.0)

        monkeypatch.setattr(sets_module, "run_protocol", run)
        train = source({"up": 2, "left": 2})
        result = evaluate_source(train, train, protocol="rded", networks=["resnet18", "convnet5"], repeats=1,
                                 teacher=Teacher())  # fmt: skip
        assert shapes == {"resnet18": (16, 256), "convnet5": (16, 144)}
        assert [row.network for row in result.rows] == ["resnet18", "convnet5"]
        evaluate_source(train, train, protocol="hard", networks=["resnet18"], repeats=1)
        assert shapes["resnet18"] == (224, 224)

    def test_many_test_images_are_decoded_for_each_test(self, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"protocol": "hard", "protocol_options": TINY, "repeats": 1}
        train, test = source({"up": 3, "left": 3}), source({"left": 40, "none": 2, "up": 40}, first=100)
        held = evaluate_source(train, test, **options)
        monkeypatch.setattr(source_module, "STREAMED", 0)
        assert evaluate_source(train, test, **options) == held

    def test_blank_images_are_named(self, caplog: pytest.LogCaptureFixture) -> None:
        images = np.zeros((2, 3, 4, 4), np.uint8)
        train = source({"up": 1, "left": 1}, name="set")
        with pytest.raises(SourceError, match=r"set: every image has a single colour \(0, …\)"):
            source_module.check_not_blank(train, images)
        images[0, 0, 0, 0] = 1
        source_module.check_not_blank(train, images)
        assert "set: 1 of 2 images have a single colour: '1'" in caplog.text

    def test_blank_and_equal_real_images_are_named(self, caplog: pytest.LogCaptureFixture) -> None:
        train, options = source({"up": 3, "left": 3}), {"repeats": 1, "protocol_options": {"few_steps": 2, "checks": 1}}
        blank = replace(train, name="blank", load=lambda index: Image.new("L", (16, 16), 40 * index))
        with pytest.raises(SourceError, match="blank: every image has a single colour"):
            evaluate_source(train, train, real=blank, **options)
        same = replace(train, name="same", load=lambda index: train.load(0))
        evaluate_source(same, train, **options)
        assert "same: 5 of 6 images are copies of others of the set" in caplog.text

    def test_a_teacher_is_measured_at_the_size_of_the_protocol(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """RDED takes deep ConvNets at 128 pixels and other networks at 224, but images of 64 pixels as they are."""
        seen = []
        monkeypatch.setattr(labelling, "measure_teacher", lambda *_, size, **__: (seen.append(size), 1 / 0))
        test = np.zeros((2, 3, 72, 72), np.uint8), np.array([0, 1])
        for side, network in ((64, "convnet5"), (64, "resnet18"), (100, "convnet5"), (100, "resnet18")):
            sets = {"drawn": lambda _, side=side: (np.zeros((2, 3, side, side), np.uint8), np.array([0, 1]))}
            with pytest.raises(ZeroDivisionError):
                evaluate_sets(sets, test, class_names=NAMES, protocol="rded", networks=[network], teacher=Teacher())
        assert seen == [64, 64, 128, 224]
