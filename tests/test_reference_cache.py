"""References in the cache: made once for all runs that want the same, whole or not there, and cleared."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from pathlib import Path

import pytest
import torch
from indexed_runs import fixture_of_cache, fixture_of_run, fixture_of_tree  # noqa: F401 - fixtures
from PIL import Image

import dap
from dap.errors import OptionError
from dap.features import reference_cache
from dap.storage.cache import cache_folder, cache_size, clear_cache


def test_references_are_computed_once_for_all_runs_that_want_the_same(tree, run, monkeypatch):
    calls = []
    monkeypatch.setattr(reference_cache, "log_size", calls.append)
    first = run(tree, "a", seed=3)
    again = run(tree, "b", seed=3, ipc=1, method_options={"kernel": "rbf", "scale": 2.0})
    assert len(calls) == 1
    assert first.manifest["record"] == again.manifest["record"]
    hashed = first.manifest["record"]["index"]
    assert re.fullmatch("[0-9a-f]{64}", hashed)
    for number, change in enumerate(
        [{"seed": 4}, {"num_inference_steps": 3}, {"scheduler": "ddim"}, {"dtype": torch.float64}, {"classes": ["Bag"]}]
        + [{"method_options": {name: value}} for name, value in OTHER_REFERENCES.items()],
        start=2,
    ):
        other = run(tree, f"c{number}", **{"seed": 3} | change)
        assert len(calls) == number, change
        assert other.manifest["record"]["index"] != hashed or "dtype" in change
    assert run(tree, "d", seed=3, method_options={"scale": 0.0}).manifest["record"]["index"] is None
    assert len(calls) == number


OTHER_REFERENCES = {"references": 3, "block": 2, "pooling": "grid2", "noise": "shared", "stop": 0.5}


def test_changed_images_get_references_of_their_own(tree, run, tmp_path):
    source = Path(shutil.copytree(tree, tmp_path / "source"))
    first = run(source, "a").manifest["record"]["index"]
    Image.new("L", (32, 32)).save(source / "Bag" / "6.png")
    assert run(source, "b").manifest["record"]["index"] != first


def test_cache_is_whole_or_not_there(tree, run, cache, monkeypatch):
    def killed(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dap.features.build.IndexWriter.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tree)
    (unfinished,) = (cache / "indexes").iterdir()
    assert unfinished.name.endswith(".unfinished")
    run(tree)
    (entry,) = (cache / "indexes").iterdir()
    dap.open_index(entry).verify()
    assert dap.open_index(entry).spec.dtype == dap.open_index(entry).spec.latent_dtype == "float32"


def test_two_runs_at_once_share_what_the_first_made(tree, run, cache, monkeypatch):
    others = []

    def slow(writer):
        others.append(threading.Thread(target=run, args=(tree, "other")))
        others[-1].start()
        others[-1].join(1.0)  # it waits
        assert others[-1].is_alive()

    monkeypatch.setattr(reference_cache, "log_size", slow)
    ours = run(tree, "ours")
    others[0].join()
    (entry,) = (cache / "indexes").iterdir()
    assert ours.manifest["record"]["index"] == dap.load(ours.path.parent / "other").manifest["record"]["index"]
    assert dap.open_index(entry).hash == ours.manifest["record"]["index"] and len(others) == 1, "made once"


def test_a_cache_that_cannot_be_written_is_named(tree, run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "file"))
    with pytest.raises(OptionError, match=r"the cache .*file cannot be written .*: set DAP_CACHE"):
        run(tree)
    assert not (tmp_path / "out").exists()


def test_cache_folder_size_and_clearing(tree, run, cache, monkeypatch):
    assert (cache_folder(), cache_size(), clear_cache()) == (cache, 0, 0)
    run(tree)
    held = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    (cache / "mine.txt").write_text("mine")
    assert cache_size() == held + 4 > 1000
    assert clear_cache() == held
    assert [path.name for path in cache.iterdir()] == ["mine.txt"]
    monkeypatch.delenv("DAP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == Path("/x/dap")
