"""The feature index as a format: what is written is read, by other programs too."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from toy_index import (  # noqa: F401 - fixtures
    FEATURES,
    LATENTS,
    ROWS,
    SHIRT,
    SPEC,
    build,
    content,
    fill,
    fixture_of_copied,
    fixture_of_whole,
    flip,
    toy_classes,
    values,
)  # fmt: skip

from dap.errors import FormatError, OptionError, RunMismatchError, StorageError
from dap.index import ClassRows, Index, IndexWriter, Moments, index_bytes, merge, open_index
from dap.index import reader as reader_module


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_written_is_read(tmp_path, dtype):
    index = build(tmp_path / "i", dtype=dtype, latent_dtype=dtype)
    assert [(each.name, each.label, each.rows) for each in index.classes] == [
        ("T-shirt/top", None, 600), ("Drêss", 1, 257), ("none", 2, 0),
    ]  # fmt: skip
    assert index.spec == dataclasses.replace(SPEC, dtype=dtype, latent_dtype=dtype) and len(index) == 857
    for each in toy_classes():
        assert index.ids(each.name) == each.ids
        expected = values(each.name, "z", ROWS[each.name], SPEC.latent_shape).astype(dtype)
        np.testing.assert_array_equal(index.latents(each.name), expected, strict=True)
        for timestep in index.timesteps:
            expected = values(each.name, timestep, ROWS[each.name], SPEC.feature_shape).astype(dtype)
            np.testing.assert_array_equal(index.features(each.name, timestep), expected, strict=True)
            chunks = list(index.chunks(each.name, timestep, rows=100))
            assert [len(chunk) for chunk in chunks[:-1]] == [100] * max(0, len(chunks) - 1)
            np.testing.assert_array_equal(np.concatenate([expected[:0], *chunks]), expected)
    index.verify()
    assert sorted(os.listdir(tmp_path / "i")) == sorted(["index.json", SHIRT, "Drêss", "none"])


def test_the_safetensors_package_reads_the_files(whole):
    tensors = load_file(whole / SHIRT / FEATURES)
    assert list(tensors) and set(tensors) == {"t0980", "t0500", "t12345"}
    np.testing.assert_array_equal(
        tensors["t0500"], values("T-shirt/top", 500, 600, (5,)).astype(np.float16), strict=True
    )
    with safe_open(whole / SHIRT / LATENTS, "np") as file:
        assert file.keys() == ["latents"] and file.get_slice("latents").get_shape() == [600, 2, 3, 1]
    (length,) = struct.unpack("<Q", (whole / SHIRT / FEATURES).read_bytes()[:8])
    assert (8 + length) % 64 == 0


def test_hashes_are_sha256_of_blocks(tmp_path, whole):
    entries = json.loads((whole / "index.json").read_text())["classes"]
    for entry in entries:
        for name, record in entry["files"].items():
            data = (whole / entry["folder"] / name).read_bytes()
            assert record["bytes"] == len(data)
            assert record["blocks"] == [
                hashlib.sha256(data[start : start + 2**20]).hexdigest() for start in range(0, len(data), 2**20)
            ]
    assert open_index(whole).hash == hashlib.sha256((whole / "index.json").read_bytes()).hexdigest()


def test_a_build_that_is_continued_has_the_same_bytes(whole, tmp_path):
    out = tmp_path / "i"
    fill(IndexWriter(out, SPEC, toy_classes()), limit=2)
    with pytest.raises(FormatError, match=r"index\.json: its build was stopped: build it again"):
        open_index(out)
    with (out / ".ledger.jsonl").open("ab") as ledger:
        ledger.write(b'{"class": "T-shi')  # killed here
    with pytest.raises(OptionError, match="still has 1 groups"):
        IndexWriter(out, SPEC, toy_classes()).finish()
    writer = IndexWriter(out, SPEC, toy_classes())
    assert writer.pending("T-shirt/top") == [(512, 600)] and len(writer.pending("Drêss")) == 2
    fill(writer, limit=2)
    (out / SHIRT / FEATURES).rename(out / SHIRT / f"{FEATURES}.partial")  # and here, before the ledger had its hashes
    ledger = (out / ".ledger.jsonl").read_bytes().split(b"\n")
    (out / ".ledger.jsonl").write_bytes(b"\n".join(line for line in ledger if b'"files"' not in line))
    writer = IndexWriter(out, SPEC, toy_classes())
    fill(writer)
    writer.finish()
    assert content(out) == content(whole)
    again = IndexWriter(out, SPEC, toy_classes())
    assert again.pending("T-shirt/top") == [] and again.finish().hash == open_index(whole).hash


def test_another_build_in_the_folder_is_refused(copied, tmp_path):
    other = dataclasses.replace(SPEC, block=5, timesteps=(1, 2))
    fill(IndexWriter(tmp_path / "stopped", SPEC, toy_classes()), limit=1)
    for folder in (copied, tmp_path / "stopped"):
        with pytest.raises(RunMismatchError, match=r"block: there 4, now 5; timesteps: there \[980, 500, 12345\]"):
            IndexWriter(folder, other, toy_classes())
        with pytest.raises(RunMismatchError, match="position: there 0, now 2"):
            IndexWriter(folder, SPEC, toy_classes()[::-1])
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "photo.png").touch()
    with pytest.raises(RunMismatchError, match="holds something else"):
        IndexWriter(tmp_path / "strange", SPEC, toy_classes())


def test_a_class_that_somebody_deleted_is_made_again(whole, tmp_path):
    out = tmp_path / "i"
    fill(IndexWriter(out, SPEC, toy_classes()), limit=4)
    shutil.rmtree(out / SHIRT)
    fill(IndexWriter(out, SPEC, toy_classes()), limit=1)
    writer = IndexWriter(out, SPEC, toy_classes())  # as after a kill
    assert writer.pending("T-shirt/top")
    fill(writer)
    writer.finish()
    assert content(out) == content(whole)


def test_two_writers_of_one_index_do_not_harm_each_other(whole, tmp_path):
    first, second = (IndexWriter(tmp_path / "i", SPEC, toy_classes()) for _ in range(2))
    fill(first, limit=2)
    fill(second, limit=1)  # what the first has written already
    fill(first)
    fill(second)
    assert first.finish().hash == second.finish().hash
    assert content(tmp_path / "i") == content(whole)


def test_a_build_keeps_other_writers_out(tmp_path):
    with (
        IndexWriter(tmp_path / "i", SPEC, toy_classes()).alone(),
        pytest.raises(StorageError, match="another process is writing to it"),
    ):
        IndexWriter(tmp_path / "i", SPEC, toy_classes())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": np.zeros((256, 2, 3))}, r"latents: expected shape \(256, 2, 3, 1\), got \(256, 2, 3\)"),
        ({"features": {980: np.zeros((256, 5))}}, r"expected the timesteps \(980, 500, 12345\), got \(980,\)"),
        ({"features": dict.fromkeys(SPEC.timesteps, np.full((256, 5), 7e4))}, "finite in float16"),
        ({"features": dict.fromkeys(SPEC.timesteps, np.full((256, 5), np.nan))}, "finite in float16"),
        ({"start": 100}, "no pending group from row 100"),
        ({"class_name": "Dress"}, "did you mean 'Drêss'"),
    ],
)
def test_a_group_that_does_not_fit_is_refused(tmp_path, change, message):
    writer = IndexWriter(tmp_path / "i", SPEC, toy_classes())
    group = {
        "class_name": "T-shirt/top", "start": 0, "latents": np.zeros((256, 2, 3, 1)),
        "features": dict.fromkeys(SPEC.timesteps, np.zeros((256, 5))),
    }  # fmt: skip
    with pytest.raises(OptionError, match=message):
        writer.write(**group | change)
    assert len(writer.pending("T-shirt/top")) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": (1, 1)}, "timesteps: expected different whole numbers"),
        ({"timesteps": ()}, "timesteps"), ({"timesteps": (True,)}, "timesteps"), ({"timesteps": [1]}, "timesteps"),
        ({"dtype": "int8"}, "dtype: expected float16 or float32, got 'int8'"),
        ({"noise": "none"}, "noise"), ({"block": 0}, "block"), ({"seed": 2**63}, "seed"),
        ({"feature_shape": (2**40, 2**40)}, "feature_shape"), ({"latent_shape": (0, 1, 1)}, "latent_shape"),
        ({"shard": (3, 2)}, r"shard: expected \(i, n\)"), ({"prior": 3}, "prior"),
        ({"source": {"name": "x"}}, "source: expected name, identity"),
    ],
)  # fmt: skip
def test_a_spec_is_checked(change, message):
    with pytest.raises(OptionError, match=message):
        dataclasses.replace(SPEC, **change)


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OptionError, match=r"the index takes [\d.]+ kB, the disk of .* has 1\.0 kB free"):
        IndexWriter(tmp_path / "i", SPEC, toy_classes())
    assert os.listdir(tmp_path) == []


def test_the_estimate_of_the_size(whole):
    actual = sum(len(data) for name, data in content(whole).items() if name.endswith("safetensors"))
    assert actual <= index_bytes(SPEC, list(ROWS.values())) <= actual + 3 * 500


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_merge_of_parts_is_the_whole(whole, tmp_path, parts):
    folders = [tmp_path / f"part{number}" for number in range(parts)]
    for number, folder in enumerate(folders, 1):
        build(folder, shard=(number, parts))
    merged = merge(folders[::-1], tmp_path / "merged")
    assert content(merged.path) == content(whole)


def test_parts_that_do_not_fit_are_refused(whole, tmp_path):
    one, two, strange = (tmp_path / name for name in ("one", "two", "strange"))
    build(one, shard=(1, 2))
    build(two, shard=(2, 2))
    build(strange, shard=(2, 2), seed=7)
    for parts, message in [
        ([one], "got 1/2"), ([one, one], "got 1/2, 1/2"), ([], "got none"), ([whole], "got a whole index"),
        ([one, strange], "different builds .seed: 0 and 7."),
    ]:  # fmt: skip
        with pytest.raises(OptionError, match=message):
            merge(parts, tmp_path / "out")
    flip(two / SHIRT / FEATURES, -1)
    with pytest.raises(FormatError, match=r"two/T-shirt%2Ftop/features\.safetensors: block 0"):
        merge([one, two], tmp_path / "out")
    short = dataclasses.replace(SPEC, shard=(2, 2))
    writer = IndexWriter(tmp_path / "short", short, [ClassRows(name, label, ()) for name, label in labels(one)])
    writer.finish()
    with pytest.raises(OptionError, match="part 1 has 344 rows of class 'T-shirt/top', expected 256 of 344"):
        merge([one, tmp_path / "short"], tmp_path / "out")


def labels(path):
    return [(each.name, each.label) for each in open_index(path).classes]


def test_moments_are_those_of_the_whole_class(whole):
    index = open_index(whole)
    rows = index.features("T-shirt/top", 500).astype(np.float64)
    np.testing.assert_allclose(index.mean("T-shirt/top", 500), rows.mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(index.covariance("T-shirt/top", 500), np.cov(rows.T), rtol=1e-12, atol=1e-15)
    both = index.moments("T-shirt/top", 500).merge(index.moments("Drêss", 500))
    rows = np.concatenate([rows, index.features("Drêss", 500).astype(np.float64)])
    assert both.count == 857
    np.testing.assert_allclose(both.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(both.covariance, np.cov(rows.T), rtol=1e-12, atol=1e-15)
    far = rows + 1e8  # a sum of squares would lose every digit
    chunks = Moments.of([far[:10], far[10:11], far[11:]], columns=5)
    np.testing.assert_allclose(chunks.covariance, np.cov(far.T), rtol=1e-6)
    with pytest.raises(OptionError, match="no rows"):
        index.mean("none", 500)
    with pytest.raises(OptionError, match="at least 2 rows"):
        index.covariance("none", 500)


def test_unknown_names_list_the_known(whole):
    index = open_index(whole)
    with pytest.raises(OptionError, match="unknown class 'Shirt'"):
        index.features("Shirt", 980)
    with pytest.raises(OptionError, match="timestep: this index has 980, 500, 12345, got 981"):
        index.features("Drêss", 981)


# Views


def test_to_torch_without_a_copy_or_a_warning_and_without_writing_the_file(whole):
    features = open_index(whole).features("Drêss", 980)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = torch.from_numpy(features)
    assert tensor.data_ptr() == features.ctypes.data and tensor.dtype == torch.float16
    before = (whole / "Drêss" / FEATURES).read_bytes()
    tensor.zero_()
    assert features.max() == 0 and (whole / "Drêss" / FEATURES).read_bytes() == before
    base = features
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and base.mode == "c"


def test_a_view_opens_its_own_file_once(copied, monkeypatch):
    opened = []
    real = reader_module._core.read_layout
    monkeypatch.setattr(reader_module._core, "read_layout", lambda path: opened.append(path) or real(path))
    index = open_index(copied)
    assert opened == []
    for _ in range(2):
        for timestep in index.timesteps:
            index.features("Drêss", timestep)
    index.latents("Drêss")
    assert opened == [copied / "Drêss" / FEATURES, copied / "Drêss" / LATENTS]
    maps = Path("/proc/self/maps")  # has files of other tests too, which are closed when their objects are collected
    if maps.exists():
        assert str(copied / SHIRT) not in maps.read_text() and str(copied / "Drêss") in maps.read_text()


def test_only_so_many_files_stay_open(whole, monkeypatch):
    monkeypatch.setattr(reader_module, "MAX_OPEN", 1)
    index = open_index(whole)
    first = index.features("T-shirt/top", 980)
    index.features("Drêss", 980)
    assert len(index._mapped) == 1
    np.testing.assert_array_equal(first, index.features("T-shirt/top", 980))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_workers_share_an_index(whole, method):
    index = open_index(whole)
    expected = index.mean("T-shirt/top", 500)  # its file is open now
    with multiprocessing.get_context(method).Pool(1) as pool:
        result = pool.apply_async(Index.mean, (index, "T-shirt/top", 500)).get(timeout=30)
    np.testing.assert_array_equal(result, expected)
    assert pickle.loads(pickle.dumps(index)).hash == index.hash and len(pickle.dumps(index)) < 500


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_reads_its_parents_view(whole):
    index = open_index(whole)
    view = index.features("T-shirt/top", 500)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put((view.tobytes(), index.features("Drêss", 500).tobytes())))
    process.start()
    try:
        assert queue.get(timeout=30) == (view.tobytes(), index.features("Drêss", 500).tobytes())
    finally:
        process.kill()
        process.join()


def test_to_numpy_and_faiss(whole):
    index = open_index(whole)
    rows = index.to_numpy("T-shirt/top", 980)
    expected = values("T-shirt/top", 980, 600, (5,)).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(rows, expected, strict=True)
    pytest.importorskip("faiss")
    _, nearest = index.to_faiss("T-shirt/top", 980).search(rows[7:8], 1)
    assert nearest[0, 0] == 7


def test_to_parquet(whole, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    index = open_index(whole)
    index.to_parquet(tmp_path / "i.parquet")
    table = pq.read_table(tmp_path / "i.parquet")
    assert table.column_names == ["class", "label", "id", "t0980", "t0500", "t12345"] and table.num_rows == 857
    rows = np.array(table["t0500"].to_pylist(), np.float32)
    expected = np.concatenate([index.to_numpy(name, 500) for name in ("T-shirt/top", "Drêss")])
    np.testing.assert_array_equal(rows, expected)
    assert table["label"].to_pylist() == [None] * 600 + [1] * 257
    assert table["class"].to_pylist()[599:601] == ["T-shirt/top", "Drêss"]
    assert os.listdir(tmp_path) == ["i.parquet"]


# Examples
