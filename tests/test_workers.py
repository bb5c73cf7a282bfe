"""Several processes on one run: claims, takeovers, failures that are kept, and stops."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from test_run import Painter

import dap
from dap import stopping
from dap.data.manifest import read_manifest
from dap.data.records import Records
from dap.errors import OptionError, StoppedError, StorageError, UnitError
from dap.run import Rank, own_rank, worker_processes
from dap.storage import claims
from dap.storage.claims import Claims
from dap.storage.files import SHARED, sweep
from dap.storage.processes import HOST

HOLDER = """
import sys
from pathlib import Path
from dap.storage.claims import Claims
with Claims(Path(sys.argv[1])) as mine:
    print(mine.take("unit-0"), flush=True)
    input()
"""


@pytest.fixture(name="holder")
def fixture_of_holder(tmp_path: Path):
    """Another process that has claimed "unit-0" of the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "shared"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(dap.__file__).parents[1])},
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "True\n"
    yield process
    process.kill()
    process.communicate()


def test_a_claim_is_respected_until_its_process_dies_and_leaves_nothing(tmp_path: Path, holder) -> None:
    with Claims(tmp_path / "shared") as mine:
        assert not mine.take("unit-0")
        assert mine.take("unit-1")
        holder.kill()
        while holder.poll() is None:
            time.sleep(0.01)
        assert mine.take("unit-0")
        assert mine.holds("unit-0") and not mine.take("unit-0")
        mine.clear()
    assert not (tmp_path / "shared").exists()


def test_a_claim_without_a_beat_is_taken_over_and_its_old_owner_does_no_harm(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 1e6)
    with Claims(tmp_path / "shared") as stalled, Claims(tmp_path / "shared") as mine:
        assert stalled.take("unit-0") and not mine.take("unit-0")
        monkeypatch.setattr(claims, "PATIENCE", 0.0)
        assert mine.take("unit-0")
        assert not stalled.holds("unit-0")
        stalled.release("unit-0")
        assert mine.holds("unit-0")


def test_a_worker_of_another_machine_lives_while_it_beats(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0.0)
    with Claims(tmp_path / "shared") as mine:
        far = tmp_path / "shared" / "far.away-1-0123abcd.worker"
        far.write_text("unit-0")
        (tmp_path / "shared" / "unit-0").write_text(far.stem)
        for beat in (1.0, 2.0):
            os.utime(far, (beat, beat))  # whatever its clock says
            assert not mine.take("unit-0")
        assert mine.take("unit-0")


def test_a_claim_that_a_full_disk_cuts_short_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    def opens(path, mode="r", *, open=Path.open, **options):
        file = open(path, mode, **options)
        return Full(file.close()) if "x" in mode else file

    with Claims(tmp_path / "shared") as mine:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", opens)
            with pytest.raises(StorageError, match=r"shared/unit-0: cannot be written \(No space left"):
                mine.take("unit-0")
        assert mine.taken() == set() and mine.take("unit-0")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", lambda *_, **__: Full().write(""))
            with pytest.raises(StorageError, match=r"\.worker: cannot be written"):
                mine.note("unit-0")


def test_a_folder_that_another_worker_removes_meanwhile_is_passed_over(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "out" / SHARED).mkdir(parents=True)
    leftover = tmp_path / "out" / "train" / ".tmp-4194998-0123abcd"
    leftover.mkdir(parents=True)

    def scanned(path, *, scandir=os.scandir):
        if str(path).endswith(SHARED):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scanned)
    sweep(tmp_path / "out")
    assert not leftover.exists() and leftover.parent.exists()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in "ab":
        (tmp_path / "source" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "source" / name / "0.png")
    Painter.made.clear()
    return tmp_path / "source"


def test_units_that_others_have_made_or_left_are_told_apart(source: Path, tmp_path: Path, monkeypatch) -> None:
    """A worker joins a run, which another one claims a unit of and dies."""
    out, make = tmp_path / "out", Painter.make

    def joined(self, context, unit, artefact):
        if unit.index == 0:
            with Claims(out / SHARED) as other:
                assert not other.take("unit-0")
                assert other.take("unit-1")
                dap.distill(source, method=Painter(), ipc=3, batch_size=1, out=out, progress=False)
        return make(self, context, unit, artefact)

    calls = []

    def counted(self, context, unit, artefact):
        calls.append(unit.index)
        return (joined if len(calls) == 1 else make)(self, context, unit, artefact)

    monkeypatch.setattr(Painter, "make", counted)
    monkeypatch.setattr(claims, "PATIENCE", 0.3)
    monkeypatch.setattr(claims, "BEAT", 1e6)  # the first worker and the one that claims stall while the second works
    dap.distill(source, method=Painter(), ipc=3, batch_size=1, out=out, progress=False)
    assert sorted(calls) == [0, 0, 1, 2, 3, 4, 5]
    assert not (out / SHARED).exists()
    manifest = read_manifest(out)
    assert manifest is not None and (manifest["status"], len(manifest["files"])) == ("complete", 6)
    assert manifest["threads"] == sorted({*manifest["threads"]}) and len(manifest["threads"]) == 1


