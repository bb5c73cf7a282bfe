"""Parquet and tensors: both ways with ``datasets``, ``safetensors`` and torch; damaged and hostile files."""

from __future__ import annotations

import io
import json
import pickle
import resource
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from dap.data import parquet
from dap.data.open import open_source
from dap.data.packing import pack_source
from dap.data.shard_writer import Sample
from dap.data.source import Source
from dap.data.tensors import read_tensors
from dap.errors import FormatError, SourceError

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), np.uint8)
NAMES = ["cat", "dog/wolf", "bird"]


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Under 5 s and under 1 GB more, whatever the file says."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def theirs() -> datasets.Dataset:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    images = [Image.fromarray(pixels.transpose(1, 2, 0)) for pixels in PIXELS]
    return datasets.Dataset.from_dict({"image": images, "label": [n % 3 for n in range(30)]}, features=features)


def same(source: Source) -> None:
    assert source.class_names == tuple(NAMES)
    assert source.labels.tolist() == [n % 3 for n in range(30)]
    np.testing.assert_array_equal(source.images(range(30), size=8, channels=3), PIXELS)


def test_what_datasets_writes_is_read(tmp_path: Path, theirs: datasets.Dataset) -> None:
    theirs.to_parquet(tmp_path / "train-00000-of-00001.parquet", batch_size=7)
    source = open_source(tmp_path)
    same(source)
    assert source.ids[29] == "train-00000-of-00001.parquet/29"
    same(pickle.loads(pickle.dumps(source)))
    same(open_source(theirs))


def test_datasets_reads_what_is_packed(
    tmp_path: Path, theirs: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP_ROWS", 4)
    source = open_source(theirs)
    for out in ("one", "two"):
        pack_source(source, tmp_path / out, format="parquet", maxcount=11)
    files = sorted(path.name for path in (tmp_path / "one").glob("*.parquet"))
    assert files == [f"train-{number:06d}.parquet" for number in range(3)]
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert pq.ParquetFile(tmp_path / "one" / files[0]).metadata.num_row_groups == 3
    for loaded in (
        datasets.load_dataset("parquet", data_dir=str(tmp_path / "one"), split="train", cache_dir=tmp_path / "a"),
        datasets.load_dataset(str(tmp_path / "one"), split="train", cache_dir=tmp_path / "b"),
    ):
        assert loaded.features == theirs.features
        assert loaded["label"][:] == theirs["label"][:]
        decoded = np.stack([np.asarray(image).transpose(2, 0, 1) for image in loaded["image"]])
        np.testing.assert_array_equal(decoded, PIXELS)
    same(open_source(tmp_path / "one"))


def test_other_columns(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    images = [png(pixels) for pixels in PIXELS[:3]]
    pq.write_table(pa.table({"picture": images, "kind": ["b", "a", "b"]}), file)
    source = open_source(file)
    assert (source.class_names, source.labels.tolist()) == (("a", "b"), [1, 0, 1])
    np.testing.assert_array_equal(source.images([2], size=8, channels=3)[0], PIXELS[2])
    pq.write_table(pa.table({"picture": images, "label": [3, 3, 1], "other": [1, 2, 3]}), file)
    assert open_source(file).source_ids == (1, 3)
    for columns, message in (
        (
            {"picture": images, "a": [1, 1, 1], "b": [1, 1, 1]},
            "expected a column 'label', or exactly one .* found 'a', 'b'.*; choose one with label_column=",
        ),
        ({"label": [1, 2, 3]}, "expected a column 'image'"),
        ({"image": images, "label": [1, None, 3]}, "1 of 3 images have no 'label'"),
    ):
        pq.write_table(pa.table(columns), file)
        with pytest.raises((FormatError, SourceError), match=rf"x\.parquet: .*{message}"):
            open_source(file)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    elsewhere = pa.array([{"bytes": None, "path": "/etc/passwd"}], struct)
    pq.write_table(pa.table({"image": elsewhere, "label": [0]}), file)
    with pytest.raises(FormatError, match=r"x\.parquet/0: .*no image bytes; a path alone is not followed"):
        open_source(file).images([0], size=8, channels=3)
    pq.write_table(pa.table({"image": images, "label": [0, 1, 2]}).replace_schema_metadata({"huggingface": "[["}), file)
    with pytest.raises(FormatError, match="expected JSON in"):
        open_source(file)


def damaged(whole: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    yield from (whole[: int(length)] for length in np.linspace(0, len(whole) - 1, 10))
    for _ in range(60):
        flipped = bytearray(whole)
        flipped[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)
    for _ in range(20):  # where the sizes stand
        flipped = bytearray(whole)
        flipped[-int(rng.integers(1, min(600, len(whole))))] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)


@pytest.mark.parametrize("format", ["parquet", "safetensors"])
def test_damaged_files(tmp_path: Path, theirs: datasets.Dataset, format: str) -> None:
    source = open_source(theirs)
    packed = pack_source(source, tmp_path / "packed", format=format)
    (name,) = packed["files"]
    whole, file, refused = (tmp_path / "packed" / name).read_bytes(), tmp_path / name, 0
    for content in damaged(whole, np.random.default_rng(0)):
        file.write_bytes(content)
        try:
            opened = open_source(file)
            opened.images(range(len(opened)), size=8, channels=3)
        except (FormatError, SourceError) as error:
            assert name in str(error)
            refused += 1
    assert refused >= (40 if format == "parquet" else 10)


def test_parquet_that_claims_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"image": [bytes(5000)], "label": [0]}), tmp_path / "x.parquet")
    monkeypatch.setattr(parquet, "MAX_GROUP", 1000)
    with pytest.raises(FormatError, match=r"x\.parquet: row group 0 claims \d+ bytes, expected at most 1000"):
        open_source(tmp_path / "x.parquet")


