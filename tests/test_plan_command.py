"""``dap plan``: what it says of a run, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import dap
from dap import api
from dap.cli.main import main
from dap.errors import DapError, OptionError
from dap.priors import Demand, load_prior
from dap.run import forecast as forecasts
from dap.run.memory import Footprint
from dap.run.operations import operations_of
from dap.run.stopwatch import Spent, since_start
from dap.run.trial import Stage, _of_all
from dap.sampling import SamplingSettings, sample

TWO = {"classes": ["Bag", "Dress"], "num_inference_steps": 4, "device": "cpu"}


def image_folder(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        (root / "images" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (32, 32), 20 * number).save(root / "images" / name / f"{number}.png")
    return root / "images"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "method, options, steps",
    [
        ("dit", {}, 24),
        ("dap_set", {"references": 8, "recurrences": 2}, 48),
        ("lgd", {"increment": 1, "learning_epochs": 2, "width": 4, "epochs": 2}, 24),
    ],
)
def test_steps_and_units_are_those_of_the_run(tmp_path, method, options, steps):
    plan = dap.plan("fashion-mini", method=method, method_options=options, ipc=3, batch_size=3, **TWO)
    calls = []
    dap.distill(
        "fashion-mini", method=method, method_options=options, ipc=3, batch_size=3, out=tmp_path / "out", **TWO,
        callback_on_step_end=lambda prior, step, t, tensors: calls.append(len(tensors["latents"])) or tensors,
    )  # fmt: skip
    assert plan.steps == steps == sum(calls) * (2 if "recurrences" in options else 1)
    assert plan.passes == 2 * plan.steps
    assert (plan.images, plan.units, plan.batch_size) == (6, 2, 3)


def test_the_steps_of_adam_after_sampling_are_in_the_time(monkeypatch):
    """cao2 samples candidates, then optimises them: many more steps of the latter take longer."""
    from dap.run import trial_unit

    monkeypatch.setattr(trial_unit, "_gain", lambda *_: 1.0)
    own = {"candidates": 1, "width": 4, "epochs": 2}
    settings = {"ipc": 2, "classes": ["Bag", "Dress"], "num_inference_steps": 8, "device": "cpu"}
    few, many = (
        dap.plan("fashion-mini", method="cao2", method_options=own | {"steps": steps}, **settings)
        for steps in (8, 8000)
    )
    assert (few.steps, many.steps) == (4 * 16, 4 * 8008) and many.make > 8 * few.make


def test_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = dap.plan("fashion-mini", method="dap", method_options={"references": 8}, ipc=2, out="made", **TWO)
    assert list(tmp_path.iterdir()) == []
    assert plan.cache > 0 and plan.disk > 0 and plan.memory > 10**8
    assert plan.seconds >= plan.prepare + plan.make > 0


def test_a_method_without_a_prior_and_one_with_a_loop_of_its_own():
    real = dap.plan("fashion-mini", method="k_medoids", features="pixels", ipc=3, classes=["Bag", "Dress"])
    assert (real.steps, real.operations, real.units) == (0, None, 1)
    pixels = dap.plan("fashion-mini", method="dm", method_options={"steps": 100, "batch": 8}, ipc=2, **TWO)
    assert pixels.steps == 400


def test_a_disk_that_is_too_small_is_refused_before_the_trial(monkeypatch):
    monkeypatch.setattr("dap.storage.space.shutil.disk_usage", lambda path: type("Disk", (), {"free": 10**6}))
    monkeypatch.setattr(forecasts, "trial_of", lambda *arguments: pytest.fail("a trial was made"))
    with pytest.raises(OptionError, match=r"the preparation takes .* has 1.0 MB free: set DAP_CACHE"):
        dap.plan("fashion-mini", method="dap", ipc=2, **TWO)


def test_what_may_be_there_already_is_not_refused(tmp_path, monkeypatch):
    run = {"method": "dap", "method_options": {"references": 8}, "ipc": 2, "out": tmp_path / "out", **TWO}
    plan = dap.plan("fashion-mini", **run)
    dap.distill("fashion-mini", **run)
    assert str(plan).startswith("4 images by dap in 1 unit of at most 4 slots")
    monkeypatch.setattr(
        "dap.storage.space.shutil.disk_usage", lambda path: type("Disk", (), {"free": 3 * plan.cache // 4})
    )
    monkeypatch.setattr(forecasts, "RECORDED", 10**9)
    assert dap.plan("fashion-mini", **run).images == 4
    with pytest.raises(OptionError, match="4 images take about"):
        dap.plan("fashion-mini", **run | {"out": tmp_path / "new"})


def test_an_option_that_a_run_does_not_have_is_named():
    with pytest.raises(OptionError, match="ip"):
        dap.plan("fashion-mini", ip=2)


def test_only_some_steps_are_taken():
    prior, seen = load_prior("fashion-dit"), []

    def on_step(prior, step, timestep, tensors):
        seen.append(step)
        return tensors

    latents = sample(
        prior, torch.tensor([1]), [torch.Generator()], settings=SamplingSettings(num_inference_steps=6), steps={0, 4},
        callback_on_step_end=on_step,
    )  # fmt: skip
    assert seen == [0, 4] and latents.shape == (1, 8, 8, 8)


def test_a_slow_device_samples_one_slot_in_a_trial(monkeypatch):
    """A DiT-XL/2 on a CPU takes seconds for a slot: the trial must not take a twentieth of a run of days."""
    from dap.run import trial_unit

    prior, batches = load_prior("fashion-dit"), []
    real = type(prior).denoise
    monkeypatch.setattr(
        type(prior), "denoise", lambda self, x, *rest, **named: batches.append(len(x)) or real(self, x, *rest, **named)
    )
    settings = {"method": "dit", "ipc": 50, "classes": ["Bag", "Dress"], "device": "cpu"}
    quick = dap.plan("fashion-mini", **settings)
    assert max(batches) == 100  # as many as the run samples at once
    batches.clear()
    monkeypatch.setattr(trial_unit, "SECONDS", 1e-6)
    slow = dap.plan("fashion-mini", **settings)
    assert max(batches) == 1
    assert (slow.steps, slow.images, slow.units) == (quick.steps, quick.images, quick.units)


def test_operations_of_a_step_and_of_one_with_a_graph():
    prior = load_prior("fashion-dit")
    plain, guided, decode = operations_of(prior, (Demand(denoiser=True),), 4.0)
    assert guided == pytest.approx(2 * plain, rel=0.1)  # the gradient by the sample alone costs one pass more
    assert operations_of(prior, (Demand(),), 1.0)[0] == plain // 2 and decode > 0
    assert operations_of(prior, (Demand(denoiser=True),) * 2, 4.0).of(1, 2, 3) == plain + 4 * guided + 3 * decode


def test_the_command_prints_json(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["dap", "plan", "fashion-mini", "--method", "dit", "--ipc", "2", "--classes", "Bag",
                                     "--num-inference-steps", "3", "--json", "-"])  # fmt: skip
    with pytest.raises(SystemExit) as end:
        main()
    values = json.loads(capsys.readouterr().out)
    assert end.value.code == 0 and values["images"] == 2 and values["steps"] == 6
    assert values["seconds"] == pytest.approx(sum(values[n] for n in ("starting", "prepare", "make", "finish")))


def test_times_add_and_grow():
    assert Spent((1.0, 2.0)) + Spent((0.5, 0.5)) * 2 - Spent((0.0, 5.0)) == (2.0, 0.0)
    seconds, cpu = since_start()
    assert cpu > 0 and time.process_time() >= cpu and seconds > 0


def test_stages_of_made_images_do_not_grow_with_the_real_ones():
    one, first = Spent((1.0, 1.0)), [Stage(10, Spent((1.0, 1.0)), False)]
    for made, seconds in ((True, 3.0), (False, 4.0)):  # 40 real images, timed with 20: the first stage takes 2 s
        second = [Stage(20, one, False), Stage(5, one, made)]
        assert _of_all(one * 2, [*first, Stage(5, one, made)], second, 10, 20, 40.0) == (seconds, seconds)


def test_the_plan_says_what_a_run_would_say(tmp_path):
    with pytest.raises(DapError) as planned:
        api.plan("fashion-mini", method="dit", ipc=0)
    with pytest.raises(DapError) as made:
        api.distill("fashion-mini", method="dit", ipc=0, out=tmp_path / "out")
    assert str(planned.value) == str(made.value)


def test_networks_of_all_classes_are_planned():
    """They are trained to tell classes apart, so that a trial with one class is none of theirs."""
    own = {"epochs": 2, "width": 4, "references": 8}
    plan = dap.plan("fashion-mini", method="dap_networks:trained", method_options=own, ipc=1, **TWO)
    assert plan.images == 2 and plan.prepare > 0


def test_a_class_may_have_fewer_images_than_another_gets(tmp_path):
    """The smallest class does not bound what the trial takes of the others."""
    source = image_folder(tmp_path, {"Bag": 12, "Dress": 1})
    for method in ("mgd3", "k_medoids"):
        options = {"method": method, "ipc": {"Bag": 6, "Dress": 1}, "num_inference_steps": 4, "device": "cpu"}
        assert dap.plan(source, **options).images == 7


def test_a_plan_that_sigterm_ends_leaves_nothing(tmp_path):
    """The cache of the trial can be large."""
    command = [sys.executable, "-m", "dap", "plan", "fashion-mini", "--method", "dap_set", "--ipc", "50"]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(tmp_path)}) as process:
        while not list(tmp_path.glob("dap-trial-*")) and process.poll() is None:
            time.sleep(0.02)
        process.terminate()
    assert process.returncode == 143 and not list(tmp_path.glob("dap-trial-*"))


def test_a_run_that_no_memory_can_hold_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("dap.run.memory.device_memory", lambda device: 10**7)
    for make in (dap.plan, dap.distill):
        with pytest.raises(
            OptionError, match=r"batch_size: 6 slots of dit at once take .* MB of memory, cpu has 10.0 MB"
        ):
            make("fashion-mini", method="dit", ipc=3, batch_size=6, out=tmp_path / "out", **TWO)
    assert not (tmp_path / "out").exists()


def test_a_preparation_that_no_memory_can_hold_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("dap.run.memory.footprint", lambda job: Footprint(10**6, (), 10**8, 0, 0, 0))
    monkeypatch.setattr("dap.run.memory.device_memory", lambda device: 10**7)
    with pytest.raises(OptionError, match=r"the preparation of dit takes 101.0 MB of memory, cpu has 10.0 MB: choose"):
        dap.distill("fashion-mini", method="dit", ipc=3, batch_size=6, out=tmp_path / "out", **TWO)


def test_a_run_says_first_what_it_needs(tmp_path, caplog):
    caplog.set_level("INFO", "dap.run.local")
    dap.distill("fashion-mini", method="dit", ipc=3, batch_size=4, out=tmp_path / "out", **TWO)
    assert "2 units of at most 4 slots, 24 denoiser steps, " in caplog.text and "nothing for the cache" in caplog.text


def test_the_cache_of_a_method_that_does_not_say_its_size_is_measured(tmp_path):
    options = {"classes": ["Bag", "Dress"], "method": "k_medoids", "features": "prior", "ipc": 3}
    plan = dap.plan("fashion-mini", **options)
    dap.distill("fashion-mini", **options, out=tmp_path / "out")
    kept = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*") if file.is_file())
    assert plan.cache == pytest.approx(kept, rel=0.1)


def test_a_process_without_bars_says_how_far_the_run_is(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("dap.run.local.SAY", -1.0)
    caplog.set_level("INFO", "dap.run.local")
    dap.distill("fashion-mini", method="random", ipc=2, batch_size=2, out=tmp_path / "out", classes=["Bag", "Dress"],
                progress=False)  # fmt: skip
    assert "out: 1 of 2 units are there" in caplog.text and "out: 2 of 2 units are there" in caplog.text
