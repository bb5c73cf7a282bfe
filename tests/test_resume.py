"""Same command, same bytes: run twice, killed at any moment, grown, tampered with, or asked for something else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import grey_tree
from PIL import Image

import dap
from dap.errors import RunMismatchError
from dap.run.state import RunState
from dap.storage.files import SHARED

PNGS = "train/*/*.png"
CLASSES = ("Bag", "Dress", "T-shirt%2Ftop")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three classes of four grey 32 x 32 images."""
    return grey_tree(tmp_path_factory.mktemp("source"), 4)


@pytest.fixture(scope="module")
def options(source, tiny_folder):
    """Two of the classes, three images each in units of two: three units."""
    return {
        "source": source, "prior": str(tiny_folder), "method": "dap", "method_options": {"references": 3}, "seed": 7,
        "classes": ["Dress", "T-shirt/top"], "ipc": 3, "batch_size": 2, "num_inference_steps": 4, "progress": False,
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory):
    """The folder of a run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "a"
    dap.distill(**options, out=out)
    return out


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(undisturbed, tmp_path / "finished"))


def contents(out):
    """Bytes of each file by path, the manifest as its values without times."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    manifest = json.loads(found.pop("dap.json"))
    assert manifest.pop("seconds")
    return found | {"dap.json": manifest, "order": list(manifest)}


def ledger_lines(out):
    """The lines of the ledgers of all workers."""
    return [line for path in (out / SHARED).glob("*.jsonl") for line in path.read_bytes().splitlines()]


