"""WebDataset shards: what the ``webdataset`` package writes is read, and the other way round; names, labels, URLs."""

from __future__ import annotations

import gc
import io
import json
import pickle
import tarfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from dap.data.open import open_source
from dap.data.packing import pack_source
from dap.data.shard_paths import expand_braces
from dap.errors import FormatError, SourceError
from dap.storage.cache import cache_folder

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write(path: Path, samples: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"s{number}", **sample})
    return path


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """Three shards of ShardWriter."""
    with webdataset.ShardWriter(str(tmp_path / "set-%06d.tar"), maxcount=3, verbose=0) as writer:
        for number, pixels in enumerate(PIXELS):
            writer.write({"__key__": f"folder.x/{number:03d}", "png": png(pixels), "cls": number % 3})
    return tmp_path


def test_what_shardwriter_writes_is_read(theirs: Path) -> None:
    for spec in (theirs, theirs / "set-*.tar", f"{theirs}/set-{{000000..000002}}.tar"):
        source = open_source(spec)
        assert source.ids[2:4] == ["set-000000.tar/folder.x/002", "set-000001.tar/folder.x/003"]
        assert source.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
        assert source.class_names == ("0", "1", "2")
        np.testing.assert_array_equal(source.images(range(7), size=8, channels=3), PIXELS.transpose(0, 3, 1, 2))
    assert open_source(theirs / "set-000002.tar").labels.tolist() == [0]
    assert open_source(theirs).identity() != open_source(theirs / "set-000002.tar").identity()


def test_webdataset_reads_what_is_packed(tmp_path: Path, theirs: Path) -> None:
    (theirs / "classes.json").write_text(json.dumps({"0": "a.b", "1": "b/c", "2": "c"}))
    source = open_source(theirs)
    assert source.class_names == ("a.b", "b/c", "c")
    out = tmp_path.with_name(f"{tmp_path.name}-packed")  # not among the shards
    pack_source(source, out, format="webdataset", maxcount=4)
    dataset = webdataset.WebDataset(f"{out}/train-{{000000..000001}}.tar", shardshuffle=False).decode("rgb8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves the last shard open
        samples = list(dataset.to_tuple("__key__", "png", "cls"))
        del dataset
        gc.collect()
    assert [key for key, _, _ in samples[:4]] == ["a.b/00000", "b%2Fc/00000", "c/00000", "a.b/00001"]
    assert [label for _, _, label in samples] == source.labels.tolist()
    np.testing.assert_array_equal(np.stack([pixels for _, pixels, _ in samples]), PIXELS)
    again = open_source(out)
    assert again.class_names == source.class_names
    assert again.read is not None
    assert again.read(5) == png(PIXELS[5])
    with tarfile.open(out / "train-000000.tar") as archive:
        for member in archive:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode) == (
                0, 0, 0, "", "", 0o644,
            )  # fmt: skip


def test_threads_and_copies_read_the_same(theirs: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(theirs).shard(1, 2)))
    assert source.read is not None
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(source.read, [0, 1, 2] * 50))
    assert read == [png(PIXELS[index]) for index in (1, 3, 5)] * 50


