"""Entries of the cache: they appear whole, once, and stay while a run uses them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dap.errors import OptionError, StorageError
from dap.storage.cache import LATENTS, CacheEntry, cache_folder, cache_in_use, clear_cache
from dap.storage.lock import lock


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_entry_is_named_by_its_content(cache: Path) -> None:
    content = ["source", {"é": [1, 2.5, None]}]
    entry = CacheEntry.of(LATENTS, content, ".safetensors")
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    assert entry.path == cache / "latents" / f"{key}.safetensors"
    assert CacheEntry.of(LATENTS, [*content, 1]).path != entry.path
    assert not entry.exists() and not cache.exists()


def test_an_entry_appears_whole_and_the_first_one_stays(cache: Path) -> None:
    file, other, folder = (CacheEntry.of(LATENTS, number) for number in range(3))
    with file.new_file() as temporary:
        temporary.write_bytes(b"last")
        assert not file.exists()
        file.write(b"first")
    file.write(b"last")
    with pytest.raises(KeyboardInterrupt), other.new_file() as temporary:
        temporary.write_bytes(b"x")
        raise KeyboardInterrupt
    with folder.new_folder() as temporary, folder.new_folder() as inner:
        (temporary / "last").touch()
        (inner / "first").touch()
    assert file.path.read_bytes() == b"first" and not other.exists()
    assert names(cache / LATENTS) == sorted([file.path.name, folder.path.name, f"{folder.path.name}/first"])
    assert clear_cache() == 5 + 64 and not file.exists()  # its bytes and its hash


def test_a_cache_that_runs_use_is_not_cleared(cache: Path) -> None:
    clear = [sys.executable, "-c", "from dap.cli.main import main; main()", "cache", "clear"]
    with cache_in_use():
        with cache_in_use():  # two runs
            CacheEntry.of(LATENTS, 0).write(b"used")
        with pytest.raises(StorageError, match="is used by a run: clear it when the run has ended"):
            clear_cache()
        ended = subprocess.run(clear, capture_output=True, text=True, check=False)
        assert ended.returncode == 2 and "is used by a run" in ended.stderr and CacheEntry.of(LATENTS, 0).is_whole()
    assert clear_cache() > 0 and not CacheEntry.of(LATENTS, 0).exists()


def test_a_run_waits_until_the_cache_is_cleared(cache: Path) -> None:
    cache.mkdir(exist_ok=True)
    clearing = lock(cache)
    assert clearing is not None
    timer = threading.Timer(0.2, clearing.close)
    timer.start()
    with cache_in_use(), pytest.raises(StorageError, match="is used by a run"):
        clear_cache()
    timer.join()


@pytest.mark.parametrize("no_place", ["file", "no home"])
def test_a_run_that_needs_no_cache_needs_no_place_for_one(tmp_path: Path, monkeypatch, no_place: str) -> None:
    if no_place == "file":
        (tmp_path / "file").touch()
        monkeypatch.setenv("DAP_CACHE", str(tmp_path / "file"))
    else:
        for name in ("DAP_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    with cache_in_use():
        pass


def publish(number, barrier, results):
    """Makes the same two entries as another process, at the same time."""
    file, folder = CacheEntry.of(LATENTS, "file"), CacheEntry.of(LATENTS, "folder")
    with file.new_file() as path, folder.new_folder() as parent:
        path.write_bytes(bytes([number]) * 100_000)
        (parent / "a").write_bytes(bytes([number]))
        (parent / "b").write_bytes(bytes([number]))
        barrier.wait(60)
    results.put([file.path.read_bytes(), (folder.path / "a").read_bytes() + (folder.path / "b").read_bytes()])


def test_two_processes_publish_an_entry_once(cache: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=publish, args=(number, barrier, results)) for number in (1, 2)]
    for process in processes:
        process.start()
    seen = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for file, folder in seen:
        assert len(file) == 100_000 and len(set(file)) == 1
        assert folder in (b"\1\1", b"\2\2") and folder == seen[0][1]
    assert len(list((cache / LATENTS).iterdir())) == 2


def test_an_entry_is_never_seen_without_its_hash(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that looked in between would take the entry for a changed one and delete it, or its hash."""
    entry, replace, seen = CacheEntry.of(LATENTS, "file"), os.replace, []

    def look(source: str | Path, target: str | Path) -> None:
        if Path(target) == entry.path:
            seen.append(entry.is_whole())
        replace(source, target)
        if Path(target) == entry.path:
            seen.append(entry.is_whole())

    monkeypatch.setattr(os, "replace", look)
    entry.write(b"content")
    assert seen == [False, True] and entry.is_whole()
    entry.path.write_bytes(b"changed")
    assert not entry.is_whole() and not entry.exists()


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "file"))
    entry = CacheEntry.of(LATENTS, 1)
    message = r"the cache .*file cannot be written .*: set DAP_CACHE"
    with pytest.raises(OptionError, match=message):
        entry.write(b"x")
    with pytest.raises(OptionError, match=message), entry.new_file():
        pass
    with pytest.raises(OptionError, match=message), entry.new_folder():
        pass
    assert cache_folder().read_text() == "mine"


def test_an_error_of_who_fills_an_entry_is_not_one_of_the_cache(cache: Path) -> None:
    entry = CacheEntry.of(LATENTS, 1)
    for new in (entry.new_file, entry.new_folder):
        with pytest.raises(FileNotFoundError), new():
            (cache / "an image that somebody deleted").read_bytes()
    assert names(cache) == [LATENTS]
