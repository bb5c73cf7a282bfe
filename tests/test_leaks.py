"""Test images that are also trained on: they are found by small copies, told apart and told."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from protocol_trainings import TINY
from test_evaluate import picture, source
from test_teacher import NAMES, TRAINING, real

import dap
from dap.data.from_labels import source_from_labels
from dap.data.source import Source
from dap.evaluation import evaluate_source
from dap.evaluation.leaks import TestHashes


def test_test_images_that_are_trained_on_are_told(caplog: pytest.LogCaptureFixture) -> None:
    test = source({"up": 6, "left": 6}, first=3)  # 3 and 4 of "up" and 9 of "left" are also in the set
    train = source({"up": 5, "left": 5})
    options = {"protocol": "hard", "protocol_options": TINY | {"epochs": 1}, "repeats": 1}
    with caplog.at_level(logging.WARNING):
        evaluate_source(train, test, real=source({"up": 5, "left": 5}, first=200), **options)
    assert [record.message for record in caplog.records] == [
        "fake: 3 of 12 test images are also in the set to evaluate, pixel by pixel ('0 = 3', '1 = 4', '6 = 9'): its "
        "accuracy is too high; dap metrics --against finds near-duplicates too"
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        evaluate_source(source({"up": 5, "left": 5}, first=200), test, real=train, **options)
    assert "3 of 12 test images are also in the random real images, pixel by pixel" in caplog.text
    assert picture("up", 3).shape == (16, 16)


def test_test_images_with_the_same_small_copy_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    """Two test images that differ by less than resizing keeps: the second one is also trained on."""
    large = np.full((3, 256, 256), 100, np.uint8)
    large[0, 128, 128] -= 1
    large[2] = np.arange(256)
    images = source_from_labels("large", np.array([0, 0, 1]), NAMES, lambda index: Image.fromarray(large[index]))
    hashes = TestHashes(images, NAMES)
    assert len(hashes._numbers) == 2
    with caplog.at_level(logging.WARNING):
        hashes.warn(images, [1], "the training images")
    assert "1 of 3 test images are also in the training images, pixel by pixel ('1 = 1')" in caplog.text


def test_equal_images_are_decoded_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = source_from_labels("blank", np.arange(8) % 2, NAMES, lambda index: Image.new("L", (40, 40)))
    hashes, decoded, pixels = TestHashes(blank, NAMES), [], Source.pixels
    monkeypatch.setattr(
        Source, "pixels", lambda own, index, **rest: decoded.append(index) or pixels(own, index, **rest)
    )
    hashes.warn(blank, range(8), "the training images")
    assert len(decoded) == 8 + 1


def test_a_teachers_test_images_are_compared_with_its_training_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dap.train_teacher(
            real(5), out=tmp_path / "teacher.safetensors", network="small_mlp", epochs=1, test=real(5, 3),
            options=TRAINING, progress=False,
        )  # fmt: skip
    assert "test images are also in the training images, pixel by pixel" in caplog.text
