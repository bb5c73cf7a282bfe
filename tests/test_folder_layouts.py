"""Where the images of a split are found: split names, shards, folders around a set, and what is refused."""

from __future__ import annotations

import io
import shutil
import struct
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from dap.data.open import open_source
from dap.data.splits import folder_splits, splits_in_name
from dap.errors import FormatError, SourceError


def png(value: int = 0, format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(stream, format)
    return stream.getvalue()


def put(root: Path, *names: str, data: bytes | None = None) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(number) if data is None else data)
    return root


def put_shard(path: Path, members: dict[str, bytes] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in (members or {f"{path.stem}.cls": b"0", f"{path.stem}.png": png()}).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"), ("training", "testing"), ("TRAIN", "VAL"), ("train", "valid"), ("train", "dev"),
        ("train", "eval"), ("seg_train", "seg_test"), ("train2017", "val2017"),
        ("imagenet-train", "imagenet-validation"),
    ],
)  # fmt: skip
def test_split_folders_have_many_names(tmp_path: Path, train: str, test: str) -> None:
    put(tmp_path, f"{train}/cat/0.png", f"{train}/dog/0.png", f"{test}/cat/1.png", f"{test}/dog/1.png", "docs/x.txt")
    for split, folder in (("train", train), ("test", test)):
        source = open_source(tmp_path, split=split)
        assert source.class_names == ("cat", "dog")
        assert {name.split("/")[0] for name in source.ids} == {folder}


def test_names_that_only_contain_a_split_are_classes(tmp_path: Path) -> None:
    assert folder_splits(["train station", "strain", "test tube"]) == {}
    put(tmp_path, "test tube/deep/0.png", "train_station/deep/0.png", "contest/deep/0.png")
    assert open_source(tmp_path).class_names == ("contest", "test tube", "train_station")


def test_a_split_is_chosen_by_its_own_name(tmp_path: Path) -> None:
    put(tmp_path, *(f"{split}/cat/0.png" for split in ("train", "val", "valid", "extra")))
    assert open_source(tmp_path, split="valid").ids == ["valid/cat/0.png"]
    assert open_source(tmp_path, split="extra").ids == ["extra/cat/0.png"]
    for split in ("test", "validation"):
        with pytest.raises(
            SourceError, match=f"expected one folder for split '{split}', found 'val', 'valid'; open one"
        ):
            open_source(tmp_path, split=split)


@pytest.mark.parametrize(
    "names",
    [
        ["imagenet1k-train-0000", "imagenet1k-train-0001", "imagenet1k-validation-00"],
        ["TRAIN_0", "TRAIN_1", "VAL_0"],
        ["cifarTrain-0", "cifarTrain-1", "cifarTest-0"],
        ["0-training", "1-training", "2-testing"],
        ["train-00000-of-00002", "train-00001-of-00002", "valid-00000-of-00001"],
    ],
)
def test_shards_of_a_split_are_known_by_any_word_of_their_names(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        put_shard(tmp_path / f"{name}.tar")
    assert [name.split(".tar/")[0] for name in open_source(tmp_path).ids] == names[:2]
    assert [name.split(".tar/")[0] for name in open_source(tmp_path, split="test").ids] == names[2:]


def test_shards_of_unclear_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert splits_in_name("train-val-0.tar") == ["train", "validation"]
    put_shard(tmp_path / "train-0.tar")
    put_shard(tmp_path / "more-0.tar")
    assert open_source(tmp_path).ids == ["train-0.tar/train-0"]
    assert "their names state no split: 'more-0.tar'" in caplog.text
    assert open_source(tmp_path, split="more").ids == ["more-0.tar/more-0"]
    put_shard(tmp_path / "train-val-0.tar")
    with pytest.raises(SourceError, match=r"found several in 'train-val-0\.tar'; open the shards of one split by a"):
        open_source(tmp_path)


def test_archives_beside_folders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "train/cat/0.png", "train/dog/0.png", "val/cat/0.png", "val/dog/0.png")
    put_shard(tmp_path / "ILSVRC2012_img_train.tar", {"cat.tar": b"x"})
    put_shard(tmp_path / "train" / "cat.tar", {"0.png": png()})
    assert open_source(tmp_path).class_names == ("cat", "dog")
    assert "not the files 'ILSVRC2012_img_train.tar'" in caplog.text and "not the files 'cat.tar'" in caplog.text
    put_shard(tmp_path / "train" / "more.tar", {"0.png": png()})
    with pytest.raises(SourceError, match=r"found both: 'more\.tar' and the folders 'cat', 'dog'; open the shards by"):
        open_source(tmp_path)


@pytest.mark.parametrize("layout", ["{}-0.tar", "data/{}-00000-of-00001.tar", "default/{}/0000.tar", "{}/0000.tar"])
def test_shards_below_a_folder(tmp_path: Path, layout: str) -> None:
    for split in ("train", "test"):
        put_shard(tmp_path / layout.format(split), {"a.cls": split.encode(), "a.png": png()})
    (tmp_path / "README.md").write_text("a set")
    (tmp_path / ".git" / "objects").mkdir(parents=True)
    assert open_source(tmp_path).class_names == ("train",)
    assert open_source(tmp_path, split="test").class_names == ("test",)


