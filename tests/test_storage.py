"""Files and folders that appear whole, the ledger, and tensors that are written in blocks."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dap.errors import FormatError, StorageError
from dap.storage.files import (
    atomic_folder,
    atomic_path,
    is_vacant,
    move,
    sha256_file,
    sweep,
    write_atomic,
    write_json,
)
from dap.storage.ledger import START, Ledger
from dap.storage.tensors import continue_tensors


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_write_atomic_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_atomic(path, b"a longer first version")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [file.name for file in tmp_path.iterdir()] == ["x.bin"]
    assert sha256_file(path) == hashlib.sha256(b"second").hexdigest()


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    seen: list[str] = []

    def fail(*_: object) -> None:
        seen.extend(file.name for file in tmp_path.iterdir() if file != path)
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    assert len(seen) == 1 and seen[0].startswith(".tmp-") and not seen[0].endswith(".png")


def test_write_atomic_syncs_before_it_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths))[1])
    write_atomic(tmp_path / "x", b"1")
    assert calls == (["fsync", "replace", "fsync"] if os.name == "posix" else ["fsync", "replace"])


def test_json_is_indented_utf8_with_a_line_break(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"é": [1]})
    assert (tmp_path / "x.json").read_bytes() == '{\n "é": [\n  1\n ]\n}\n'.encode()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_the_old_file_or_folder_alone(tmp_path: Path, error: type[BaseException]) -> None:
    write_atomic(tmp_path / "file", b"old")
    with pytest.raises(error), atomic_path(tmp_path / "file") as temporary:
        temporary.write_bytes(b"half a ne")
        raise error
    with pytest.raises(error), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "part").write_bytes(b"x")
        assert names(tmp_path) == [temporary.name, f"{temporary.name}/part", "file"]
        raise error
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"old"


def test_the_first_of_two_that_make_a_file_or_folder_at_once_stays(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "new" / "folder"
    with atomic_path(file, replace=False) as first, atomic_path(file, replace=False) as second:
        first.write_bytes(b"outer, published last")
        second.write_bytes(b"inner, published first")
    with atomic_folder(folder) as first, atomic_folder(folder) as second:
        (first / "last").touch()
        (second / "first").touch()
    assert file.read_bytes() == b"inner, published first"
    assert names(tmp_path) == ["file", "new", "new/folder", "new/folder/first"]


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    with pytest.raises(OSError, match="x"), atomic_folder(tmp_path / "x"):
        pass
    assert names(tmp_path) == ["x"] and (tmp_path / "x").read_bytes() == b"mine"


def test_move_replaces_files_and_folders(tmp_path: Path) -> None:
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{folder}.txt").touch()
    move(tmp_path / "new", tmp_path / "old")
    move(tmp_path / "old" / "new.txt", tmp_path / "x")
    assert names(tmp_path) == ["old", "x"]


KILLED = """
import os, signal
from pathlib import Path
from dap.storage.files import atomic_folder, atomic_path
with atomic_folder(Path("folder")) as folder, atomic_path("sub/file") as file:
    (folder / "part").write_bytes(b"x")
    file.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def dead_process() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("name", [".tmp-thesis.txt", ".tmp-1-link", ".tmp-", ".tmp-12-0123ABCD", ".tmp-x-0123abcd"])
def test_names_of_the_user_are_no_leftovers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    (tmp_path / f"{name}.txt").touch()
    sweep(tmp_path)
    assert names(tmp_path) == sorted([name, f"{name}/mine", f"{name}.txt"])
    assert not is_vacant(tmp_path)


def test_what_another_living_process_writes_stays(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as living:
        (tmp_path / f".tmp-{living.pid}-0123abcd").mkdir()
        (tmp_path / f".tmp-{living.pid}-89abcdef").touch()
        sweep(tmp_path)
        assert len(names(tmp_path)) == 2
        living.communicate(b"\n")
    sweep(tmp_path)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_synced_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "x", b"whole")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "y").touch()
    assert names(tmp_path) == ["folder", "folder/y", "x"]


def test_a_full_disk_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match=rf"{re.escape(str(tmp_path / 'x'))}: .*No space left.*free some"):
        write_atomic(tmp_path / "x", b"whole")
    ledger = Ledger(tmp_path / "ledger")
    with pytest.raises(StorageError, match=r"ledger: .*No space left.*free some"):
        ledger.append({})
    assert names(tmp_path) in ([], ["ledger"])


def test_leftovers_of_a_killed_process_are_vacant_and_swept(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = names(tmp_path)
    assert len(left) == 4 and sum(".tmp-" in name for name in left) == 3
    assert is_vacant(tmp_path / "missing") and is_vacant(tmp_path / "sub") and not is_vacant(tmp_path)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "mine").touch()
    (tmp_path / "sub" / f".tmp-{dead_process()}-0123abcd").symlink_to(tmp_path / "linked", target_is_directory=True)
    sweep(tmp_path)
    assert names(tmp_path) == ["linked", "linked/mine", "sub"]
    assert not is_vacant(tmp_path / "linked" / "mine")


