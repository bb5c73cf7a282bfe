"""Full and read-only disks, file handles, memory and signals, by the real system calls: one error, and continued."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_resume import contents
from test_run import Painter

import dap
from dap.errors import DapError
from dap.stopping import RESUME, stop_at_signals
from dap.storage import claims

IPC = 40


@pytest.fixture(name="distill")
def fixture_of_distill(tmp_path: Path, monkeypatch) -> Callable[[Path], object]:
    """Makes a run of forty units in a folder."""
    (tmp_path / "source" / "a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "source" / "a" / "0.png")
    monkeypatch.setattr(claims, "PATIENCE", 0.3)
    monkeypatch.setattr(claims, "BEAT", 0.05)
    monkeypatch.setattr(claims, "POLL", (0.01, 0.05))
    options = {"method": Painter(), "ipc": IPC, "batch_size": 1, "progress": False}
    return lambda out: dap.distill(tmp_path / "source", **options, out=out)


@pytest.fixture(name="expected")
def fixture_of_expected(distill, tmp_path: Path) -> dict[str, object]:
    """The folder of a run that nothing happened to."""
    distill(tmp_path / "undisturbed")
    return contents(tmp_path / "undisturbed")


@pytest.fixture(name="disk")
def fixture_of_disk(tmp_path: Path):
    """Mounts a disk in memory of some size; again, with other options."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str) -> Path:
        again = ["-o", f"remount,{options}"] if os.path.ismount(disk) else ["-o", options]
        done = subprocess.run(["mount", "-t", "tmpfs", *again, "tmpfs", disk], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("this user may not mount a disk")
        return disk

    yield mount
    subprocess.run(["umount", "-l", disk], capture_output=True, check=False)


def forked(work: Callable[[], object]) -> tuple[int, str]:
    """Do something in a process of its own; return its exit code, negative for a signal, and what it raised."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException as error:
            kind = "DapError" if isinstance(error, DapError) else type(error).__name__
            os.write(writing, f"{kind}: {error}".encode())
            code = error.code if isinstance(error, SystemExit) else 1
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


def at_unit(number: int, act: Callable[[], object]) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Let a process do something before it makes a unit."""

    def wrapped(work: Callable[[], object]) -> Callable[[], object]:
        make = Painter.make

        def acting(self, context, unit, artefact):
            if unit.index == number:
                act()
            return make(self, context, unit, artefact)

        def run() -> None:
            Painter.make = acting
            work()

        return run

    return wrapped


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk(distill, expected, disk, workers) -> None:
    out = disk("size=128k") / "out"
    first = os.fork() if workers == 2 else 0
    if workers == 2 and first == 0:
        os._exit(0 if "No space left" in forked(lambda: distill(out))[1] else 1)
    code, said = forked(lambda: distill(out))
    assert workers == 1 or os.waitpid(first, 0)[1] == 0
    assert code == 1 and said.startswith("DapError") and "No space left on device" in said and "free some space" in said
    assert not list(out.rglob(".tmp-*"))
    disk("size=4m")
    distill(out)
    assert contents(out) == expected


def test_a_disk_that_becomes_read_only(distill, expected, disk) -> None:
    out = disk("size=4m") / "out"
    code, said = forked(at_unit(9, lambda: disk("ro"))(lambda: distill(out)))
    assert code == 1 and said.startswith("DapError") and "Read-only file system" in said
    code, said = forked(lambda: distill(out))
    assert code == 1 and said.startswith("DapError: out: cannot write to"), said
    disk("rw")
    distill(out)
    assert contents(out) == expected


def test_no_more_file_handles(distill, expected, tmp_path) -> None:
    def exhaust() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))  # those that are open stay

    code, said = forked(at_unit(9, exhaust)(lambda: distill(tmp_path / "out")))
    assert code == 1 and said.startswith("DapError") and "Too many open files" in said and "ulimit -n" in said
    distill(tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def test_a_limit_of_file_sizes(distill, expected, tmp_path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))

    code, said = forked(at_unit(9, limit)(lambda: distill(tmp_path / "out")))
    assert code == 1 and said.startswith("DapError") and "File too large" in said
    distill(tmp_path / "out")
    assert contents(tmp_path / "out") == expected


def test_a_limit_of_memory(distill, expected, tmp_path) -> None:
    def allocate() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + 2**26,) * 2)
        torch.ones(2**28)

    code, said = forked(at_unit(9, allocate)(lambda: distill(tmp_path / "out")))
    assert code == 1 and said.startswith("DapError") and "1 of 40 units could not be made in 3 tries" in said
    assert "batch_size=" in said and len(list((tmp_path / "out").glob("train/*/*.png"))) == IPC - 1
    distill(tmp_path / "out")
    assert contents(tmp_path / "out") == expected


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 1), ("SIGKILL", -9)])
def test_signals(distill, expected, tmp_path, name, code) -> None:
    def run() -> None:
        with stop_at_signals():
            try:
                distill(tmp_path / "out")
            except dap.errors.StoppedError as error:
                raise SystemExit(RESUME) from error

    acting = at_unit(9, lambda: os.kill(os.getpid(), signal.Signals[name]))
    assert forked(acting(run))[0] == code
    distill(tmp_path / "out")
    assert contents(tmp_path / "out") == expected