@pytest.mark.parametrize(("times", "made"), [(1, 7), (2, 8), (3, 8)])
def test_a_unit_that_fails_is_tried_again_at_the_end(source, tmp_path, monkeypatch, times, made) -> None:
    calls, make = [], Painter.make

    def fails(self, context, unit, artefact):
        calls.append(unit.index)
        if unit.index == 2 and calls.count(2) <= times:
            raise MemoryError("no room")
        return make(self, context, unit, artefact)

    monkeypatch.setattr(Painter, "make", fails)
    options = {"method": Painter(), "ipc": 3, "batch_size": 1, "out": tmp_path / "out", "progress": False}
    if times < 3:
        dap.distill(source, **options)
    else:
        with pytest.raises(UnitError, match=r"1 of 6 units .* in 3 tries \(unit 2: MemoryError: no room\)"):
            dap.distill(source, **options)
        assert len(list((tmp_path / "out").glob("train/*/*.png"))) == 5
    assert (calls[:6], len(calls)) == ([0, 1, 2, 3, 4, 5], made)
    dap.distill(source, **options)
    assert len(dap.load(tmp_path / "out")) == 6 and not (tmp_path / "out" / SHARED).exists()


@pytest.mark.parametrize(("retries", "calls"), [(0, 6), (1, 7), (3, 9)])
def test_how_often_a_unit_is_tried_again_is_an_option(source, tmp_path, monkeypatch, retries, calls) -> None:
    tried, make = [], Painter.make

    def fails(self, context, unit, artefact):
        tried.append(unit.index)
        if unit.index == 2:
            raise MemoryError("no room")
        return make(self, context, unit, artefact)

    monkeypatch.setattr(Painter, "make", fails)
    options = {"method": Painter(), "ipc": 3, "batch_size": 1, "out": tmp_path / "out", "progress": False}
    with pytest.raises(UnitError, match=f"in {'one try' if retries == 0 else f'{retries + 1} tries'} "):
        dap.distill(source, **options, max_retries=retries)
    assert len(tried) == calls


def test_an_error_of_the_first_unit_is_raised_before_all_others_fail_too(source, tmp_path, monkeypatch) -> None:
    calls = []

    def fails(self, context, unit, artefact):
        calls.append(unit.index)
        raise RuntimeError("broken")

    monkeypatch.setattr(Painter, "make", fails)
    with pytest.raises(RuntimeError, match="broken"):
        dap.distill(source, method=Painter(), ipc=30, batch_size=1, out=tmp_path / "out", progress=False)
    assert calls == [0, 1, 2]


def test_max_time_ends_with_a_whole_unit_and_the_same_call_continues(source: Path, tmp_path: Path) -> None:
    options = {"method": Painter(), "ipc": 3, "batch_size": 1, "out": tmp_path / "out", "progress": False}
    with pytest.raises(StoppedError, match="max_time is over"):
        dap.distill(source, **options, max_time=1e-9)
    assert Painter.made == []
    assert len(dap.distill(source, **options)) == 6


@pytest.mark.parametrize("stuck", [False, True])
def test_a_signal_ends_a_run_with_its_unit_or_soon_and_leaves_no_handler(source, tmp_path, monkeypatch, stuck) -> None:
    make = Painter.make

    def signalled(self, context, unit, artefact):
        images = make(self, context, unit, artefact)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60 if stuck else 0)
        return images

    monkeypatch.setattr(stopping, "GRACE", 0.2 if stuck else 60.0)
    options = {"method": Painter(), "ipc": 3, "batch_size": 1, "out": tmp_path / "out", "progress": False}
    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in signals]
    with monkeypatch.context() as patch, stopping.stop_at_signals():
        patch.setattr(Painter, "make", signalled)
        with pytest.raises(SystemExit if stuck else StoppedError, match="75" if stuck else "SIGTERM"):
            dap.distill(source, **options)
    assert len(list((tmp_path / "out").glob("train/*/*.png"))) == (0 if stuck else 1)
    assert handlers == [signal.getsignal(number) for number in signals]
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert len(dap.distill(source, **options)) == 6  # the signal is forgotten


TWO_CTRL_C = """
import os, signal
from dap.stopping import stop_at_signals
with stop_at_signals():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        print("cleaning up", flush=True)
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            print("still here", flush=True)
"""


def test_a_second_ctrl_c_ends_the_process_at_once() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TWO_CTRL_C], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(dap.__file__).parents[1])},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (-signal.SIGINT, "cleaning up\n")


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, (0, 0, 1)),
        ({"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "SLURM_PROCID": "3"}, (9, 1, 16)),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}, (3, 1, 4)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "64", "SLURM_PROCID": "0"}, (7, 0, 64)),
    ],
)
def test_ranks_come_from_the_environment(environment: dict[str, str], rank: tuple[int, ...]) -> None:
    assert own_rank(environment) == rank


