"""dap.evaluate in several processes of one machine: the numbers of one, and each training made once."""

from __future__ import annotations

import pytest

import dap
from dap.data.packing import FORMATS
from dap.errors import OptionError

OPTIONS = {"networks": ["small_mlp"], "repeats": 3, "protocol_options": {"few_steps": 20, "checks": 1}, "device": "cpu"}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    return dap.distill(
        "fashion-mini", method="random", ipc=2, classes=["Bag", "Dress"], out=tmp_path_factory.mktemp("set") / "out",
        progress=False,
    )  # fmt: skip


def test_two_processes_give_the_numbers_of_one(distilled, tmp_path):
    images = dap.open_source("fashion-mini", split="test", classes=["Bag", "Dress"])
    alone = dap.evaluate(distilled, images, **OPTIONS)
    together = dap.evaluate(distilled, images, **OPTIONS, workers=2, checkpoints=tmp_path / "kept")
    assert together.to_json() == alone.to_json()
    outcomes = sorted((tmp_path / "kept").glob("*.json"))
    assert len(outcomes) == 6 and not list((tmp_path / "kept").glob("*.safetensors"))
    times = [file.stat().st_mtime_ns for file in outcomes]
    dap.evaluate(distilled, images, **OPTIONS, workers=2, checkpoints=tmp_path / "kept")
    assert [file.stat().st_mtime_ns for file in outcomes] == times, "nothing is trained again"


@pytest.mark.parametrize("format", FORMATS)
def test_a_packed_set_has_the_numbers_of_its_run(distilled, tmp_path, format):
    images = dap.open_source("fashion-mini", split="test", classes=["Bag", "Dress"])
    distilled.save(tmp_path / "packed", format=format)
    sets = (tmp_path / "packed", dap.load(tmp_path / "packed"), distilled)
    packed, loaded, run = (dap.evaluate(given, images, **OPTIONS).rows for given in sets)
    assert packed == loaded == run and [row.set_name for row in run] == ["random real", "distilled"]
    measured = [dap.measure(given, only=["nearest_real"]).metrics for given in sets]
    assert measured[0] == measured[1] == measured[2]


def test_a_run_in_the_home_folder_is_compared_with_its_real_images(distilled, monkeypatch):
    monkeypatch.setenv("HOME", str(distilled.path.parent))
    images = dap.open_source("fashion-mini", split="test", classes=["Bag", "Dress"])
    options = OPTIONS | {"repeats": 1}
    assert dap.evaluate("~/out", images, **options).rows == dap.evaluate(distilled.path, images, **options).rows


def test_what_cannot_be_shared_is_refused(distilled, monkeypatch):
    with pytest.raises(OptionError, match="workers: expected a whole number of at least 1, got 0"):
        dap.evaluate(distilled, "fashion-mini", workers=0)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionError, match="torchrun or SLURM has started 2 processes already"):
        dap.evaluate(distilled, "fashion-mini", workers=2)