def test_safetensors_both_ways(tmp_path: Path, theirs: datasets.Dataset) -> None:
    for out in ("one", "two"):
        packed = pack_source(open_source(theirs), tmp_path / out, format="safetensors")
    assert packed["files"] == pack_source(open_source(theirs), tmp_path / "one", format="safetensors")["files"]
    loaded = load_file(tmp_path / "one" / "train-000000.safetensors")
    np.testing.assert_array_equal(loaded["images"], PIXELS)
    assert (loaded["images"].dtype, loaded["labels"].dtype) == (np.uint8, np.int64)
    same(open_source(tmp_path / "one"))
    pack_source(open_source(theirs), tmp_path / "parts", format="safetensors", maxsize=192 * 8)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) == 4
    same(open_source(tmp_path / "parts"))


def test_tensors_of_others(tmp_path: Path) -> None:
    labels = torch.arange(30) % 3
    floats = torch.from_numpy(PIXELS).float() / 255
    for number, value in enumerate(
        [
            {"images": torch.from_numpy(PIXELS), "labels": labels},
            (floats, labels),
            [floats.half().float(), labels.int()],
        ]
    ):
        torch.save(value, tmp_path / f"{number}.pt")
        images, read, names = read_tensors(tmp_path / f"{number}.pt")
        assert (images.dtype, read.dtype, names) == (np.uint8, np.int64, None)
        np.testing.assert_array_equal(images, PIXELS)
        assert read.tolist() == labels.tolist()
    assert open_source(tmp_path / "1.pt").class_names == ("0", "1", "2")


class Harmful:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("harmed"),))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((torch.zeros(2, 3, 4, 4) - 1, torch.zeros(2, dtype=torch.long)), r"must lie in \[0, 1\], got -1"),
        ((torch.full((2, 3, 4, 4), torch.nan), torch.zeros(2, dtype=torch.long)), r"must lie in \[0, 1\]"),
        ((torch.zeros(2, 4, 4), torch.zeros(2)), "expected images"),
        ((torch.zeros(2, 3, 4, 4), torch.zeros(3, dtype=torch.long)), "expected 2 integer labels"),
        ((torch.zeros(2, 3, 4, 4), torch.zeros(2)), "expected 2 integer labels"),
        (torch.zeros(2), r"expected a file of torch\.save"),
        ({"images": Harmful(), "labels": 1}, r"expected a file of torch\.save"),
    ],
)
def test_pt_files_that_are_refused(
    tmp_path: Path, value: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(FormatError, match=rf"x\.pt: .*{message}"):
        open_source(tmp_path / "x.pt")
    assert not (tmp_path / "harmed").exists()


def test_a_bomb_in_a_pt(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(100_000_000))
    (tmp_path / "y.pt").write_bytes(b"\x80\x02" + bytes(100))
    for name in ("x.pt", "y.pt"):
        with pytest.raises(FormatError, match=rf"{name[0]}\.pt: expected a file of torch\.save"):
            open_source(tmp_path / name)


def test_safetensors_that_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    lie = json.dumps({"images": {"dtype": "U8", "shape": [1 << 40, 3, 8, 8], "data_offsets": [0, 192 << 40]}}).encode()
    for content in (b"", bytes(8), b"\xff" * 8 + b"{}", len(lie).to_bytes(8, "little") + lie):
        file.write_bytes(content)
        with pytest.raises(FormatError, match=r"x\.safetensors: expected safetensors with images and labels"):
            open_source(file)
    images = {"images": PIXELS, "labels": np.zeros(30, np.int64)}
    for metadata in ('"text"', "[1]", "["):
        save_file(images, file, {"class_names": metadata})
        with pytest.raises(FormatError, match=r"x\.safetensors: "):
            open_source(file)


def test_images_of_several_shapes(tmp_path: Path) -> None:
    from dap.data.packing import write_packed

    samples = [Sample(f"{n}", 0, lambda n=n: np.zeros((1, 8, n), np.uint8)) for n in (8, 9)]  # type: ignore[misc]
    with pytest.raises(SourceError, match=r"9: expected an image \(1, 8, 8\) like the earlier ones, got \(1, 8, 9\)"):
        write_packed(samples, tmp_path / "out", format="safetensors", class_names=["a"], provenance={})
    assert not (tmp_path / "out").exists()