def test_folders_around_a_set_and_around_several(tmp_path: Path) -> None:
    put(tmp_path, "CLS-LOC/train/cat/0.png", "CLS-LOC/train/dog/0.png", "CLS-LOC/val/cat/0.png", "notes/x.txt")
    source = open_source(tmp_path)
    assert source.class_names == ("cat", "dog") and source.ids[0] == "CLS-LOC/train/cat/0.png"
    put(tmp_path, "other/train/cat/0.png")
    with pytest.raises(SourceError, match=r"found in the folders 'CLS-LOC', 'other' splits, .*open one of them"):
        open_source(tmp_path)


def test_a_folder_one_level_too_high(tmp_path: Path) -> None:
    put(tmp_path, "data/cat/0.png", "data/dog/0.png")
    with pytest.raises(SourceError, match=r"found the one folder 'data', which has the folders 'cat', 'dog'; open"):
        open_source(tmp_path)
    put(tmp_path / "one", "cat/images/0.png")
    assert open_source(tmp_path / "one").class_names == ("cat",)


def test_classes_with_the_same_folders_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, *(f"{domain}/{name}/0.png" for domain in ("photo", "sketch") for name in ("cat", "dog")))
    assert open_source(tmp_path).class_names == ("photo", "sketch")
    assert "'photo', 'sketch' all have the folders 'cat', 'dog': if those are the classes, open one" in caplog.text


def test_splits_inside_classes_and_splits_without_classes(tmp_path: Path) -> None:
    put(tmp_path / "inside", *(f"{name}/{split}/0.png" for name in ("cat", "dog") for split in ("train", "test")))
    with pytest.raises(SourceError, match="found in the folders 'cat', 'dog' splits"):
        open_source(tmp_path / "inside")
    put(tmp_path / "flat", "train/0.png", "test/0.png")
    with pytest.raises(SourceError, match="found images without classes; if these are the classes"):
        open_source(tmp_path / "flat")


def test_tiny_imagenet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "train/n1/images/a.JPEG", "train/n2/images/b.JPEG", "val/images/v0.JPEG", "val/images/v1.JPEG")
    put(tmp_path, "test/images/t.JPEG")
    (tmp_path / "train/n1/n1_boxes.txt").write_text("a.JPEG\t0\t0\t1\t1\n")
    annotations = tmp_path / "val/val_annotations.txt"
    annotations.write_text("v1.JPEG\tn1\t0\t0\t1\t1\nv0.JPEG\tn2\t0\t0\t1\t1\n")
    source = open_source(tmp_path, split="test")
    assert source.class_names == open_source(tmp_path).class_names == ("n1", "n2")
    assert source.ids == ["val/images/v1.JPEG", "val/images/v0.JPEG"] and source.labels.tolist() == [0, 1]
    assert "the images in 'test' have no labels" in caplog.text
    assert open_source(tmp_path / "val").ids == ["images/v1.JPEG", "images/v0.JPEG"]
    for text, message in (
        ("v0.JPEG\tn1\n", "found none for 'v1.JPEG'"),
        ("v0.JPEG\tn1\nv0.JPEG\tn2\nv1.JPEG\tn1\n", "line 2: expected a file in 'images', each once"),
        ("v0.JPEG\n", "line 1: expected a file"),
        ("../x.JPEG\tn1\n", "line 1: expected a file"),
    ):
        annotations.write_text(text)
        with pytest.raises(FormatError, match=message):
            open_source(tmp_path, split="validation")
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(SourceError, match="a folder of labelled images for split 'test', found 'test', 'train'"):
        open_source(tmp_path, split="test")


@pytest.mark.parametrize("mark", ["-", "."])
@pytest.mark.parametrize("folder", [".", "MNIST/raw"])
def test_idx_names_and_folders(tmp_path: Path, mark: str, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for prefix, label in (("train", 3), ("t10k", 5)):
        images, labels = (f"{prefix}-{kind}{mark}idx{dims}-ubyte" for kind, dims in (("images", 3), ("labels", 1)))
        (tmp_path / folder / images).write_bytes(struct.pack(">4I", 0x803, 2, 4, 4) + bytes(32))
        (tmp_path / folder / labels).write_bytes(struct.pack(">2I", 0x801, 2) + bytes([label, label]))
    assert open_source(tmp_path).class_names == ("3",)
    assert open_source(tmp_path, split="testing").class_names == ("5",)


@pytest.mark.parametrize("name", ["train[1].tar", "[v2]/x.tar", "{a}.tar", "{a,b}/{c}/x.tar", "what?/x*.tar"])
def test_brackets_and_braces_of_a_path_that_exists(tmp_path: Path, name: str) -> None:
    put_shard(tmp_path / name)
    assert len(open_source(tmp_path / name)) == 1
    if "/" in name:
        assert len(open_source(str((tmp_path / name).parent / "*.tar"))) == 1
        assert len(open_source(str((tmp_path / name).parent / "{x,x}*.tar"))) == 2
