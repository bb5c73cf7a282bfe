"""The walk over class folders and shards: links, unreadable folders, image formats, what is counted, odd names."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_folder_layouts import png, put, put_shard

import dap
from dap.data.open import open_source
from dap.errors import FormatError, SourceError


def test_links_are_followed_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path, "set/cat/0.png", "set/dog/0.png", "more/1.png")
    for name in ("cat", "dog"):
        (tmp_path / "set" / name / "up").symlink_to("..")
        (tmp_path / "set" / name / "far").symlink_to("../..")
        (tmp_path / "set" / name / "more").symlink_to("../../more")
    (tmp_path / "set/up").symlink_to("..")
    (tmp_path / "set/same").symlink_to("dog")
    (tmp_path / "set/cat/lost.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "set/cat/pipe.png")
    source = open_source(tmp_path / "set")
    assert source.ids == ["cat/0.png", "cat/more/1.png", "dog/0.png"]
    skipped = dict(source.skipped)
    assert skipped.keys() == {
        "up",
        "cat/up",
        "cat/far",
        "dog/up",
        "dog/far",
        "dog/more",
        "same",
        "cat/lost.png",
        "cat/pipe.png",
    }
    assert skipped["cat/lost.png"] == "a broken link, or no regular file"
    assert "9 files or folders are not read (7 × a link to a folder that is read already" in caplog.text


def test_a_linked_class_folder_is_read(tmp_path: Path) -> None:
    put(tmp_path, "all/cat/0.png", "all/dog/0.png", "some/bus/0.png")
    (tmp_path / "some/cat").symlink_to("../all/cat")
    source = open_source(tmp_path / "some")
    assert source.ids == ["bus/0.png", "cat/0.png"] and not source.skipped


def test_unreadable_folders_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "cat/0.png", "cat/closed/1.png", "dog/0.png")
    scandir = os.scandir

    def denied(path: str | Path) -> object:
        if Path(path).name in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", denied)
    closed = {"closed"}
    source = open_source(tmp_path)
    assert source.ids == ["cat/0.png", "dog/0.png"]
    assert source.skipped == [("cat/closed", "a folder that cannot be read (Permission denied)")]
    closed = {"dog"}
    with pytest.raises(SourceError, match=r"found none in 'dog' \('dog: a folder that cannot be read \(Perm"):
        open_source(tmp_path)
    closed = {tmp_path.name}
    with pytest.raises(SourceError, match=r"expected a folder that can be read \(Permission denied\)"):
        open_source(tmp_path)


def test_all_image_formats_are_read_and_others_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    formats = {"a.png": "PNG", "b.jfif": "JPEG", "c.gif": "GIF", "d.TIF": "TIFF", "e.tiff": "TIFF", "f.ppm": "PPM"}
    for name, format in formats.items():
        put(tmp_path, f"cat/{name}", data=png(90, format))
    put(tmp_path, "cat/g.gif.txt", "cat/README", data=b"text")
    source = open_source(tmp_path)
    assert [Path(name).name for name in source.ids] == list(formats) and not source.skipped and not caplog.text
    images = source.images(range(len(source)), size=8, channels=3).astype(int)
    assert np.abs(images - np.array([90, 0, 0])[:, None, None]).max() <= 2
    assert all(source.pixels(index).shape == (3, 8, 8) for index in range(len(source)))
    put(tmp_path, "cat/h.avif", "cat/i.HEIC", "cat/0001", "cat/deep/j.avif")
    with caplog.at_level(logging.WARNING):
        source = open_source(tmp_path)
    assert dict(source.skipped) == {
        "cat/h.avif": ".avif", "cat/i.HEIC": ".heic", "cat/deep/j.avif": ".avif",
        "cat/0001": "a PNG file without an extension",
    }  # fmt: skip
    assert "4 files or folders are not read (" in caplog.text and "2 × .avif" in caplog.text
    assert source.subset(["cat"]).skipped == source.skipped


def test_samples_of_shards_without_a_readable_image_are_counted(tmp_path: Path) -> None:
    label = b'{"label": "cat"}'
    members = {"a.json": label, "a.png": png(), "b.json": label, "b.avif": b"x", "c.json": label, "c.raw": b"x"}
    put_shard(tmp_path / "x.tar", {**members, "d.json": label, "d.jpg": png(), "d.tif": b"depth", "meta.json": b"{}"})
    put_shard(tmp_path / "y.tar", {"e.json": b'{"label": "dog"}', "e.gif": png(70, "GIF")})
    source = open_source(tmp_path)
    assert source.ids == ["x.tar/a", "x.tar/d", "y.tar/e"] and source.class_names == ("cat", "dog")
    assert dict(source.skipped) == {"x.tar/b": ".avif", "x.tar/c": "a sample without an image"}
    assert source.images([2], size=8, channels=3)[0, 0, 0, 0] == 70


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP", "BMP"])
def test_the_content_says_what_a_file_is(tmp_path: Path, format: str) -> None:
    put(tmp_path, "cat/0.jpg", data=png(90, format))
    assert abs(int(open_source(tmp_path).images([0], size=8, channels=3)[0, 0, 0, 0]) - 90) <= 2


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x1cftypavif" + bytes(20), "an AVIF file"), (b"8BPS" + bytes(20), "a Photoshop file"),
        (b"<!DOCTYPE html><title>404", "an HTML page"), (b"", "an empty file"), (b"what", "one of an unknown kind"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS, whose file `git lfs pull` fetches"),
        (b"GIF89", "a GIF file"),
    ],
)  # fmt: skip
def test_other_contents_are_named(tmp_path: Path, data: bytes, kind: str) -> None:
    put(tmp_path, "cat/0.jpg", data=data)
    source = open_source(tmp_path)
    for read in (lambda: source.images([0], size=8, channels=3), lambda: source.appearance, lambda: source.pixels(0)):
        with pytest.raises(FormatError) as caught:
            read()
        assert f"PNG, JPEG, WebP, BMP, GIF, TIFF or PNM, got {kind}" in str(caught.value)
        assert "0x" not in str(caught.value) and "cat/0.jpg" in str(caught.value)


@pytest.mark.parametrize("suffix", [".tar", ".safetensors"])
def test_shards_whose_names_are_no_utf8(tmp_path: Path, suffix: str) -> None:
    shard = tmp_path / os.fsdecode(b"s\xe9t" + suffix.encode())
    if suffix == ".tar":
        put_shard(shard, {"a.cls": b"0", "a.png": png()})
    else:
        save_file({"images": np.zeros((1, 1, 8, 8), np.uint8), "labels": np.zeros(1, np.int64)}, tmp_path / "x")
        (tmp_path / "x").rename(shard)
    for path in (shard, tmp_path):
        source = open_source(path)
        assert source.images([0], size=8, channels=1).shape == (1, 1, 8, 8)
        assert "".join((source.name, *source.ids)).isascii() and len(source.identity()) == 64


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    root = os.fsdecode(os.fsencode(tmp_path) + b"/s\xe9t")
    put(Path(root), os.fsdecode(b"caf\xe9/\xe8.png"), "tea/0.png")
    source = open_source(root)
    assert source.class_names == source.source_ids == ("caf%E9", "tea") and source.name.endswith("s%E9t")
    assert source.ids == ["caf%E9/%E8.png", "tea/0.png"]
    assert source.images([0], size=8, channels=1).shape == (1, 1, 8, 8) and len(source.identity()) == 64


def test_a_run_of_names_that_are_no_utf8_is_written_and_read(tmp_path: Path) -> None:
    put(tmp_path / os.fsdecode(b"s\xe9t"), os.fsdecode(b"caf\xe9/\xe8.png"), "tea/0.png")
    run = dap.distill(tmp_path / os.fsdecode(b"s\xe9t"), out=tmp_path / "out", method="random", ipc=1, progress=False)
    assert run.class_names == dap.load(tmp_path / "out").class_names == ("caf%E9", "tea")
