"""Packing: every format and codec and back, the packages that own them, options, what is skipped, parts and batches."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torchvision
from PIL import Image

from dap.data.open import open_source
from dap.data.packing import FORMATS as WRITERS
from dap.data.packing import pack_source, write_packed
from dap.data.shard_writer import Sample, ShardWriter
from dap.dataset import DistilledDataset
from dap.errors import FormatError, OptionError, RunMismatchError, SourceError

FORMATS, CODECS = ("imagefolder", "webdataset", "parquet", "safetensors"), ("png", "jpeg", "webp")
SUFFIXES = {"png": "png", "jpeg": "jpg", "webp": "webp"}
NAMES = ["bird", "cat/wild", "test-tube"]  # in the order of their folders: a tree's labels are sorted


def draw(number: int, channels: int = 3) -> np.ndarray:
    smooth = np.add.outer(np.arange(16), np.arange(16)) * 3 + number * 4
    return np.stack([smooth + 20 * channel for channel in range(channels)]).astype(np.uint8)


def samples(count: int, channels: int = 3) -> list[Sample]:
    folders = ["bird", "cat%2Fwild", "test-tube"]
    return [
        Sample(f"{folders[n % 3]}/{n // 3:05d}", n % 3, lambda n=n: draw(n, channels))  # type: ignore[misc]
        for n in range(count)
    ]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pack(out: Path, count: int = 12, **options: Any) -> dict[str, Any]:
    chosen = {"format": "webdataset", "class_names": NAMES, "provenance": {"by": "hand"}, **options}
    return write_packed(samples(count), out, **chosen)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
def test_there_and_back(tmp_path: Path, format: str, codec: str, channels: int) -> None:
    for out in ("one", "two"):
        write_packed(
            samples(12, channels),
            tmp_path / out,
            format=format,
            codec=codec,
            class_names=NAMES,
            provenance={},
            maxcount=5,
        )
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    source = open_source(tmp_path / "one")
    assert source.class_names == tuple(NAMES)
    order = np.argsort(np.arange(12) % 3, kind="stable") if format == "imagefolder" else np.arange(12)
    assert source.labels.tolist() == (order % 3).tolist()
    found = source.images(range(12), size=16, channels=channels).astype(int)
    expected = np.stack([draw(int(n), channels) for n in order]).astype(int)
    assert np.abs(found - expected).max() <= (0 if codec != "jpeg" or format == "safetensors" else 12)
    record = json.loads((tmp_path / "one" / "pack.json").read_text())
    assert (record["status"], record["images"], record["skipped"]) == ("complete", 12, [])
    if format == "imagefolder":
        assert all(path.endswith(SUFFIXES[codec]) for path in record["files"])
    else:
        assert len(record["files"]) == 3


def test_files_are_kept_as_they_are(tmp_path: Path) -> None:
    pack(tmp_path / "jpeg", format="imagefolder", codec="jpeg", quality=60)
    before = tree(tmp_path / "jpeg" / "train")
    assert len(before["bird/00000.jpg"]) < len(tree_of_quality(tmp_path, 100)["bird/00000.jpg"])
    source = open_source(tmp_path / "jpeg")
    pack_source(source, tmp_path / "shards", format="webdataset")
    pack_source(open_source(tmp_path / "shards"), tmp_path / "rows", format="parquet")
    pack_source(open_source(tmp_path / "rows"), tmp_path / "back", format="imagefolder")
    assert tree(tmp_path / "back" / "train") == before
    Image.new("RGB", (4, 4)).save(tmp_path / "jpeg" / "train" / "bird" / "x.bmp")
    pack_source(open_source(tmp_path / "jpeg"), tmp_path / "bmp", format="imagefolder")
    assert (tmp_path / "bmp" / "train" / "bird" / "00004.png").read_bytes().startswith(b"\x89PNG")


def tree_of_quality(tmp_path: Path, quality: int) -> dict[str, bytes]:
    pack(tmp_path / "fine", format="imagefolder", codec="jpeg", quality=quality)
    return tree(tmp_path / "fine" / "train")


def test_image_folders_in_the_packages_that_own_them(tmp_path: Path) -> None:
    pack(tmp_path / "tree", format="imagefolder")
    theirs = torchvision.datasets.ImageFolder(tmp_path / "tree" / "train")
    assert theirs.classes == ["bird", "cat%2Fwild", "test-tube"]
    np.testing.assert_array_equal(np.asarray(theirs[0][0]).transpose(2, 0, 1), draw(0))
    loaded = datasets.load_dataset(str(tmp_path / "tree"), cache_dir=tmp_path / "cache")
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 12}  # and no split "test"
    assert loaded["train"].features["label"].names == theirs.classes
    assert loaded["train"]["label"][:] == [label for _, label in theirs.samples]
    one = [Sample("only/00000", 0, lambda: draw(0))]
    write_packed(one, tmp_path / "single", format="imagefolder", class_names=["only"], provenance={})
    single = datasets.load_dataset(str(tmp_path / "single"), split="train", cache_dir=tmp_path / "cache")
    assert single.features["label"].names == ["only"]


def test_datasets_reads_webdataset(tmp_path: Path) -> None:
    pack(tmp_path / "set", maxcount=5)
    loaded = datasets.load_dataset("webdataset", data_dir=str(tmp_path / "set"), cache_dir=tmp_path / "cache")
    assert loaded["train"]["cls"][:] == [n % 3 for n in range(12)]
    np.testing.assert_array_equal(np.asarray(loaded["train"][7]["png"]).transpose(2, 0, 1), draw(7))


def test_shards_are_no_larger_than_asked(tmp_path: Path) -> None:
    packed = pack(tmp_path / "count", maxcount=5)
    assert list(packed["files"]) == [f"train-{number:06d}.tar" for number in range(3)]

    largest = max(len(data) for data in tree_of_quality(tmp_path, 100).values())
    packed = pack(tmp_path / "size", codec="jpeg", quality=100, maxsize=2 * largest)
    assert len(packed["files"]) >= 6
    for name in packed["files"]:
        source = open_source(tmp_path / "size" / name)
        assert source.read is not None
        assert sum(len(source.read(index)) for index in range(len(source))) <= 2 * largest
    assert len(pack(tmp_path / "tiny", maxsize=1)["files"]) == 12


def test_packing_again_checks_and_refuses(tmp_path: Path) -> None:
    out = tmp_path / "out"
    packed, before = pack(out), tree(out)
    assert pack(out) == packed
    assert tree(out) == before
    with pytest.raises(RunMismatchError, match=r"codec: there null, now .jpeg."):
        pack(out, codec="jpeg")
    with pytest.raises(RunMismatchError, match=r"provenance\.by"):
        pack(out, provenance={"by": "another"})
    (out / "train-000000.tar").unlink()
    pack(out)
    assert tree(out) == before
    with (out / "train-000000.tar").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(RunMismatchError, match=r"train-000000\.tar: its bytes are not"):
        pack(out)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(RunMismatchError, match="not empty"):
        pack(tmp_path / "full")
    (tmp_path / "full" / "pack.json").write_text("[]")
    with pytest.raises(FormatError, match=r"pack\.json: expected"):
        pack(tmp_path / "full")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": {"../x": "0" * 64}}, "files: a name in it: expected a path below the folder"),
        ({"files": {"x": 1}}, "files.x: expected a hash"),
        ({"skipped": [[1]]}, r"skipped\[0\]: expected a number and a message"),
        ({"schema": True}, "schema: expected 1"),
        ({"images": None}, "images: expected a whole number"),
    ],
)
def test_a_record_that_was_altered(tmp_path: Path, change: dict[str, object], message: str) -> None:
    record = pack(tmp_path)
    (tmp_path / "pack.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(FormatError, match=rf"pack\.json: {message}"):
        pack(tmp_path)


@pytest.mark.parametrize("format", ["webdataset", "parquet", "safetensors"])
def test_an_unfinished_packing_is_no_source(tmp_path: Path, format: str) -> None:
    record = pack(tmp_path, format=format)
    shard = next(iter(record["files"]))
    assert len(open_source(tmp_path)) == len(open_source(tmp_path / shard)) == record["images"]
    (tmp_path / "pack.json").write_text(json.dumps({**record, "status": "running"}))
    for spec in (tmp_path, tmp_path / shard, f"{tmp_path}/*{Path(shard).suffix}"):
        with pytest.raises(SourceError, match="the packing there was not finished; run the same command again"):
            open_source(spec)


def test_a_ledger_that_was_altered(tmp_path: Path) -> None:
    record = pack(tmp_path)
    (tmp_path / "pack.json").write_text(json.dumps({**record, "status": "running"}))
    (tmp_path / ".dap-pack.jsonl").write_text('{"files": {}, "images": 0, "next": -1, "skipped": []}\n')
    with pytest.raises(FormatError, match=r"\.dap-pack\.jsonl: damaged, line 1: next: expected a whole number"):
        pack(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"format": "zip"}, {"codec": "gif"}, {"on_error": "ignore"}, {"split": "../x"}, {"quality": 0},
        {"quality": 101}, {"maxcount": 0}, {"maxsize": 0},
    ],
)  # fmt: skip
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        pack(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", FORMATS)
def test_what_cannot_be_decoded_is_skipped_and_listed(tmp_path: Path, format: str) -> None:
    pack(tmp_path / "tree", format="imagefolder")
    broken = tmp_path / "tree" / "train" / "bird" / "00002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    source = open_source(tmp_path / "tree")
    with pytest.raises(FormatError, match=r"bird/00002\.png: cannot be read as an image"):
        pack_source(source, tmp_path / "out", format=format)
    assert not (tmp_path / "out").exists()
    packed = pack_source(source, tmp_path / "skipped", format=format, on_error="skip", maxcount=3)
    assert packed["images"] == 11
    assert [(index, "bird/00002" in message) for index, message in packed["skipped"]] == [(2, True)]
    assert len(open_source(tmp_path / "skipped")) == 11


@pytest.mark.parametrize("format", FORMATS)
def test_an_image_that_cannot_be_packed_leaves_nothing(tmp_path: Path, format: str) -> None:
    """The same folder then takes other images, also where shards were finished before."""

    def damaged() -> np.ndarray:
        raise FormatError("damaged")

    def unreachable() -> np.ndarray:
        try:
            raise OSError("stale file handle")
        except OSError as error:
            raise FormatError("unreachable") from error

    out, chosen = tmp_path / "out", {"format": format, "class_names": NAMES, "provenance": {}, "maxcount": 3}
    out.mkdir()
    for count in (2, 7):
        with pytest.raises(FormatError, match="damaged"):
            write_packed([*samples(count), Sample("bird/09999", 0, damaged)], out, **chosen)
        assert not list(out.iterdir())
    with pytest.raises(FormatError, match="unreachable"):
        write_packed([*samples(7), Sample("bird/09999", 0, unreachable)], out, **chosen)
    assert (out / "pack.json").is_file()
    assert write_packed(samples(8), out, **chosen)["images"] == 8


def test_parts_and_batches(tmp_path: Path) -> None:
    pack(tmp_path / "tree", format="imagefolder")
    source = open_source(tmp_path / "tree")
    parts = [source.shard(index, 5) for index in range(5)]
    assert sorted(identity for part in parts for identity in part.ids) == sorted(source.ids)
    assert [len(part) for part in parts] == [3, 3, 2, 2, 2]
    assert len({part.identity() for part in [source, *parts]}) == 6
    assert parts[1].class_names == source.class_names
    np.testing.assert_array_equal(parts[1].labels, source.labels[1::5])
    np.testing.assert_array_equal(parts[1].images([2], size=16, channels=3), source.images([11], size=16, channels=3))
    assert parts[1].read is not None and source.read is not None
    assert parts[1].read(2) == source.read(11)
    assert parts[1].subset(["bird"]).read is not None
    for index, count in ((-1, 2), (2, 2), (0, 0)):
        with pytest.raises(OptionError, match=r"shard: .*expected a whole number"):
            source.shard(index, count)
    whole = source.images(range(12), size=16, channels=3)
    for start in (0, 3):
        batches = source.batches(5, size=16, channels=3, start=start)
        for _ in range(2):
            images, labels = zip(*batches, strict=True)
            np.testing.assert_array_equal(np.concatenate(images), whole[start:])
            np.testing.assert_array_equal(np.concatenate(labels), source.labels[start:])
    broken = tmp_path / "tree" / "train" / "bird" / "00002.png"
    broken.write_bytes(b"")
    with pytest.raises(FormatError, match=r"bird/00002\.png"):
        list(source.batches(5, size=16, channels=3))
    skipping = source.batches(2, size=16, channels=3, on_error="skip")
    for _ in range(2):
        assert [len(labels) for _, labels in skipping] == [2, 1, 2, 2, 2, 2]
        assert [identity for identity, _ in skipping.skipped] == ["train/bird/00002.png"]
    for wrong in ({"batch_size": 0}, {"start": 13}, {"start": -1}, {"on_error": "ignore"}):
        with pytest.raises(OptionError):
            source.batches(**{"batch_size": 2, "size": 16, "channels": 3, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("format", FORMATS)
def test_a_distilled_set_is_saved_and_packed(tmp_path: Path, format: str, command_line: Any) -> None:
    import dap

    distilled = dap.distill("fashion-mini", method="random", prior=None, ipc=2, out=tmp_path / "run", progress=False)
    assert isinstance(distilled, DistilledDataset)
    packed = distilled.save(tmp_path / "saved", format=format)
    assert packed["provenance"] == distilled.manifest
    code, out, _ = command_line("pack", tmp_path / "run", "--to", format, "--out", tmp_path / "packed")
    assert (code, "20 images" in out) == (0, True)
    assert tree(tmp_path / "saved") == tree(tmp_path / "packed")
    again = open_source(tmp_path / "saved")
    found = again.images(range(20), size=32, channels=1)
    order = [distilled.class_names.index(again.class_names[label]) for label in again.labels]
    expected = {(label, image.tobytes()) for image, label in distilled}
    assert {(label, image.tobytes()) for label, image in zip(order, found, strict=True)} == expected
    if format == "imagefolder":
        assert tree(tmp_path / "saved" / "train") == tree(tmp_path / "run" / "train")


def test_the_command_line_skips_and_lists(tmp_path: Path, command_line: Any) -> None:
    pack(tmp_path / "tree", format="imagefolder")
    (tmp_path / "tree" / "train" / "bird" / "00001.png").write_bytes(b"x")
    arguments = ("pack", tmp_path / "tree", "--to", "parquet", "--out", tmp_path / "out", "--classes", "bird,cat/wild")
    code, _, error = command_line(*arguments)
    assert (code, "bird/00001.png: cannot be read as an image" in error) == (2, True)
    code, out, error = command_line(*arguments[:5], tmp_path / "out2", *arguments[6:], "--on-error", "skip")
    assert (code, out.split(" in ")[0]) == (0, "7 images")
    assert "1 skipped" in out and re.fullmatch(r"dap: skipped: .*/bird/00001\.png: .*\n", error)


@pytest.mark.parametrize("writer", ["distill", "build_index", "dap pack", "save"])
@pytest.mark.parametrize("below", [".", "out", "train/../out", "train/bird"])
def test_an_output_in_the_folder_of_the_source_is_refused(
    tmp_path: Path, command_line: Any, writer: str, below: str
) -> None:
    import dap

    pack(tmp_path / "tree", format="imagefolder")
    before, out = tree(tmp_path), tmp_path / "tree" / below
    if writer == "dap pack":
        code, _, error = command_line("pack", tmp_path / "tree", "--to", "parquet", "--out", out)
        assert code == 2 and "in the source's folder" in error and "choose one outside" in error
    else:
        call = {
            "distill": lambda: dap.distill(tmp_path / "tree", method="random", ipc=1, out=out, progress=False),
            "build_index": lambda: dap.build_index(tmp_path / "tree", out=out, progress=False),
            "save": lambda: dap.load(tmp_path / "tree").save(out, format="parquet"),
        }[writer]
        with pytest.raises(OptionError, match=r"in the source's folder .*: choose one outside"):
            call()
    assert tree(tmp_path) == before


def test_a_run_may_be_packed_into_its_own_folder(tmp_path: Path) -> None:
    import dap

    distilled = dap.distill("fashion-mini", method="random", ipc=1, out=tmp_path / "run", progress=False)
    distilled.save(tmp_path / "run" / "shards", format="webdataset")
    assert len(dap.load(tmp_path / "run")) == 10 and len(dap.load(tmp_path / "run" / "shards")) == 10


def test_images_of_odd_modes(tmp_path: Path) -> None:
    for number, image in enumerate(
        [Image.new("LA", (5, 4), (200, 0)), Image.new("I;16", (5, 4), 65535), Image.new("P", (5, 4)),
         Image.new("CMYK", (5, 4))]
    ):  # fmt: skip
        stream = io.BytesIO()
        image.save(stream, "JPEG" if image.mode == "CMYK" else "PNG")
        (tmp_path / "tree" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / "a" / f"{number}.{'jpg' if image.mode == 'CMYK' else 'png'}").write_bytes(
            stream.getvalue()
        )
    source = open_source(tmp_path / "tree")
    pack_source(source, tmp_path / "webp", format="webdataset", codec="webp")
    again = open_source(tmp_path / "webp")
    np.testing.assert_array_equal(
        again.images(range(4), size=4, channels=3), source.images(range(4), size=4, channels=3)
    )


@pytest.mark.parametrize("missing", ["add", "finish", "discard"])
def test_a_shard_writer_without_a_part_cannot_be_made(tmp_path: Path, missing: str) -> None:
    parts = {name: getattr(WRITERS["webdataset"], name) for name in ("add", "finish", "discard") if name != missing}
    incomplete = type("Incomplete", (ShardWriter,), parts)
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        incomplete(tmp_path, "train-000000", ["a"])


def test_safetensors_of_another_shape_are_refused_in_a_later_shard_too(tmp_path: Path) -> None:
    """The shards would open one by one, and not together."""
    other = Sample("bird/09999", 0, lambda: np.zeros((1, 3, 3), np.uint8))
    with pytest.raises(SourceError, match=r"bird/09999: expected an image .* like the earlier ones, got \(1, 3, 3\)"):
        write_packed([*samples(2), other], tmp_path, format="safetensors", class_names=NAMES, provenance={}, maxcount=1)
    assert not list(tmp_path.iterdir())
