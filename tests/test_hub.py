"""Sets on the hub, for which a local folder stands: the files that are uploaded, their card, a set that comes back."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

import dap
from dap.data import hub
from dap.errors import OptionError, RunMismatchError, SourceError
from dap.evaluation.result import EvaluationResult, Row
from dap.report import command_of, hub_card


class LocalHub:
    """The part of ``huggingface_hub`` that dap calls, with its signatures, over a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, []

    def HfApi(self, token: str | None = None) -> LocalHub:
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool | None, exist_ok: bool) -> str:
        assert (repo_type, exist_ok) == ("dataset", True)
        self.calls.append(("private", private))
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/datasets/{repo_id}"

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, repo_type: str, commit_message: str, delete_patterns: str
    ) -> None:
        assert repo_type == "dataset" and commit_message
        for file in (self.root / repo_id).iterdir():
            if fnmatch.fnmatch(file.name, delete_patterns):
                file.unlink()
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def hf_hub_download(self, repo_id: str, filename: str, *, repo_type: str) -> str:
        file = self.root / repo_id / filename
        if not file.is_file():
            raise LocalEntryNotFoundError(filename)
        return str(file)

    def snapshot_download(self, repo_id: str, *, repo_type: str, allow_patterns: list[str]) -> str:
        snapshot = self.root / "snapshot"
        shutil.rmtree(snapshot, ignore_errors=True)
        snapshot.mkdir()
        for file in (self.root / repo_id).iterdir():
            if any(fnmatch.fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, snapshot)
        return str(snapshot)


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    stand_in = LocalHub(tmp_path / "hub")
    for name in ("HfApi", "hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(hub, name, getattr(stand_in, name))
    monkeypatch.chdir(tmp_path)
    return stand_in


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dap.DistilledDataset:
    out = tmp_path_factory.mktemp("runs") / "run"
    classes = ["T-shirt/top", "Bag"]
    return dap.distill(
        "fashion-mini", method="herding", features="pixels", classes=classes, ipc=3, out=out, progress=False
    )


def test_a_set_that_is_pushed_comes_back(run: dap.DistilledDataset, local_hub: LocalHub) -> None:
    assert (
        run.push_to_hub("me/fashion-3", private=True, token="secret") == "https://huggingface.co/datasets/me/fashion-3"
    )
    assert local_hub.calls == [("token", "secret"), ("private", True)]
    files = {file.name for file in (local_hub.root / "me/fashion-3").iterdir()}
    assert files == {"README.md", "contact_sheet.png", "pack.json", "train-000000.parquet"}
    again = dap.load("me/fashion-3")
    assert again.manifest == run.manifest and again.class_names == run.class_names
    assert torch.equal(again.to_torch()[0], run.to_torch()[0])
    assert torch.equal(again.take(1).to_torch()[0], run.take(1).to_torch()[0])


def test_a_set_of_the_hub_is_measured_as_its_run(run: dap.DistilledDataset, local_hub: LocalHub, command_line) -> None:
    """Against the real images that its manifest names, since none are given."""
    run.push_to_hub("me/fashion-3")
    settings = {"only": ["energy_distance", "nearest_real"], "features_options": {"size": 8}}
    expected = dap.measure(run, **settings).to_json()
    assert dap.measure("me/fashion-3", **settings).to_json() == expected
    names = [word for name in settings["only"] for word in ("--only", name)]
    code, _, said = command_line("metrics", "me/fashion-3", *names, "--features-set", "size=8", "--json", "m.json")
    assert code == 0, said
    assert json.loads(Path("m.json").read_text()) == json.loads(expected)


def test_pushing_again_replaces_the_images(run: dap.DistilledDataset, local_hub: LocalHub) -> None:
    run.push_to_hub("me/set")
    run[0:2].push_to_hub("me/set")
    assert len(dap.load("me/set")) == 2


def test_tensors_travel(run: dap.DistilledDataset, local_hub: LocalHub, tmp_path: Path) -> None:
    run.save(tmp_path / "soft", "parquet", tensors={"soft": torch.eye(6)})
    dap.load(tmp_path / "soft").push_to_hub("me/soft")
    assert torch.equal(dap.load("me/soft").tensors["soft"].float(), torch.eye(6))


def test_the_card_says_all(run: dap.DistilledDataset, local_hub: LocalHub) -> None:
    row = Row("distilled", "convnet3", 6, (70.0, 72.0), (71.0, 73.0), None)
    run.push_to_hub("me/set", results=[EvaluationResult("small", 0, 2, 100, ("a", "b"), (row,))])
    card = (local_hub.root / "me/set/README.md").read_text()
    _, head, body = card.split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["license"] == "mit" and facts["size_categories"] == ["n<1K"]
    assert facts["configs"][0]["data_files"] == [{"split": "train", "path": "train-*.parquet"}]
    for words in (
        'dap.load("me/set")', 'load_dataset("me/set", split="train")', command_of(run.manifest), "herding", "seed 0",
        "fashion-mini", "71.0 ± 1.0", "Licence: source mit", "The images are real ones",
        run.manifest["source"]["identity"], "## Citation", "(contact_sheet.png)",
    ):  # fmt: skip
        assert words in body, words
    assert "No accuracy was measured" not in body


def test_the_card_of_images_of_others(local_hub: LocalHub, run: dap.DistilledDataset) -> None:
    dap.load(run.path / "train").push_to_hub("me/plain")
    card = (local_hub.root / "me/plain/README.md").read_text()
    assert "license" not in yaml.safe_load(card.split("---\n")[1])
    assert "The licences of source and prior are not known" in card and "No accuracy was measured" in card
    assert dap.load("me/plain").manifest == {}


def test_the_card_has_the_memorisation_check(local_hub: LocalHub, tmp_path: Path) -> None:
    source = dap.open_source("fashion-mini", classes=["Bag"])
    few = source.select(np.arange(20))
    made = dap.distill(few, method="dit", ipc=2, num_inference_steps=2, out=tmp_path / "made", progress=False)
    made.push_to_hub("me/made", real=few)
    assert re.search(r"Memorisation check: [0-2] of 2 images are", (local_hub.root / "me/made/README.md").read_text())
    copied = dap.load(few.select(np.arange(3)))
    assert copied._copies(few) == 3


def test_two_licences_are_both_told(run: dap.DistilledDataset) -> None:
    manifest = {
        **run.manifest,
        "licenses": {"prior": "openrail", "source": "mit"},
        "prior": {"name": "a/b", "sha256": "1"},
        "options": {**run.manifest["options"], "method": {"name": "dit"}},
    }
    card = hub_card("me/set", run.source, manifest, sheet=None)
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "other"
    assert "prior openrail, source mit" in card and "`a/b`" in card and "nearest_real" in card


def test_the_card_shows_no_folders(run: dap.DistilledDataset) -> None:
    teacher = {"name": "igd", "teacher": "/home/me/teacher.safetensors"}
    manifest = {
        **run.manifest, "prior": {"name": "/home/me/priors/mine", "sha256": "1"},
        "source": {**run.manifest["source"], "name": "/home/me/photos"},
        "options": {**run.manifest["options"], "method": teacher},
    }  # fmt: skip
    card = hub_card("me/set", run.source, manifest, sheet=None)
    assert "/home" not in card and manifest["prior"]["name"] == "/home/me/priors/mine"
    for words in ("prior `mine`", "| prior | mine |", "dap distill photos ", "--set teacher=teacher.safetensors"):
        assert words in card, words
    assert "prior facebook/DiT" in hub_card(
        "me/set", run.source, {**manifest, "prior": {"name": "facebook/DiT"}}, sheet=None
    )


def test_real_images_that_a_prior_chose_are_real_in_the_card(run: dap.DistilledDataset) -> None:
    manifest = {**run.manifest, "prior": {"name": "fashion-dit", "sha256": "1"}}
    card = hub_card("me/set", run.source, manifest, sheet=None)
    assert "`herding` chose them among the real images" in card and "The images are real ones" in card
    assert "generative" not in card


@pytest.mark.parametrize("name", ["set", "me/", "a/b/c", "me/my set", ""])
def test_names_that_are_none(name: str, run: dap.DistilledDataset, local_hub: LocalHub) -> None:
    with pytest.raises(OptionError, match="repo_id: expected user/name"):
        run.push_to_hub(name)
    assert local_hub.calls == []


def test_a_hub_that_refuses(run: dap.DistilledDataset, local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("401\nUnauthorized")

    monkeypatch.setattr(local_hub, "create_repo", refuse)
    with pytest.raises(
        SourceError, match=r"cannot push to 'me/set' \(RuntimeError: 401 .*\); log in by: hf auth login"
    ):
        run.push_to_hub("me/set")


def test_files_that_were_changed_or_are_gone(run: dap.DistilledDataset, local_hub: LocalHub) -> None:
    run.push_to_hub("me/set")
    shard = local_hub.root / "me/set/train-000000.parquet"
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(RunMismatchError, match="its bytes are not those"):
        dap.load("me/set")
    shard.unlink()
    with pytest.raises(SourceError, match="lacks files"):
        dap.load("me/set")


def test_other_datasets_of_the_hub_open_as_before(local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append(name) or 1 / 0)
    with pytest.raises(SourceError, match="cannot be loaded as a Hugging Face dataset"):
        dap.load("somebody/cifar10")
    assert asked == ["somebody/cifar10"]


def test_the_command_of_a_run_makes_it_again(run: dap.DistilledDataset, tmp_path: Path, command_line) -> None:
    out = tmp_path / "again"
    words = shlex.split(command_of(run.manifest, str(out)))
    assert words[:3] == ["dap", "distill", "fashion-mini"] and command_line(*words[1:])[0] == 0
    again = dap.load(out)
    assert {**again.manifest, "seconds": 0} == {**run.manifest, "seconds": 0}
    assert torch.equal(again.to_torch()[0], run.to_torch()[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "k_center", "features": "pixels", "features_options": {"size": 8}, "size": 12, "channels": "grey"},
         "--features pixels --features-set size=8 --size 12 --channels grey"),
        ({"method": "k_center", "features": "vae", "channels": "grey", "size": 12},
         "--prior fashion-dit --features vae --size 12 --channels grey"),
        ({"method": "dit", "num_inference_steps": 2, "channels": "grey", "label_map": {"anorak": 4}},
         "--prior fashion-dit --label anorak=4 --channels grey"),
    ],
    ids=["pixels", "vae", "label"],
)  # fmt: skip
def test_the_command_of_a_run_of_a_folder(
    options: dict[str, Any], words: str, tmp_path: Path, command_line: Any
) -> None:
    generator = np.random.default_rng(0)
    for name in ("Bag", "anorak"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    run = dap.distill(tmp_path / "photos", ipc=2, out=tmp_path / "run", progress=False, **options)
    command = command_of(run.manifest, str(tmp_path / "again"))
    assert words in command
    assert command_line(*shlex.split(command)[1:])[0] == 0
    again = dap.load(tmp_path / "again")
    assert {**again.manifest, "seconds": 0} == {**run.manifest, "seconds": 0}
    assert torch.equal(again.to_torch()[0], run.to_torch()[0])
