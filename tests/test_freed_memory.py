"""Freed memory stays with the process: a block that is asked for again has its pages already."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from click.testing import CliRunner

from dap.cli.evaluate import evaluate
from dap.cli.teacher import train
from dap.freed_memory import BLOCKS, MMAP, TRIM, keep_freed_memory

COUNT = """
import resource
{call}
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * (48 * 2**20)  # glibc itself keeps up to 32 MiB
    del block
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults[1:]))
"""
CALL = "from dap.freed_memory import keep_freed_memory; keep_freed_memory()"


def faults(call: str, **environment: str) -> int:
    """The fewest page faults of taking 48 MiB again, in a process that calls ``call`` first."""
    own = {name: value for name, value in os.environ.items() if name not in ("GLIBC_TUNABLES", MMAP, TRIM)}
    code = COUNT.format(call=call)
    done = subprocess.run([sys.executable, "-c", code], env=own | environment, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_pages_are_asked_for_once():
    assert faults(CALL) < 100 < faults("")
    for name, value in ((MMAP, "1000000"), (TRIM, "1000000"), ("GLIBC_TUNABLES", "")):
        assert faults(CALL, **{name: value}) > 100  # the user's values stay
    inside = f"{CALL}\nimport os\nassert {{{MMAP!r}, {TRIM!r}}} <= os.environ.keys()"  # for the processes it starts
    assert faults(inside) < 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
@pytest.mark.parametrize(("largest", "asked"), [(BLOCKS[0], [-3, -1]), (BLOCKS[1], [-3, -3, -1]), (0, [-3, -3])])
def test_what_an_older_glibc_refuses_is_not_taken_for_granted(largest, asked, monkeypatch):
    """Trimming alone would be worse than neither: blocks from 128 KiB on would be returned to the system."""
    calls = []

    class Library:
        @staticmethod
        def mallopt(option, value):
            calls.append(option)
            return option == -1 or value <= largest

    monkeypatch.setattr("ctypes.CDLL", lambda name: Library)
    for name in ("GLIBC_TUNABLES", MMAP, TRIM):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    keep_freed_memory()
    assert calls == asked and os.environ.get(MMAP) == (str(largest) if largest else None)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (evaluate, ["fashion-mini", "--test", "fashion-mini", "--network", "convnet3"]),
        (train, ["fashion-mini", "--out", "t.safetensors", "--network", "convnet3"]),
    ],
    ids=["evaluate", "teacher train"],
)
def test_commands_that_train_keep_it(command, arguments, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"{command.callback.__module__}.keep_freed_memory", lambda: asked.append(1) or 1 / 0)
    asked = []
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, ZeroDivisionError) and asked == [1]