# The ledger


@pytest.mark.parametrize("ascii", [False, True])
def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path: Path, ascii: bool) -> None:
    ledger = Ledger(tmp_path / "x.jsonl", ascii=ascii)
    assert ledger.read() == [] and not ledger.exists()
    first, second, third = {"a/é": "1"}, {"é": "2", "c": [3]}, {"d": 4}
    ledger.append(first)
    start = ledger.path.stat().st_size
    ledger.append(second)
    content = ledger.path.read_bytes()
    assert content.isascii() == ascii and content.count(b"\n") == 2
    for size in range(len(content)):
        ledger.path.write_bytes(content[:size])
        kept = [first] if size >= start else []
        assert ledger.read() == kept
        assert ledger.path.read_bytes() == content[:size], "reading does not write"
        ledger.append(third)
        assert ledger.read() == [*kept, third]
        assert ledger.path.read_bytes() == content[: start * len(kept)] + b'{"d": 4}\n'


def test_a_ledger_is_written_whole_and_synced_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path / "x.jsonl", ascii=True)
    ledger.write([{"a": 1}, {"b": "\ud800"}])
    assert ledger.path.read_bytes() == b'{"a": 1}\n{"b": "\\ud800"}\n'
    sizes, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (sizes.append(os.fstat(handle).st_size), fsync(handle))[1])
    ledger.append({"c": 3})
    assert sizes == [ledger.path.stat().st_size] and len(ledger.read()) == 3
    ledger.write([])
    assert ledger.read() == [] and ledger.exists()
    ledger.remove()
    ledger.remove()
    assert not ledger.exists()


@pytest.mark.parametrize("line", [b"not json", b"[1]", b"3", b"\xff", b"", b"[" * 100_000])
def test_a_damaged_line_is_refused_and_the_file_named(tmp_path: Path, line: bytes) -> None:
    ledger = Ledger(tmp_path / "x.jsonl")
    ledger.path.write_bytes(b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    with pytest.raises(FormatError, match=r"x\.jsonl: damaged, line 2: expected .*; delete .* and start again"):
        ledger.read()


# Tensors


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tensors_in_blocks_are_the_file_that_the_package_reads(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    tensors = {"a": rng.random((5, 3)), "é": np.zeros((0, 2)), "0": rng.random(7)}
    tensors = {name: array.astype(dtype) for name, array in tensors.items()}
    blocks = [tensors["a"][:2], tensors["a"][2:], tensors["0"].astype(np.float64)]
    shapes = {name: array.shape for name, array in tensors.items()}
    written = continue_tensors(tmp_path / "x", shapes, [6, 9, 7], blocks.__getitem__, dtype)
    assert list(written) == [0, 1, 2, 3]
    read = load_file(tmp_path / "x")
    assert list(read.keys() ^ tensors.keys()) == []
    for name, array in tensors.items():
        np.testing.assert_array_equal(read[name], array, strict=True)
    (length,) = struct.unpack("<Q", (tmp_path / "x").read_bytes()[:8])
    assert length % 8 == 0


@pytest.mark.parametrize("there", [b"mine", b"another file, and longer than the header is: " + bytes(100)])
def test_a_file_of_something_else_is_written_anew(tmp_path: Path, there: bytes) -> None:
    (tmp_path / "x").write_bytes(there)
    assert list(continue_tensors(tmp_path / "x", {"a": (2,)}, [1, 1], lambda block: np.float32(block))) == [0, 1, 2]
    np.testing.assert_array_equal(load_file(tmp_path / "x")["a"], np.array([0, 1], np.float32))


def test_a_ledger_is_read_on_from_a_mark(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.read_on(START) is None
    for number in range(3):
        ledger.append({"n": number})
    entries, mark = ledger.read_on(START)
    assert entries == ledger.read() == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert ledger.read_on(mark) == ([], mark)
    ledger.append({"n": 3})
    ledger.path.write_bytes(ledger.path.read_bytes() + b'{"torn')
    entries, later = ledger.read_on(mark)
    assert (entries, later.lines) == ([{"n": 3}], 4)
    ledger.append({"n": 4})
    ledger.path.write_bytes(ledger.path.read_bytes() + b"[]\n")
    with pytest.raises(FormatError, match="damaged, line 6"):
        ledger.read_on(later)
    ledger.write([{"n": 9}, {"n": 8}, {"n": 7}, {"n": 6}, {"n": 5}])
    assert ledger.read_on(mark) is None and ledger.read_on(later) is None
    ledger.remove()
    assert ledger.read_on(mark) is None
