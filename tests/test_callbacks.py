"""Callbacks of a run, and the loggers, whose files are read back."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

import dap
from dap.callbacks import Callback, TensorBoard, Trackio, WandB
from dap.errors import OptionError

RUN = {"method": "dap", "method_options": {"references": 4}, "classes": ["Bag", "Dress"], "num_inference_steps": 3}


def distil(out, **options):
    return dap.distill("fashion-mini", **RUN, ipc=2, out=out, progress=False, **options)


class Recorder(Callback):
    def __init__(self):
        self.steps, self.units, self.ends = [], [], 0

    def on_step_end(self, prior, step, timestep, tensors):
        assert isinstance(prior.pipeline, DiffusionPipeline)
        self.steps.append((step, timestep, {name: tuple(values.shape) for name, values in tensors.items()}))
        return tensors

    def on_unit_end(self, made):
        self.units.append(made)

    def on_run_end(self):
        self.ends += 1


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return distil(tmp_path_factory.mktemp("runs") / "plain")


def test_a_callback_sees_steps_units_and_the_end_and_changes_no_bytes(plain, tmp_path):
    recorder = Recorder()
    made = distil(tmp_path / "run", callbacks=[recorder])
    assert made.manifest["files"] == plain.manifest["files"]
    assert [step for step, *_ in recorder.steps] == [0, 1, 2]
    assert recorder.steps[0][2] == {"latents": (4, 8, 8, 8), "energy.KernelDistanceTerm": (4,)}
    (unit,) = recorder.units
    assert unit.names == ("Dress/0", "Dress/1", "Bag/0", "Bag/1") and unit.seconds > 0
    assert torch.equal(torch.stack(list(unit.images)), plain.to_torch()[0])
    distil(tmp_path / "run", callbacks=[recorder])
    assert recorder.ends == 2 and len(recorder.units) == 1


def test_each_callback_goes_on_with_the_latents_of_the_one_before(tmp_path):
    class Zero(Callback):
        def on_step_end(self, prior, step, timestep, tensors):
            return {"latents": torch.zeros_like(tensors["latents"])}

    seen = []

    class Look(Callback):
        def on_step_end(self, prior, step, timestep, tensors):
            seen.append((float(tensors["latents"].abs().max()), sorted(tensors)))
            return {}

    made = distil(tmp_path / "run", callbacks=[Zero(), Look()])
    assert seen[-1] == (0.0, ["energy.KernelDistanceTerm", "latents"])
    images, _ = made.to_torch()
    assert torch.equal(images[0], images[1])  # both decoded from zeros


def test_an_error_of_a_callback_ends_the_run_and_the_next_call_continues_it(plain, tmp_path):
    class Broken(Recorder):
        def on_unit_end(self, made):
            raise ZeroDivisionError

    broken = Broken()
    with pytest.raises(ZeroDivisionError):
        distil(tmp_path / "run", callbacks=[broken])
    assert broken.ends == 1
    assert distil(tmp_path / "run").manifest["files"] == plain.manifest["files"]


def test_tensorboard_has_energies_images_and_cost(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    distil(tmp_path / "run", callbacks=[TensorBoard(tmp_path / "logs")])
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    tags = events.Tags()
    assert tags["images"] == ["images/Dress/0"]
    assert set(tags["scalars"]) == {
        "energy/KernelDistanceTerm", "timestep", "images", "seconds", "seconds per image",
    }  # fmt: skip
    assert [event.step for event in events.Scalars("energy/KernelDistanceTerm")] == [1, 2, 3]
    assert [event.value for event in events.Scalars("images")] == [4.0]
    image = events.Images("images/Dress/0")[0]
    assert (image.width, image.height) == (4 * 32, 32)


def test_images_of_any_size_are_logged(tmp_path):
    logged = []

    class Lines(dap.callbacks.Logger):
        def log(self, numbers, pictures, step):
            logged.append((dict(numbers), {name: pixels.shape for name, pixels in pictures.items()}))

    from dap.callbacks import MadeUnit

    logger = Lines(images=11)
    logger.on_unit_end(MadeUnit(("a/0",) * 12, [torch.ones(3, 4 + n, 5, dtype=torch.uint8) for n in range(12)], 6.0))
    assert logged == [({"images": 12, "seconds": 6.0, "seconds per image": 0.5}, {"images/a/0": (2 * 14, 10 * 5, 3)})]


def test_wandb_has_the_same_rows_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    rows = []
    monkeypatch.setattr(wandb.Run, "log", lambda self, data, step: rows.append((step, data)))
    logger = WandB("dap", mode="offline", dir=str(tmp_path))
    distil(tmp_path / "run", callbacks=[logger])
    assert [step for step, _ in rows] == [1, 2, 3, 3]
    assert rows[0][1].keys() == {"energy/KernelDistanceTerm", "timestep"} and rows[-1][1]["images"] == 4
    assert isinstance(rows[-1][1]["images/Dress/0"], wandb.Image)
    assert list(tmp_path.glob("wandb/offline-run-*"))


def test_trackio_gets_the_same_rows(tmp_path, monkeypatch):
    """Against a stand-in with trackio's signatures: trackio itself starts a server."""
    rows, calls = [], []
    stand_in = SimpleNamespace(
        init=lambda project, *, name=None: calls.append((project, name)),
        log=lambda metrics, step=None: rows.append((step, metrics)),
        Image=lambda value: np.asarray(value), finish=lambda: calls.append("finished"),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    distil(tmp_path / "run", callbacks=[Trackio("dap", name="first")])
    assert calls == [("dap", "first"), "finished"] and [step for step, _ in rows] == [1, 2, 3, 3]
    assert rows[-1][1]["images/Dress/0"].shape == (32, 4 * 32, 3)


@pytest.mark.parametrize(("logger", "module"), [(WandB, "wandb"), (Trackio, "trackio")])
def test_a_package_that_is_missing_is_named(logger, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(OptionError, match=rf"need {module}: pip install 'dap-distill\[{module}\]'"):
        logger("dap")


def test_wrong_callbacks_are_refused_before_anything_is_made(tmp_path):
    with pytest.raises(OptionError, match=r"callbacks: expected objects of dap\.callbacks\.Callback, got <class"):
        distil(tmp_path / "run", callbacks=[Recorder])
    with pytest.raises(OptionError, match="other processes cannot call your callbacks"):
        distil(tmp_path / "run", callbacks=[Recorder()], workers=2)
    assert not (tmp_path / "run").exists()
