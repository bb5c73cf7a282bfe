"""The hash of a prior's weights is kept beside the states of its files, and computed again when one has changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from dap.priors import load_prior
from dap.priors.adapter import write_adapter
from dap.storage import file_states
from dap.storage.cache import cache_folder
from dap.storage.file_states import FileStates, kept_hash


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, in which files are trusted at once."""
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_states, "YOUNG", -(10**12))


@pytest.fixture
def folder(tmp_path):
    """Two files, one of them in a folder."""
    (tmp_path / "model" / "part").mkdir(parents=True)
    for path in ("a", "part/b"):
        (tmp_path / "model" / path).write_text("weights")
    return tmp_path / "model"


@pytest.fixture
def ask(folder):
    """Returns the kept hash of the folder, and whether it was computed for that."""
    calls = []

    def hashed(content="v1"):
        calls.append(None)
        before, value = len(calls), f"hash {len(calls)}"
        found = kept_hash(FileStates.of(folder), content, lambda: calls.append(value) or value)
        return found, len(calls) > before

    return hashed


def rewrite(path):
    """Writes other bytes of the same number at the same time."""
    before = path.stat()
    path.write_text("WEIGHTS")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path):
    path.rename(path.with_name("old"))
    shutil.copy2(path.with_name("old"), path)
    path.with_name("old").unlink()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: rewrite(folder / "part" / "b"), lambda folder: replace(folder / "a"),
        lambda folder: os.utime(folder / "a"), lambda folder: (folder / "c").write_text("x"),
        lambda folder: (folder / "a").unlink(), lambda folder: (folder / "a").rename(folder / "c"),
    ],
    ids=["rewritten", "replaced", "touched", "added", "removed", "renamed"],
)  # fmt: skip
def test_a_hash_is_computed_again_after_a_change_of_a_file(cache, folder, ask, change):
    first, computed = ask()
    assert computed
    assert ask() == (first, False)
    change(folder)
    assert ask()[1]


def test_a_hash_of_something_else_is_another(cache, ask):
    assert ask("v1") != ask("v2")
    assert [ask(content)[1] for content in ("v1", "v2")] == [False, False]


def test_young_files_are_not_trusted(cache, ask, monkeypatch):
    monkeypatch.setattr(file_states, "YOUNG", 10**12)
    assert [ask()[1] for _ in range(2)] == [True, True]
    monkeypatch.setattr(file_states, "YOUNG", -(10**12))
    assert [ask()[1] for _ in range(2)] == [True, False]


def test_a_file_that_changes_while_it_is_hashed_is_not_trusted(cache, folder, ask):
    kept_hash(FileStates.of(folder), "v1", lambda: (folder / "a").write_text("changed") or "old")
    assert ask()[1]


def test_a_damaged_entry_is_made_again(cache, ask):
    first, _ = ask()
    (entry,) = (cache_folder() / "hashed").iterdir()
    entry.write_text("other")
    assert ask() != (first, False)
    assert not ask()[1]


def test_a_cache_that_cannot_be_written_costs_only_time(ask, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "file" / "cache"))
    assert [ask()[1] for _ in range(2)] == [True, True]


@pytest.fixture
def hashes(monkeypatch):
    """A list that grows with each hash of all weights."""
    import dap.priors.pipeline_networks as module

    original, calls = module.fingerprint, []

    def counted(*args, probe=False):
        if not probe:
            calls.append(args)
        return original(*args, probe=probe)

    monkeypatch.setattr(module, "fingerprint", counted)
    return calls


def sha256(prior):
    return prior.describe()["sha256"]


def test_a_prior_is_hashed_once_by_all_processes_and_dtypes(cache, tiny_folder, tmp_path, hashes):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "prior"))
    first = load_prior(folder)
    expected = sha256(first)
    assert sha256(first) == sha256(load_prior(folder)) == sha256(load_prior(folder, dtype="bfloat16")) == expected
    assert sha256(first.for_classes(["Bag"])) == expected
    assert len(hashes) == 1
    weights = next((folder / "vae").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert sha256(load_prior(folder)) != expected
    assert len(hashes) == 2


@pytest.mark.parametrize("through", ["parameter", "data"])
def test_changed_weights_are_another_prior(cache, tiny_folder, hashes, through):
    prior = load_prior(tiny_folder)
    before = sha256(prior)
    parameter = next(prior.denoiser.parameters())
    with torch.no_grad():
        (parameter if through == "parameter" else parameter.data).mul_(1.5)
    assert sha256(prior) not in (before, sha256(load_prior(tiny_folder)))
    assert sha256(load_prior(tiny_folder)) == before


def test_an_adapted_prior_is_hashed_once_too(cache, tiny_folder, tmp_path, hashes):
    base = load_prior(tiny_folder)
    row = base.condition(torch.tensor([0]))[0]
    folder = tmp_path / "adapted"
    folder.mkdir()
    found = []
    for values in (row, row, row + 1):
        write_adapter(folder, str(tiny_folder), sha256(base), {"new": values}, {}, 0)
        found += [sha256(load_prior(folder)), sha256(load_prior(folder))]
        hashes.append("next")
    assert len(set(found)) == 2 and found[0] == found[3] != found[4]
    assert [place for place, call in enumerate(hashes) if call == "next"] == [2, 4, 6]  # the base, and one for each


def test_a_user_without_a_home_has_no_cache_and_gets_the_hash(ask, monkeypatch):
    for name in ("DAP_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(file_states, "YOUNG", -(10**12))
    assert [ask()[1], ask()[1]] == [True, True]