def stamps(out, pattern="**/*"):
    """Who each file is and when it was written."""
    return {
        str(path.relative_to(out)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in out.glob(pattern)
        if path.is_file()
    }


def kept(before, after):
    return {path: after.get(path) for path in before} == before


def test_same_command_gives_the_same_bytes_in_another_folder(options, undisturbed, tmp_path):
    dap.distill(**options, out=tmp_path / "b")
    assert contents(tmp_path / "b") == contents(undisturbed)
    assert len(stamps(undisturbed, PNGS)) == 6


def test_same_command_again_changes_nothing(options, finished):
    before = stamps(finished)
    again = dap.distill(**options, out=finished)
    assert stamps(finished) == before
    assert len(again) == 6


def test_global_seeds_neither_matter_nor_change(options, undisturbed, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(1234)
        state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
        dap.distill(**options, out=tmp_path / "b")
        assert torch.equal(torch.random.get_rng_state(), state)
        assert (np.random.get_state()[1] == numpy_state).all()
    assert contents(tmp_path / "b") == contents(undisturbed)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_another_batch_size_changes_pixels_by_one_level_at_most(options, undisturbed, tmp_path, batch_size):
    images, _ = dap.distill(**options | {"batch_size": batch_size}, out=tmp_path / "b").to_torch()
    expected, _ = dap.load(undisturbed).to_torch()
    assert (images.int() - expected.int()).abs().max() <= 1


def test_another_seed_gives_other_images(options, undisturbed, tmp_path):
    dap.distill(**options | {"seed": 8}, out=tmp_path / "b")
    ours = {path.read_bytes() for path in (tmp_path / "b").glob(PNGS)}
    assert len(ours) == 6
    assert not ours & {path.read_bytes() for path in undisturbed.glob(PNGS)}


KILL_IN_THIRD_UNIT = """
import json, os, signal, sys, torch
import dap

options, out, threads = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
steps = []

def count(prior, step, timestep, tensors):
    steps.append(step)
    if len(steps) == 2 * options["num_inference_steps"] + 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return tensors

dap.distill(**options, out=out, callback_on_step_end=count)
"""


def test_killed_by_the_system_and_continued_ends_as_if_nothing_had_happened(options, undisturbed, tmp_path):
    out = tmp_path / "c"
    arguments = [json.dumps(options | {"source": str(options["source"])}), str(out), str(torch.get_num_threads())]
    killed = subprocess.run(
        [sys.executable, "-c", KILL_IN_THIRD_UNIT, *arguments], capture_output=True, text=True, timeout=1800,
        env=os.environ | {"PYTHONPATH": str(Path(dap.__file__).parents[1])}, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(ledger_lines(out)) == 2
    before = stamps(out, PNGS)
    assert len(before) == 4
    with pytest.raises(dap.errors.SourceError, match="not finished"):
        dap.load(out)
    leftover = out / "train" / "Dress" / ".tmp-123-deadbeef"
    leftover.write_bytes(b"half a fi")
    steps = []
    dap.distill(**options, out=out, callback_on_step_end=lambda *call: steps.append(call[1]) or call[3])
    assert steps == [0, 1, 2, 3]  # of the third unit alone
    assert kept(before, stamps(out, PNGS))
    assert contents(out) == contents(undisturbed)


class Killed(BaseException):
    """Nothing of dap's may catch this."""


@pytest.fixture(name="kill_at")
def fixture_of_kill_at(monkeypatch):
    """Stops a run at its n-th change of the disk as SIGKILL would: it and all that follow, cleaning up too, fail."""

    def arm(patch, at):
        calls = []

        def counted(original):
            def call(*args, **kwargs):
                calls.append(original)
                if len(calls) >= at:
                    raise Killed
                return original(*args, **kwargs)

            return call

        for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "mkdir")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        return calls

    def run(at, **arguments):
        with monkeypatch.context() as patch:
            calls = arm(patch, at)
            try:
                dap.distill(**arguments)
            except Killed:
                return True
        assert len(calls) < at
        return False

    return run


@pytest.mark.parametrize("grown", [False, True], ids=["new", "grown from 1"])
def test_killed_at_any_change_of_the_disk_and_continued_ends_the_same(options, tmp_path, kill_at, grown):
    options = options | {"method": "random", "method_options": {}}
    start = tmp_path / "start"
    if grown:
        dap.distill(**options | {"ipc": 1}, out=start)
    else:
        start.mkdir()
    expected = Path(shutil.copytree(start, tmp_path / "expected"))
    dap.distill(**options, out=expected)
    wrong, at, going = [], 0, True
    while going:
        at += 1
        out = Path(shutil.copytree(start, tmp_path / f"killed-{at}"))
        going = kill_at(at, **options, out=out)
        before = stamps(out, PNGS)
        try:
            dap.distill(**options, out=out)
        except dap.errors.DapError as error:
            wrong.append(f"killed at {at}: not continued: {error}")
            continue
        found, wanted = contents(out), contents(expected)
        if found != wanted:
            differing = [key for key in found | wanted if found.get(key) != wanted.get(key)]
            wrong.append(f"killed at {at}: ended with other {differing}")
        if not kept(before, stamps(out, PNGS)):
            wrong.append(f"killed at {at}: made files again")
    assert at > 25
    assert not wrong, "\n".join(wrong)


def test_killed_within_a_unit_of_dap_keeps_its_files(options, undisturbed, tmp_path, monkeypatch):
    calls = []

    def killed_second(state, *entry, add=RunState.add):
        calls.append(entry)
        if len(calls) == 2:
            raise Killed
        add(state, *entry)

    out = tmp_path / "c"
    with monkeypatch.context() as patch:
        patch.setattr(RunState, "add", killed_second)
        with pytest.raises(Killed):
            dap.distill(**options, out=out)
    assert len(ledger_lines(out)) == 1
    before = stamps(out, PNGS)
    assert len(before) == 4
    steps = []
    dap.distill(**options, out=out, callback_on_step_end=lambda *call: steps.append(call[1]) or call[3])
    assert steps == [0, 1, 2, 3] * 2  # of the second and the third unit, not of the first
    assert kept(before, stamps(out, PNGS))
    assert contents(out) == contents(undisturbed)


@pytest.mark.parametrize("left", [1, 40])
def test_torn_last_line_of_the_ledger_costs_nothing(options, undisturbed, tmp_path, left):
    def interrupt(prior, step, timestep, tensors, steps=[]):  # noqa: B006
        steps.append(step)
        if len(steps) == 11:
            raise Killed
        return tensors

    out = tmp_path / "c"
    with pytest.raises(Killed):
        dap.distill(**options, out=out, callback_on_step_end=interrupt)
    (ledger,) = (out / SHARED).glob("*.jsonl")
    lines = ledger.read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    ledger.write_bytes(lines[0] + lines[1][:left])
    before = stamps(out, PNGS)
    dap.distill(**options, out=out)
    assert kept(before, stamps(out, PNGS))
    assert contents(out) == contents(undisturbed)


def test_growth_keeps_what_is_there_and_is_itself_reproducible(options, tmp_path):
    grown, again = tmp_path / "grown", tmp_path / "again"
    dap.distill(**options | {"ipc": 1}, out=grown)
    before, small_sheet = stamps(grown, PNGS), (grown / "contact_sheet.png").read_bytes()
    assert len(before) == 2
    dap.distill(**options, out=grown)
    after = stamps(grown, PNGS)
    assert kept(before, after)
    assert len(after) == 6
    manifest = dap.load(grown).manifest
    assert (manifest["ipc"], manifest["ipc_stages"], len(manifest["files"])) == (3, [1, 3], 6)
    assert (grown / "contact_sheet.png").read_bytes() != small_sheet
    dap.distill(**options | {"ipc": 1}, out=again)
    dap.distill(**options, out=again)
    assert contents(again) == contents(grown)


def test_grown_images_are_those_of_the_larger_run_within_one_level(options, undisturbed, tmp_path):
    dap.distill(**options | {"ipc": 1}, out=tmp_path / "grown")
    images, labels = dap.distill(**options, out=tmp_path / "grown").to_torch()
    expected, expected_labels = dap.load(undisturbed).to_torch()
    assert torch.equal(labels, expected_labels)
    assert (images.int() - expected.int()).abs().max() <= 1


def test_growth_killed_midway_is_continued(options, tmp_path):
    expected, out = tmp_path / "expected", tmp_path / "killed"
    for folder in (expected, out):
        dap.distill(**options | {"ipc": 1}, out=folder)
    dap.distill(**options, out=expected)

    def interrupt(prior, step, timestep, tensors, steps=[]):  # noqa: B006
        steps.append(step)
        if len(steps) == 6:
            raise Killed
        return tensors

    with pytest.raises(Killed):
        dap.distill(**options, out=out, callback_on_step_end=interrupt)
    before = stamps(out, PNGS)
    assert len(before) == 4
    dap.distill(**options, out=out)
    assert kept(before, stamps(out, PNGS))
    assert contents(out) == contents(expected)


@pytest.fixture(scope="module")
def others(source, tiny_folder, tmp_path_factory):
    """A source with one more image, and a prior with other weights."""
    more = Path(shutil.copytree(source, tmp_path_factory.mktemp("others") / "source"))
    Image.new("L", (32, 32)).save(more / "Dress" / "4.png")
    from safetensors.torch import load_file, save_file

    other_prior = Path(shutil.copytree(tiny_folder, tmp_path_factory.mktemp("others") / "prior"))
    (weights,) = (other_prior / "vae").glob("*.safetensors")
    tensors = load_file(weights)
    name = sorted(tensors)[0]
    save_file(tensors | {name: tensors[name] + 1e-3}, weights, metadata={"format": "pt"})
    return {"source": more, "prior": str(other_prior)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ipc": 2}, "3 images per class, more than ipc=2"),
        ({"seed": 8}, "options.seed: there 7, now 8"),
        ({"method": "dit", "method_options": {}}, "options.method.name"),
        ({"method_options": {"references": 2}}, "options.method.references: there 3, now 2"),
        ({"method_options": {"references": 3, "kernel": "rbf"}}, "options.method.kernel"),
        ({"num_inference_steps": 3}, "options.sampling.num_inference_steps: there 4, now 3"),
        ({"guidance_scale": 2.0}, "options.sampling.guidance_scale"),
        ({"scheduler": "ddim"}, "options.sampling.scheduler"),
        ({"dtype": torch.bfloat16}, "options.dtype"),
        ({"batch_size": 3}, "batch_size: there 2, now 3"),
        ({"classes": ["Dress"]}, "holds class 'T-shirt/top' too"),
        ("source", "source.identity"),
        ("prior", "prior.sha256"),
    ],
    ids=str,
)
def test_other_options_are_refused_by_name_and_touch_nothing(options, finished, others, change, named):
    change = {change: others[change]} if isinstance(change, str) else change
    before = stamps(finished)
    with pytest.raises(RunMismatchError) as caught:
        dap.distill(**options | change, out=finished)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert stamps(finished) == before


def test_a_folder_of_something_else_is_refused_and_untouched(options, tmp_path):
    (tmp_path / "theses").mkdir()
    (tmp_path / "theses" / "final.txt").write_text("mine")
    with pytest.raises(RunMismatchError, match="theses is not empty"):
        dap.distill(**options, out=tmp_path / "theses")
    assert [path.name for path in (tmp_path / "theses").iterdir()] == ["final.txt"]
    assert (tmp_path / "theses" / "final.txt").read_text() == "mine"


def test_an_empty_folder_is_filled(options, undisturbed, tmp_path):
    (tmp_path / "empty").mkdir()
    dap.distill(**options, out=tmp_path / "empty")
    assert contents(tmp_path / "empty") == contents(undisturbed)


@pytest.mark.parametrize("ipc", [3, 4])
def test_a_changed_image_is_refused_by_name(options, finished, ipc):
    path = finished / "train" / "T-shirt%2Ftop" / "00001.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = stamps(finished)
    with pytest.raises(RunMismatchError, match=r"T-shirt%2Ftop/00001\.png"):
        dap.distill(**options | {"ipc": ipc}, out=finished)
    assert stamps(finished) == before


@pytest.mark.parametrize("deleted", ["train/Dress/00002.png", "contact_sheet.png", "train/T-shirt%2Ftop"])
def test_what_was_deleted_is_made_again_with_the_same_bytes(options, undisturbed, finished, deleted):
    path = finished / deleted
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = stamps(finished, PNGS)
    dap.distill(**options, out=finished)
    assert contents(finished) == contents(undisturbed)
    assert kept(before, stamps(finished, PNGS))
