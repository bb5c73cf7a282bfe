"""``dap slurm``: its script is bash, and does what it says with SLURM's own commands replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from dap.cli.main import main


def script(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["dap", "slurm", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    output = capsys.readouterr()
    return end.value.code, output.out, output.err


def test_the_script_has_the_lines_of_sbatch_and_is_bash(monkeypatch, capsys, tmp_path):
    given = ["--array", "0-63%8", "--time", "2:00:00", "--gres", "gpu:h100:1", "--mem", "32G"]
    code, text, _ = script(
        monkeypatch, capsys, *given, "--", "dap", "distill", "my photos", "--ipc", "50", "--out", "d"
    )
    assert code == 0
    for line in (
        "--array=0-63%8",
        "--time=2:00:00",
        "--gres=gpu:h100:1",
        "--mem=32G",
        "--signal=B:USR1@120",
        "--requeue",
    ):
        assert f"#SBATCH {line}\n" in text
    assert "\ndap distill 'my photos' --ipc 50 --out d &\n" in text and "partition" not in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


@pytest.mark.parametrize("code, queued", [(75, "requeue 7_3\n"), (0, ""), (2, "")])
def test_a_task_that_was_stopped_is_queued_again(monkeypatch, capsys, tmp_path, code, queued):
    monkeypatch.chdir(tmp_path)
    _, text, _ = script(monkeypatch, capsys, "--", "dap", "distill", "x", "--out", "d")
    commands = tmp_path / "bin"
    commands.mkdir()
    waits = (
        "import signal, sys, time\nsignal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))\nprint('ready', flush=True)\n"
    )
    (commands / "dap").write_text(
        f"#!{sys.executable}\n"
        + (f"{waits}sys.stdout.flush()\ntime.sleep(60)\n" if code == 75 else f"raise SystemExit({code})\n")
    )
    (commands / "scontrol").write_text('#!/bin/bash\necho "$@" > queued\n')
    for file in commands.iterdir():
        file.chmod(0o755)
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
    (tmp_path / "job.sh").write_text(text)
    with subprocess.Popen(["bash", "job.sh"], env=environment, stdout=subprocess.PIPE, text=True) as task:
        if code == 75:
            assert task.stdout.readline() == "ready\n"
            time.sleep(0.2)  # bash sets its trap after it has started the command
            task.send_signal(signal.SIGUSR1)
        assert task.wait(30) == code
    assert ((tmp_path / "queued").read_text() if queued else "") == queued
    assert (tmp_path / "queued").exists() == bool(queued)


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["--", "dap", "evaluate", "x"], "expected the command of a run after --, such as -- dap distill"),
        (["--", "dap", "distill", "x", "--workers", "2"], "--workers does not go with SLURM's tasks"),
        (["--time", "soon", "--", "dap", "distill"], "--time: expected minutes, hours:minutes:seconds"),
        (["--array", "all", "--", "dap", "distill"], "--array: expected task numbers such as 0-63"),
        (["--mem", "32 G", "--", "dap", "distill"], "--mem: expected one word"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_a_job_is_refused(monkeypatch, capsys, arguments, error):
    code, text, said = script(monkeypatch, capsys, *arguments)
    assert code == 2 and error in said and text == ""