def write_rank(rank: Rank, folder: Path) -> None:
    (folder / "new").write_text(f"{rank} {own_rank()}")
    (folder / "new").rename(folder / "rank")


def test_workers_get_their_rank_and_the_environment_stays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "0")
    before = dict(os.environ)
    with worker_processes(2, write_rank, tmp_path):
        during = dict(os.environ)
        deadline = time.monotonic() + 300
        while not (tmp_path / "rank").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert (tmp_path / "rank").read_text() == f"{Rank(1, 1, 2)} {Rank(0, 0, 1)}"
    assert before == during == dict(os.environ)


def test_what_workers_cannot_do_is_named(source: Path, tmp_path: Path, monkeypatch) -> None:
    options = {"method": "random", "out": tmp_path / "out", "workers": 2}
    with pytest.raises(OptionError, match="cannot call your callbacks"):
        dap.distill(source, **options, callback_on_step_end=lambda *call: call[3])
    with pytest.raises(OptionError, match="remake: only one process"):
        dap.distill(source, **options, remake="a/0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(OptionError, match="has started 2 processes"):
        dap.distill(source, **options)
    assert not (tmp_path / "out").exists()


def test_a_run_on_which_no_process_works_is_stopped(source: Path, tmp_path: Path, monkeypatch, command_line) -> None:
    def stops(self, context, unit, artefact, make=Painter.make):
        if unit.index == 2:
            raise KeyboardInterrupt
        return make(self, context, unit, artefact)

    monkeypatch.setattr(Painter, "make", stops)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        dap.distill(source, method=Painter(), ipc=3, batch_size=1, out=out, progress=False)

    def told() -> str:
        found = [command_line(command, out)[1] for command in ("status", "verify")]
        states = [re.search("running|stopped|complete", text)[0] for text in found]
        assert states[0] == states[1] == json.loads(command_line("status", out, "--json", "-")[1])["status"]
        return states[0]

    assert told() == "stopped" and read_manifest(out)["status"] == "running"
    dead = subprocess.Popen(["true"])
    dead.wait()
    for machine, process, age, state in (
        (HOST, dead.pid, 0, "stopped"), (HOST, os.getpid(), 0, "running"), ("elsewhere", 1, 0, "running"),
        ("elsewhere", 1, 120, "stopped"),
    ):  # fmt: skip
        worker = out / SHARED / f"{machine}-{process}-0123abcd.worker"
        worker.parent.mkdir(exist_ok=True)
        worker.write_text("unit-2")
        os.utime(worker, (time.time() - age,) * 2)
        assert (told(), f"worker {worker.stem}" in command_line("status", out)[1]) == (state, state == "running")
        worker.unlink()


def test_status_tells_how_far_a_run_is_and_verify_what_was_changed(source: Path, tmp_path: Path, monkeypatch) -> None:
    from click.testing import CliRunner

    from dap.cli.status import status, verify

    calls, make, out = [], Painter.make, tmp_path / "out"

    def stops(self, context, unit, artefact):
        calls.append(unit.index)
        if len(calls) == 3:
            told = CliRunner().invoke(status, [str(out)]).output
            assert "running, 2 of 6 images" in told and ": unit-2, last beat" in told
            monkeypatch.setattr(Records, "new", finished)
            assert "complete, 6 of 6 images" in CliRunner().invoke(status, [str(out)]).output
            raise KeyboardInterrupt
        return make(self, context, unit, artefact)

    def finished(records, new=Records.new):
        """Another worker ends the run after the ledgers were read."""
        lines = new(records)
        monkeypatch.setattr(Records, "new", new)
        with monkeypatch.context() as patch:
            patch.setattr(Painter, "make", make)
            patch.setattr(claims, "PATIENCE", 0.0)
            patch.setattr(claims, "BEAT", 1e6)
            dap.distill(source, **options)
        return lines

    monkeypatch.setattr(Painter, "make", stops)
    options = {"method": Painter(), "ipc": 3, "batch_size": 1, "out": out, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        dap.distill(source, **options)
    dap.distill(source, **options)
    assert "complete, 6 of 6 images" in CliRunner().invoke(status, [str(out)]).output
    assert "6 files" in CliRunner().invoke(verify, [str(out)]).output
    (out / "train" / "a" / "00001.png").write_bytes(b"other")
    with pytest.raises(dap.errors.RunMismatchError, match=r"a/00001\.png"):
        CliRunner().invoke(verify, [str(out)], catch_exceptions=False)
    (out / "train" / "a" / "00001.png").unlink()
    with pytest.raises(dap.errors.SourceError, match="1 of its 6 files are gone"):
        CliRunner().invoke(verify, [str(out)], catch_exceptions=False)
