"""Tensors beside packed images: each format gives them back row by row, and no reader of images stumbles on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from safetensors.numpy import save_file
from torchvision.datasets import ImageFolder

import dap
from dap.data.packing import FORMATS, write_packed
from dap.data.shard_writer import Sample
from dap.data.sidecar import to_stored_arrays
from dap.errors import FormatError, OptionError, RunMismatchError

NAMES = ("Zebra", "Ape")  # whose folders come in another order


@pytest.fixture
def images() -> dap.DistilledDataset:
    pixels = torch.arange(7 * 8 * 8).reshape(7, 1, 8, 8) % 251
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 1])
    dataset = torch.utils.data.TensorDataset(pixels.to(torch.uint8), labels)
    return dap.load(dataset, class_map=list(NAMES))


def rows_of(distilled: dap.DistilledDataset) -> dict[bytes, tuple[list[float], int]]:
    """The rows by the pixels of their images."""
    pixels, _ = distilled.to_torch()
    soft, place = distilled.tensors["soft_labels"], distilled.tensors["place"]
    return {
        image.numpy().tobytes(): (own.tolist(), int(at)) for image, own, at in zip(pixels, soft, place, strict=True)
    }


TENSORS = {"soft_labels": torch.linspace(0, 1, 14).reshape(7, 2), "place": np.arange(7)}


@pytest.mark.parametrize("format", FORMATS)
def test_rows_stay_with_their_images(images: dap.DistilledDataset, tmp_path: Path, format: str) -> None:
    packed = images.save(tmp_path / "a", format=format, tensors=TENSORS)
    images.save(tmp_path / "b", format=format, tensors=TENSORS)
    assert (tmp_path / "a/beside.safetensors").read_bytes() == (tmp_path / "b/beside.safetensors").read_bytes()
    assert "beside.safetensors" in packed["files"]
    opened = dap.load(tmp_path / "a")
    pixels, _ = images.to_torch()
    half = TENSORS["soft_labels"].half()
    assert rows_of(opened) == {pixels[i].numpy().tobytes(): (half[i].tolist(), i) for i in range(7)}
    assert opened.tensors["soft_labels"].dtype == torch.float16
    assert len(opened) == 7

    best = opened.take(2)
    assert rows_of(best).items() <= rows_of(opened).items()
    assert len(best.tensors["place"]) == 4
    best.save(tmp_path / "c", format="webdataset")  # they go along
    assert rows_of(dap.load(tmp_path / "c")) == rows_of(best)


def test_other_packages_open_the_images_as_before(images: dap.DistilledDataset, tmp_path: Path) -> None:
    images.save(tmp_path / "tree", format="imagefolder", tensors=TENSORS)
    assert len(ImageFolder(tmp_path / "tree/train")) == 7
    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "tree"), split="train", cache_dir=str(tmp_path / "hf"))
    assert len(rows) == 7
    assert rows.features["label"].names == ["Ape", "Zebra"]
    images.save(tmp_path / "tar", format="webdataset", tensors=TENSORS)
    rows = load_dataset(str(tmp_path / "tar"), split="train", cache_dir=str(tmp_path / "hf"))
    assert len(rows) == 7


def test_a_skipped_image_takes_its_row_along(tmp_path: Path) -> None:
    pixels = [np.full((1, 4, 4), value, np.uint8) for value in range(3)]
    samples = [Sample(f"0/{i}", 0, lambda i=i: b"no image" if i == 1 else pixels[i]) for i in range(3)]
    write_packed(
        samples, tmp_path, format="parquet", class_names=["a"], provenance={}, on_error="skip",
        tensors={"place": np.arange(3)},
    )  # fmt: skip
    assert dap.load(tmp_path).tensors["place"].tolist() == [0, 2]


def test_packing_goes_on_only_with_the_same_tensors(images: dap.DistilledDataset, tmp_path: Path) -> None:
    first = images.save(tmp_path, format="webdataset", tensors=TENSORS)
    assert images.save(tmp_path, format="webdataset", tensors=TENSORS) == first
    with pytest.raises(RunMismatchError, match="tensors"):
        images.save(tmp_path, format="webdataset", tensors={"place": np.arange(1, 8)})
    with pytest.raises(RunMismatchError, match="tensors"):
        images.save(tmp_path, format="webdataset")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.zeros(6), "a row of numbers for each of 7 images, got float64"),
        (np.float64(1), "a row of numbers"),
        (np.array(["a"] * 7), "a row of numbers"),
        (np.full(7, 1e6), "float16 does not hold"),
        (np.full(7, np.nan), "float16 does not hold"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(
    images: dap.DistilledDataset, tmp_path: Path, tensor: np.ndarray, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        images.save(tmp_path / "out", tensors={"mine": tensor})
    assert not (tmp_path / "out").exists()


def test_integers_keep_their_type() -> None:
    assert to_stored_arrays({"a": np.arange(3, dtype=np.int32)}, 3)["a"].dtype == np.int32


def test_a_file_of_another_set_is_refused(images: dap.DistilledDataset, tmp_path: Path) -> None:
    images.save(tmp_path, format="webdataset", tensors=TENSORS)
    beside = tmp_path / "beside.safetensors"
    save_file({"place": np.arange(6)}, beside, {"classes": '[["Zebra", 4], ["Ape", 2]]'})
    with pytest.raises(FormatError, match=r"beside.safetensors: expected rows .*'Ape': 2"):
        dap.load(tmp_path)
    save_file({"place": np.arange(6)}, beside, {"classes": '[["Zebra", 4], ["Ape", 3]]'})
    with pytest.raises(FormatError, match="expected rows"):
        dap.load(tmp_path)
    for content in (b"", b"\xff" * 40, (42).to_bytes(8, "little") + b"{}"):
        beside.write_bytes(content)
        with pytest.raises(FormatError, match=r"beside.safetensors: expected the tensors of a packed set"):
            dap.load(tmp_path)
