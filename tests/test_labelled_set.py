"""A distilled set in people's own code: slices, classes and transform as in torchvision, and what packing keeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import ToTensor

import dap
from dap.data.names import unescape
from dap.data.packing import FORMATS
from dap.errors import FormatError

NAMES = ["T-shirt/top", "Bag", "Ankle boot"]  # neither sorted nor a folder's name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dap.DistilledDataset:
    out = tmp_path_factory.mktemp("runs") / "run"
    return dap.distill(
        "fashion-mini", method="herding", classes=NAMES, features="pixels", ipc=3, out=out, progress=False
    )


def test_a_slice_is_a_set(run: dap.DistilledDataset) -> None:
    part = run[1:7:2]
    assert isinstance(part, dap.DistilledDataset) and len(part) == 3 and part.manifest == run.manifest
    assert part.labels.tolist() == [0, 1, 1] and part.class_names == run.class_names
    np.testing.assert_array_equal(part[-1][0], run[5][0])
    assert len(run[:0]) == 0 and len(run[-2:100]) == 2


def test_a_slice_keeps_its_tensors(run: dap.DistilledDataset, tmp_path: Path) -> None:
    run.save(tmp_path / "soft", "safetensors", tensors={"row": torch.arange(9)})
    assert dap.load(tmp_path / "soft")[2::3].tensors["row"].tolist() == [2, 5, 8]


def test_classes_and_transform_are_those_of_torchvision(run: dap.DistilledDataset) -> None:
    theirs = ImageFolder(run.path / "train", transform=ToTensor())
    ours = dap.load(run.path, transform=ToTensor())
    assert ours.classes == list(run.class_names) and ours.num_classes == 3
    assert sorted(ours.class_to_idx) == sorted(map(unescape, theirs.class_to_idx))
    assert [ours.class_to_idx[name] for name in ours.classes] == [0, 1, 2]
    for index, (image, label) in enumerate(theirs):
        name = unescape(theirs.classes[label])
        own, own_label = ours[run.files.index(str(Path(theirs.samples[index][0]).relative_to(run.path)))]
        assert own_label == ours.class_to_idx[name]
        torch.testing.assert_close(own, image[:1])  # ImageFolder makes grey images RGB
    assert ours[0:2][1][0].shape == ours.take(1)[0][0].shape == (1, 32, 32)
    ours.transform = None
    assert ours[0][0].dtype == np.uint8


def test_a_transform_gets_colour_images_as_rgb(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    Image.new("RGB", (5, 4), (200, 10, 20)).save(tmp_path / "red" / "0.png")
    mode, size, pixel = dap.load(tmp_path, transform=lambda image: (image.mode, image.size, image.getpixel((0, 0))))[0][
        0
    ]
    assert (mode, size, pixel) == ("RGB", (5, 4), (200, 10, 20))


@pytest.mark.parametrize("format", FORMATS)
def test_a_packed_set_keeps_manifest_names_labels_and_ranking(
    run: dap.DistilledDataset, tmp_path: Path, format: str
) -> None:
    run.save(tmp_path / "packed", format)
    packed = dap.load(tmp_path / "packed")
    assert packed.manifest == run.manifest and packed.class_names == tuple(NAMES)
    assert packed.labels.tolist() == run.labels.tolist()
    assert torch.equal(packed.to_torch()[0], run.to_torch()[0])
    assert torch.equal(packed.take(2).to_torch()[0], run.take(2).to_torch()[0])
    assert repr(packed).endswith("method 'herding')")


def test_a_packed_set_is_packed_again_with_its_manifest(
    run: dap.DistilledDataset, tmp_path: Path, command_line
) -> None:
    run.save(tmp_path / "tree")
    assert command_line("pack", tmp_path / "tree", "--to", "parquet", "--out", tmp_path / "parquet")[0] == 0
    again = dap.load(tmp_path / "parquet")
    assert again.manifest == run.manifest and again.class_names == tuple(NAMES)


def test_the_best_of_a_set_keep_their_order_when_packed(run: dap.DistilledDataset, tmp_path: Path) -> None:
    best = run.take(2)
    best.save(tmp_path / "best", "webdataset")
    assert torch.equal(dap.load(tmp_path / "best").take(1).to_torch()[0], best.take(1).to_torch()[0])


def test_a_shard_that_was_moved_keeps_its_class_names(run: dap.DistilledDataset, tmp_path: Path) -> None:
    run.save(tmp_path / "packed", "webdataset")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "packed" / "train-000000.tar", tmp_path / "elsewhere")
    assert dap.load(tmp_path / "elsewhere").class_names == tuple(NAMES)


def test_a_packed_manifest_that_was_damaged_is_named(run: dap.DistilledDataset, tmp_path: Path) -> None:
    run.save(tmp_path / "packed", "parquet")
    path = tmp_path / "packed" / "pack.json"
    record = json.loads(path.read_text())
    record["provenance"]["ipc"] = "many"
    path.write_text(json.dumps(record))
    with pytest.raises(FormatError, match=r"pack\.json: provenance\.ipc"):
        dap.load(tmp_path / "packed")


def test_class_names_alone_are_no_record(tmp_path: Path, run: dap.DistilledDataset) -> None:
    run.save(tmp_path / "packed", "webdataset")
    (tmp_path / "packed" / "pack.json").write_text(json.dumps(["a", "b", "c"]))
    loaded = dap.load(tmp_path / "packed")
    assert loaded.class_names == ("a", "b", "c") and loaded.manifest == {}
