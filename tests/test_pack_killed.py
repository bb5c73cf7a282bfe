"""Packing that is killed: no shard under its name that is not whole, and the same bytes in the end."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

PACK = """
import sys
import numpy as np
from dap.data.packing import write_packed
from dap.data.shard_writer import Sample

def load(n):
    if n == 17:
        return b"no image"
    return np.random.default_rng(n).integers(0, 256, (3, 64, 64), np.uint8)

def samples():
    for n in range(200):
        if n == 5:
            print("begun", flush=True)
        yield Sample(f"{n % 3}/{n:05d}", n % 3, lambda n=n: load(n))

write_packed(
    samples(), sys.argv[1], format=sys.argv[2], class_names="abc", provenance={}, maxcount=25, on_error="skip"
)
"""


def packing(out: Path, format: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", PACK, str(out), format], stdout=subprocess.PIPE, text=True)


def files(out: Path) -> dict[str, str]:
    found = (path for path in out.rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("format", ["webdataset", "parquet", "imagefolder"])
def test_killed_at_random_and_continued(tmp_path: Path, format: str) -> None:
    whole = packing(tmp_path / "whole", format)
    assert whole.stdout is not None and whole.stdout.readline() == "begun\n"
    begun = time.monotonic()  # without the start of the interpreter, which takes longer than the packing
    assert whole.communicate(timeout=60) and whole.returncode == 0
    seconds, expected = time.monotonic() - begun, files(tmp_path / "whole")
    record = json.loads((tmp_path / "whole" / "pack.json").read_text())
    assert (record["images"], [index for index, _ in record["skipped"]]) == (199, [17])
    rng, out, killed = np.random.default_rng(0), tmp_path / "out", 0
    for _ in range(3):
        process = packing(out, format)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(float(rng.uniform(0, 0.25 * seconds)))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        left = {name: sha for name, sha in files(out).items() if Path(name).name[0] != "." and name != "pack.json"}
        assert left.items() <= expected.items(), "something under its final name is not what it should be"
    assert killed >= 2
    last = packing(out, format)
    last.communicate(timeout=60)
    assert last.returncode == 0
    assert files(out) == expected


def test_finished_shards_are_not_made_again(tmp_path: Path) -> None:
    ended = packing(tmp_path, "webdataset")
    ended.communicate(timeout=60)
    record = json.loads((tmp_path / "pack.json").read_text())
    before = files(tmp_path)
    first = {"files": {"train-000000.tar": record["files"]["train-000000.tar"]}, "images": 25, "next": 26}
    line = json.dumps({**first, "skipped": record["skipped"]}) + "\n"
    (tmp_path / ".dap-pack.jsonl").write_text(line + '{"files": {"train-0000')  # cut short
    state = {key: value for key, value in record.items() if key not in ("images", "skipped", "files")}
    (tmp_path / "pack.json").write_text(json.dumps({**state, "status": "running"}))
    for number in range(1, 8):
        (tmp_path / f"train-{number:06d}.tar").unlink()
    (tmp_path / f".tmp-{ended.pid}-0123abcd").write_bytes(b"x")
    kept = (tmp_path / "train-000000.tar").stat()
    packing(tmp_path, "webdataset").communicate(timeout=60)
    assert files(tmp_path) == before
    assert (tmp_path / "train-000000.tar").stat().st_ino == kept.st_ino


def test_killed_before_the_ledger_was_removed(tmp_path: Path) -> None:
    packing(tmp_path, "imagefolder").communicate(timeout=60)
    before = files(tmp_path)
    (tmp_path / ".dap-pack.jsonl").write_text("{}\n")
    packing(tmp_path, "imagefolder").communicate(timeout=60)
    assert files(tmp_path) == before


def test_one_packing_at_a_time(tmp_path: Path) -> None:
    first = packing(tmp_path, "webdataset")
    assert first.stdout is not None
    first.stdout.readline()
    first.send_signal(signal.SIGSTOP)
    second = subprocess.run(
        [sys.executable, "-c", PACK, str(tmp_path), "webdataset"], capture_output=True, text=True, timeout=60
    )
    first.send_signal(signal.SIGCONT)
    assert "StorageError" in second.stderr and "another process is writing to it" in second.stderr
    first.communicate(timeout=60)
    assert first.returncode == 0 and not (tmp_path / ".dap-pack.jsonl").exists()
