"""The commands that judge sets take anybody's: folders, tensors, shards, Parquet and Hugging Face datasets."""

from __future__ import annotations

import io
import json
import logging
import os
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import dap
from dap.errors import FormatError, SourceError

NAMES = ("cat", "dog")
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16), np.uint8) // 2
IMAGES[1::2] += 100  # dogs are bright
LABELS = np.arange(12) % 2


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def folder(root: Path) -> Path:
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        path = root / "tree" / NAMES[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return root / "tree"


def tensors(root: Path) -> Path:
    torch.save({"images": torch.tensor(IMAGES)[:, None], "labels": torch.tensor(LABELS)}, root / "set.pt")
    return root / "set.pt"


def shards(root: Path) -> Path:
    with tarfile.open(root / "set-000000.tar", "w") as tar:
        for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
            for suffix, data in (("png", png(image)), ("cls", NAMES[label].encode())):
                entry = tarfile.TarInfo(f"{number:04}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return root / "set-{000000..000000}.tar"


def parquet(root: Path) -> Path:
    table = pa.table(
        {"image": [{"bytes": png(image)} for image in IMAGES], "label": [NAMES[label] for label in LABELS]}
    )
    pq.write_table(table, root / "set.parquet")
    return root / "set.parquet"


def hugging_face(root: Path) -> Path:
    """A dataset as its repository is downloaded."""
    (root / "repository/data").mkdir(parents=True)
    for split in ("train", "test"):
        hf_dataset().to_parquet(str(root / f"repository/data/{split}-00000-of-00001.parquet"))
    return root / "repository"


def hf_dataset() -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    return datasets.Dataset.from_dict(
        {"image": [{"bytes": png(image)} for image in IMAGES], "label": LABELS.tolist()}, features=features
    )


def saved(root: Path) -> Path:
    """A dataset with two splits, as ``save_to_disk`` writes it."""
    datasets.DatasetDict({split: hf_dataset() for split in ("train", "test")}).save_to_disk(str(root / "saved"))
    return root / "saved"


@pytest.mark.parametrize("make", [folder, tensors, shards, parquet, hugging_face, saved])
def test_the_commands_take_anybodys_images(make, command_line, tmp_path: Path) -> None:
    own, real = make(tmp_path), folder(tmp_path / "real")
    names = ()
    if own.suffix == ".pt":  # it has labels without names
        code, _, error = command_line("evaluate", own, "--test", real)
        assert code == 2 and "--class-names FILE" in error
        (tmp_path / "names.txt").write_text("\n".join(NAMES))
        names = ("--class-names", tmp_path / "names.txt")
    steps = ("--protocol-set", "few_steps=20", "--protocol-set", "checks=1", "--repeats", 2, "--network", "small_mlp")
    code, text, error = command_line("evaluate", own, *names, "--test", real, *steps, "--json", tmp_path / "own.json")
    assert code == 0, error
    found = json.loads((tmp_path / "own.json").read_text())
    assert (found["class_names"], found["rows"][0]["images"]) == (list(NAMES), 12)
    assert found["rows"][0]["last"] == [100.0, 100.0]

    code, text, error = command_line("compare", tmp_path / "own.json", f"again={tmp_path / 'own.json'}")
    assert code == 0 and "+0.0 [+0.0, +0.0], in the noise" in text, error

    code, text, error = command_line(
        "metrics", own, *names, "--real", real, "--only", "nearest_real", "--only", "coverage"
    )
    assert code == 0 and "nearest_real" in text, error

    code, text, error = command_line(
        "teacher", "train", own, "--test", own, "--out", tmp_path / "teacher.safetensors", "--network", "small_mlp",
        "--epochs", 20, "--set", "size=16", "--quiet",  # which leaves the result
    )  # fmt: skip
    assert code == 0 and "of the test images" in text, error
    code, text, error = command_line("teacher", "check", tmp_path / "teacher.safetensors", "--test", own)
    assert code == 0 and text.startswith("teacher teacher.safetensors: 100.0 % of 12 images"), text + error


def test_only_a_source_that_can_be_opened_is_proposed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A dataset in memory has a name that is that of no folder."""
    steps = {"few_steps": 2, "checks": 1}
    for made_of, proposed in ((hf_dataset(), "real="), (folder(tmp_path / "own"), f"real='{tmp_path}")):
        made = dap.distill(made_of, method="random", ipc=1, out=tmp_path / f"set{len(proposed)}", progress=False)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dap"):
            dap.evaluate(made, made_of, networks=["small_mlp"], repeats=1, protocol_options=steps)
        said = caplog.text.partition("give the real training images, ")[2].splitlines()[0]
        assert said.startswith(proposed) and (proposed != "real=" or said == "real=")


def test_saved_datasets_that_cannot_be_opened(tmp_path: Path) -> None:
    place = saved(tmp_path)
    assert dap.open_source(place / "test").class_names == NAMES
    with pytest.raises(SourceError, match=r"saved: has no split 'extra', it has 'test', 'train'"):
        dap.open_source(place, split="extra")
    next((place / "train").glob("*.arrow")).write_bytes(b"damaged")
    with pytest.raises(FormatError, match=r"saved.train: datasets cannot read it \("):
        dap.open_source(place)


def test_saved_splits_have_any_of_their_names(tmp_path: Path) -> None:
    datasets.DatasetDict({"Training": hf_dataset(), "extra": hf_dataset()}).save_to_disk(str(tmp_path / "dict"))
    for split in ("train", "Training", "extra"):
        assert len(dap.open_source(tmp_path / "dict", split=split)) == 12
    for split in ("train", "val"):
        hf_dataset().save_to_disk(str(tmp_path / "two" / split))
    assert len(dap.open_source(tmp_path / "two")) == len(dap.open_source(tmp_path / "two", split="test")) == 12
    tree = folder(tmp_path)
    (tree / "dataset_dict.json").write_text("{}")  # beside folders of classes
    assert dap.open_source(tree).class_names == NAMES


@pytest.mark.parametrize(
    ("file", "text"), [("state.json", '{"_data_files": []}'), ("dataset_info.json", "[]"), ("state.json", "{")]
)
def test_damaged_descriptions_of_saved_datasets_are_named(file: str, text: str, tmp_path: Path) -> None:
    hf_dataset().save_to_disk(str(tmp_path / "set"))
    (tmp_path / "set" / file).write_text(text)
    with pytest.raises(FormatError, match=r"set: datasets cannot read it \("):
        dap.open_source(tmp_path / "set")


def test_a_pipe_in_a_saved_dataset_is_not_waited_for(tmp_path: Path) -> None:
    hf_dataset().save_to_disk(str(tmp_path / "set"))
    (arrow,) = (tmp_path / "set").glob("*.arrow")
    arrow.unlink()
    os.mkfifo(arrow)
    with pytest.raises(FormatError, match="expected files, got something else: 'data-"):
        dap.open_source(tmp_path / "set")


def test_a_folder_with_the_name_of_a_builtin_is_that_folder(command_line, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder(tmp_path).rename("fashion-mini")
    steps = ("--protocol-set", "few_steps=2", "--protocol-set", "checks=1", "--network", "small_mlp")
    code, _, error = command_line(
        "evaluate", "fashion-mini", "--test", "./fashion-mini", *steps, "--json", "result.json"
    )
    assert code == 0, error
    assert json.loads(Path("result.json").read_text())["class_names"] == list(NAMES)


def test_a_url_is_left_as_it_is(command_line, tmp_path: Path) -> None:
    real, url = folder(tmp_path / "real"), "http://127.0.0.1:1/set-{0..0}.tar"
    for command in (("evaluate", url, "--test", real), ("metrics", url, "--real", real)):
        code, _, error = command_line(*command)
        assert code == 2 and "http://127.0.0.1:1/set-0.tar" in error


def test_a_hugging_face_dataset_in_python() -> None:
    result = dap.evaluate(hf_dataset(), hf_dataset(), networks=["small_mlp"], protocol_options={"few_steps": 20})
    assert result.rows[0].last_summary.mean == 100
