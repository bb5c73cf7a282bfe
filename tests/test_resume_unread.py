"""An unfinished run is continued without reading its images again, unless a file has changed since it was written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from test_run import Painter

import dap
from dap.data import manifest
from dap.errors import RunMismatchError


class Killed(BaseException):
    """Nothing of dap's may catch this."""


@pytest.fixture(name="options")
def fixture_of_options(tmp_path: Path, monkeypatch) -> dict[str, object]:
    """The options of a run of six units, whose last one was stopped by force: five images are there."""
    (tmp_path / "source" / "a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "source" / "a" / "0.png")
    options = {"source": tmp_path / "source", "method": Painter(), "ipc": 6, "batch_size": 1, "progress": False}
    stop_at(5, options, tmp_path / "out", monkeypatch)
    return options


def stop_at(unit, options, out, monkeypatch) -> None:
    make = Painter.make

    def stops(self, context, wanted, artefact):
        if wanted.index == unit:
            raise Killed
        return make(self, context, wanted, artefact)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Painter, "make", stops)
        dap.distill(**options, out=out)


@pytest.fixture(name="read")
def fixture_of_read(monkeypatch) -> list[str]:
    """The names of the files that are read to compare them with their hashes."""
    read: list[str] = []
    hashed = manifest.sha256_file
    monkeypatch.setattr(manifest, "sha256_file", lambda path: read.append(Path(path).name) or hashed(path))
    return read


def test_images_that_nobody_has_changed_are_not_read_again(options, tmp_path, monkeypatch, read) -> None:
    stop_at(5, options, tmp_path / "out", monkeypatch)
    assert [name for name in read if name.endswith(".png")] == []
    (tmp_path / "out" / "train" / "a" / "00001.png").touch()
    stop_at(5, options, tmp_path / "out", monkeypatch)
    stop_at(5, options, tmp_path / "out", monkeypatch)
    assert [name for name in read if name.endswith(".png")] == ["00001.png"]


def test_a_run_that_was_moved_or_grows_is_read_once(options, tmp_path, monkeypatch, read) -> None:
    moved = Path(shutil.copytree(tmp_path / "out", tmp_path / "moved"))
    for _ in range(2):
        stop_at(5, options, moved, monkeypatch)
        assert sorted(name for name in read if name.endswith(".png")) == [f"0000{number}.png" for number in range(5)]
    dap.distill(**options, out=moved)
    read.clear()
    for _ in range(2):
        stop_at(7, options | {"ipc": 8}, moved, monkeypatch)
        assert sorted(name for name in read if name.endswith(".png")) == [f"0000{number}.png" for number in range(6)]


def test_a_changed_image_of_an_unfinished_run_is_named_whatever_its_time(options, tmp_path) -> None:
    path = tmp_path / "out" / "train" / "a" / "00003.png"
    data, before = bytearray(path.read_bytes()), path.stat()
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RunMismatchError, match=r"a/00003\.png: its bytes are not those"):
        dap.distill(**options, out=tmp_path / "out")