def test_labels_of_other_kinds(tmp_path: Path) -> None:
    image = png(PIXELS[0])
    write(tmp_path / "json" / "a.tar", [{"png": image, "json": {"label": 4}}, {"png": image, "json": {"class": 2}}])
    assert open_source(tmp_path / "json").source_ids == (2, 4)
    write(tmp_path / "text" / "a.tar", [{"png": image, "cls": "dog"}, {"input.png": image, "cls": "cat"}])
    text = open_source(tmp_path / "text")
    assert (text.class_names, text.labels.tolist()) == (("cat", "dog"), [1, 0])
    write(tmp_path / "extra" / "a.tar", [{"txt": "no sample"}, {"PNG": image, "cls": 0, "txt": "a caption"}])
    assert open_source(tmp_path / "extra").ids == ["a.tar/s1"]
    (tmp_path / "extra" / "classes.json").write_text('{"name": 1}')
    with pytest.raises(FormatError, match=r"classes\.json: expected class names"):
        open_source(tmp_path / "extra")


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"png": png(PIXELS[0])}, r"a\.tar: 's0' has no label: expected a member cls, or json, found 'png'"),
        ({"cls": 3}, r"a\.tar: expected one image of 's0', found none"),
        ({"png": b"x", "jpg": b"x", "cls": 3}, r"a\.tar: expected one image of 's0', found 'jpg', 'png'"),
        ({"png": b"x", "cls": " \n"}, r"a\.tar: the cls of 's0' is empty"),
        ({"png": b"x", "json": b"[1]"}, r"a\.tar: the json of 's0' holds no label"),
        ({"png": b"x", "json": b"[" * 100_000}, r"a\.tar: the json of 's0' holds no label"),
        ({"png": b"x", "cls": b"\xff"}, r"a\.tar: the cls of 's0' holds no label"),
        ({"png": b"x", "cls": b"1" * (1 << 20 | 1)}, r"a\.tar: the cls of 's0' has 1048577 bytes"),
    ],
)
def test_samples_that_are_refused(tmp_path: Path, sample: dict[str, object], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        open_source(write(tmp_path / "a.tar", [sample]))


def test_keys_apart_and_labels_of_two_kinds(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("a.png", "b.png", "a.cls"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(FormatError, match=r"a\.tar: expected the members of 'a' once and next to each other"):
        open_source(tmp_path / "a.tar")
    with pytest.raises(FormatError, match="all numbers or all text"):
        open_source(write(tmp_path / "b.tar", [{"png": b"x", "cls": 1}, {"png": b"x", "cls": "one"}]))


def test_urls_are_fetched_once(tmp_path: Path, theirs: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in theirs.glob("*.tar"):
        memory.pipe(f"/remote/{file.name}", file.read_bytes())
    source = open_source("memory://remote/set-{000000..000002}.tar")
    memory.rm("/remote", recursive=True)
    assert source.identity() == open_source("memory://remote/set-{000000..000002}.tar").identity()
    np.testing.assert_array_equal(source.images([6], size=8, channels=3)[0], PIXELS[6].transpose(2, 0, 1))
    assert len(list(cache_folder().rglob("set-*.tar"))) == 3
    with pytest.raises(SourceError, match=r"memory://remote/gone\.tar: cannot be fetched \(FileNotFoundError"):
        open_source("memory://remote/gone.tar")
    assert not list(cache_folder().rglob(".tmp-*"))


@pytest.mark.parametrize("beside", ["pack.json", "classes.json"])
def test_class_names_come_with_urls(tmp_path: Path, theirs: Path, beside: str) -> None:
    import fsspec

    memory, names = fsspec.filesystem("memory"), [f"thing {label}" for label in range(10)]
    memory.pipe(f"/{beside}/{beside}", json.dumps({"class_names": names} if beside == "pack.json" else names).encode())
    for file in theirs.glob("*.tar"):
        memory.pipe(f"/{beside}/{file.name}", file.read_bytes())
    url = f"memory://{beside}/" + "set-{000000..000002}.tar"
    source = open_source(url)
    memory.rm(f"/{beside}", recursive=True)
    assert set(source.class_names) <= set(names)
    assert source.class_names == open_source(url).class_names


def test_splits_and_braces(tmp_path: Path) -> None:
    image = png(PIXELS[0])
    for split, label in (("train", 0), ("val", 1)):
        write(tmp_path / f"{split}-000000.tar", [{"png": image, "cls": label}])
    assert open_source(tmp_path).source_ids == (0,)
    assert open_source(tmp_path, split="test").source_ids == (1,)
    with pytest.raises(SourceError, match="expected shards for split 'extra', found those of 'train', 'validation'"):
        open_source(tmp_path, split="extra")
    assert expand_braces("a{1..2}b{x,}") == ["a1bx", "a1b", "a2bx", "a2b"]
    for pattern in ("{2..1}", "{0..99999999}", "{0..9999}{0..9999}"):
        with pytest.raises(SourceError, match="runs forwards"):
            expand_braces(pattern)
    with pytest.raises(SourceError, match=r"found none called '.*train-000001\.tar'"):
        open_source(f"{tmp_path}/train-{{000000..000001}}.tar")
