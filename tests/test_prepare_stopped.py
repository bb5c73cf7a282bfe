"""Preparations that are stopped anywhere are continued, and end with the bytes of one that was not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_dap import COUNTS, context
from test_mgd3 import context as images_that_look_alike

import dap
from dap.features import build
from dap.methods import MGD3, CoDA, get_method
from dap.methods.common import class_gradients, modes, surrogate_training
from dap.methods.common.cached_networks import prepare_classifier, prepare_states
from dap.methods.common.modes import find_modes, largest_first
from dap.methods.common.surrogate import SurrogateTraining, prepare_surrogate
from dap.nets import ClassifierTraining
from dap.priors.dit import DiTPrior

TRAINING = SurrogateTraining(width=2, epochs=3, checkpoints=2, similarity=1.0, references=3)


@pytest.fixture
def given(tiny_pipeline, tmp_path, monkeypatch):
    """A run of three classes, with a cache of its own."""
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    return context(DiTPrior(tiny_pipeline))


def stopping(function: Callable[..., object], calls: int, seen: list[int]) -> Callable[..., object]:
    """Return a function that raises KeyboardInterrupt instead of its call number ``calls``, and counts the calls."""

    def call(*args: object, **options: object) -> object:
        seen.append(len(seen))
        if len(seen) == calls:
            raise KeyboardInterrupt
        return function(*args, **options)

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stop_and_continue(prepare: Callable[[], object], cache: Path, owner: object, name: str, calls: int) -> list[int]:
    """Compare a preparation that is stopped at a call with one that is not; return the calls of both of its parts."""
    prepare()
    whole, counts, function = files(cache), [], getattr(owner, name)
    shutil.rmtree(cache)
    for stop in (calls, 0):
        seen: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, stopping(function, stop, seen))
            if stop:
                with pytest.raises(KeyboardInterrupt) as stopped:
                    prepare()
                assert "the same command continues after" in stopped.value.__notes__[0]
            else:
                prepare()
        counts.append(len(seen))
    assert files(cache) == whole
    return counts


@pytest.mark.parametrize("calls", [1, 4])
def test_references_continue_after_the_last_group(given, tmp_path, calls):
    method = get_method("dap", {"references": 3})
    steps = given.num_steps()
    counts = stop_and_continue(
        lambda: method.prepare(given), tmp_path / "cache", build, "noised_features", calls
    )  # fmt: skip
    assert counts == [calls, steps * len(COUNTS) - (calls - 1) // steps * steps]


@pytest.mark.parametrize("calls", [1, 2, 5, 6])
def test_gradients_of_a_surrogate_continue_after_the_last_block(given, tmp_path, monkeypatch, calls):
    monkeypatch.setattr(class_gradients, "BLOCK_VALUES", 1)  # class by class
    counts = stop_and_continue(
        lambda: prepare_surrogate(given, TRAINING), tmp_path / "cache", class_gradients, "mean_gradient", calls
    )
    assert counts == [calls, 2 * len(COUNTS) + 1 - calls]


@pytest.mark.parametrize("seconds", [0.0, 60.0])
@pytest.mark.parametrize("calls", [1, 4, 8])
def test_the_training_of_a_surrogate_continues_from_what_was_saved(given, tmp_path, monkeypatch, calls, seconds):
    optimisation = surrogate_training.IGD_SGD._replace(batch_size=5)  # three steps an epoch
    monkeypatch.setattr(surrogate_training, "IGD_SGD", optimisation)
    monkeypatch.setattr(surrogate_training, "SAVE_SECONDS", seconds)
    counts = stop_and_continue(
        lambda: prepare_surrogate(given, TRAINING), tmp_path / "cache", ClassifierTraining, "step", calls
    )
    saved = calls - 1 if not seconds else min((calls - 1) // 3, 1) * 3  # before the gradients of two states
    assert counts == [calls, 9 - saved]


def test_a_classifier_continues_from_what_was_saved(given, tmp_path, monkeypatch):
    monkeypatch.setattr(surrogate_training, "SAVE_SECONDS", 0.0)
    counts = stop_and_continue(
        lambda: prepare_classifier(given, "convnet3", 2, 5), tmp_path / "cache", ClassifierTraining, "step", 4
    )
    assert counts == [4, 2]


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_states_of_trainings_continue_from_what_was_saved(given, tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(surrogate_training, "ONE_CYCLE", surrogate_training.ONE_CYCLE._replace(batch_size=5))
    monkeypatch.setattr(surrogate_training, "SAVE_SECONDS", seconds)
    counts = stop_and_continue(
        lambda: prepare_states(given, "convnet3", 2, 3, 2), tmp_path / "cache", ClassifierTraining, "step", 14
    )
    assert counts == [14, 18 - (13 if seconds == 0.0 else 9)]  # three steps an epoch; the first training is whole


def test_a_damaged_state_of_a_training_begins_it_again(given, tmp_path, monkeypatch):
    prepare_surrogate(given, TRAINING)
    whole = files(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_gradients, "mean_gradient", stopping(class_gradients.mean_gradient, 5, []))
        with pytest.raises(KeyboardInterrupt):
            prepare_surrogate(given, TRAINING)
    (state,) = (tmp_path / "cache").rglob("training.pt")
    state.write_bytes(state.read_bytes()[:-9])
    prepare_surrogate(given, TRAINING)
    assert files(tmp_path / "cache") == whole


def test_modes_continue_after_the_last_class_and_are_read_the_next_time(given, tmp_path):
    given = images_that_look_alike(given.prior, ipc=2)
    counts = stop_and_continue(lambda: MGD3().prepare(given), tmp_path / "cache", modes, "nearest", 3)
    assert counts == [3, 1]
    first = MGD3().prepare(given)
    shutil.rmtree(tmp_path / "cache" / "latents")
    again = MGD3().prepare(given)
    assert again.record() == first.record() and not list((tmp_path / "cache").glob("latents/*"))
    for name, latents in first.latents.items():
        assert torch.equal(again.latents[name], latents) and latents.shape == (2, *given.prior.latent_shape)


@pytest.mark.parametrize("change", [{"ipc": 1}, {"seed": 9}, {"latent_dtype": "float16"}], ids=str)
def test_modes_of_another_run_are_others(given, tmp_path, change):
    given = images_that_look_alike(given.prior, ipc=2)
    for run in (given, replace(given, **change)):
        find_modes(run, largest_first, "rule")
    find_modes(given, largest_first, ["another", {"rule": 1}])
    assert len(list((tmp_path / "cache" / "modes").iterdir())) == 3


def test_the_rule_of_coda_has_its_options(given, monkeypatch):
    rules = []
    monkeypatch.setattr("dap.methods.coda.find_modes", lambda context, cluster, rule: rules.append(json.dumps(rule)))
    monkeypatch.setattr("dap.methods.coda.load_libraries", lambda: None)
    monkeypatch.setattr("dap.methods.coda.version", lambda name: "1")
    for change in ({}, {"n_components": 7}, {"n_neighbors": 7}, {"min_cluster_size": 7}, {"min_samples": 7}):
        CoDA(**change).prepare(given)
    assert len(set(rules)) == 5


def test_a_run_of_an_older_version_keeps_float32_latents(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    for number in range(6):
        image = tmp_path / "tree" / ("Bag", "Dress")[number % 2] / f"{number}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), 40 * number).save(image)
    options = {"prior": str(tiny_folder), "method": "mgd3", "ipc": 1, "num_inference_steps": 2, "progress": False}

    def run(out):
        return dap.distill(tmp_path / "tree", out=tmp_path / out, **options)

    run("new")
    manifest = json.loads((tmp_path / "new" / "dap.json").read_text())
    assert manifest["latent_dtype"] == "float16"
    (new,) = (tmp_path / "cache" / "latents").iterdir()
    run("new")
    assert list((tmp_path / "cache" / "latents").iterdir()) == [new]
    del manifest["latent_dtype"]
    manifest["status"] = "running"
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    (tmp_path / "old" / "dap.json").write_text(json.dumps(manifest))
    (tmp_path / "old" / "train" / "Bag" / "00000.png").unlink()
    continued = run("old")
    assert "latent_dtype" not in continued.manifest
    (old,) = set((tmp_path / "cache" / "latents").iterdir()) - {new}
    assert "F16" in new.read_bytes()[:200].decode("latin1") and "F32" in old.read_bytes()[:200].decode("latin1")
