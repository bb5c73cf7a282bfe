"""The lock of a folder: one writer at a time, nothing left behind, also where the system has no locks."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dap.errors import StorageError
from dap.storage import lock as module
from dap.storage.files import LOCK, is_vacant
from dap.storage.lock import folder_lock, lock

HOLDER = """
import sys
from pathlib import Path
from dap.storage import lock
if sys.argv[2] == "file":
    lock.fcntl = None
with lock.folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


@pytest.fixture(params=["flock", "file"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The system's lock, and the file that takes its place."""
    if request.param == "file":
        monkeypatch.setattr(module, "fcntl", None)
    return str(request.param)


def test_a_second_writer_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder, kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(StorageError, match=r"out: another process is writing to it: wait"), folder_lock(folder):
        pass
    assert folder.is_dir() and is_vacant(folder)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with folder_lock(folder):
        (folder / "x").touch()
    assert [path.name for path in folder.iterdir()] == ["x"]


def test_folders_that_stay_empty_are_removed(tmp_path: Path, kind: str) -> None:
    with pytest.raises(RuntimeError), folder_lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
        raise RuntimeError
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    with folder_lock(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir() and not (tmp_path / "mine" / LOCK).exists()


def test_readers_share_a_lock_that_keeps_writers_out(tmp_path: Path) -> None:
    first, second = lock(tmp_path, shared=True), lock(tmp_path, shared=True)
    assert first is not None and second is not None
    first.close()
    with pytest.raises(BlockingIOError):
        lock(tmp_path)
    del second
    assert lock(tmp_path) is not None
