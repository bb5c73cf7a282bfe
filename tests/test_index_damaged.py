"""Indexes that are damaged or hostile are refused, with the name of what is wrong."""

from __future__ import annotations

import json
import re
import shutil
import struct
import tracemalloc

import pytest
from toy_index import (  # noqa: F401 - fixtures
    FEATURES,
    LATENTS,
    SHIRT,
    SPEC,
    fill,
    fixture_of_copied,
    fixture_of_whole,
    flip,
    header,
    tensor,
    toy_classes,
)  # fmt: skip

from dap.errors import FormatError
from dap.index import IndexWriter, open_index


def refused(folder, *, by_verify=False):
    """The message that names what is wrong, given by opening, the first view, or ``verify``; allocates little."""
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as caught:
            index = open_index(folder)
            if not by_verify:
                for each in index.classes:
                    index.features(each.name, 980)
                    index.latents(each.name)
                    index.ids(each.name)
            index.verify()
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    return str(caught.value)


@pytest.mark.parametrize("name", [FEATURES, LATENTS, "ids.json"])
@pytest.mark.parametrize("position", [0, 1000, -1])
def test_verify_finds_a_flipped_byte(copied, name, position):
    flip(copied / SHIRT / name, position)
    message = refused(copied, by_verify=True)
    assert f"{SHIRT}/{name}" in message and "block 0 (from byte 0)" in message


@pytest.mark.parametrize("name", [f"{SHIRT}/{FEATURES}", f"{SHIRT}/{LATENTS}", f"{SHIRT}/ids.json", "index.json"])
def test_a_truncated_or_missing_file_is_named(copied, name):
    file = copied / name
    data = file.read_bytes()
    for length in (len(data) - 2, len(data) // 2, 9, 0):
        file.write_bytes(data[:length])
        with pytest.raises(FormatError, match=re.escape(name)):
            open_index(copied)
    file.unlink()
    with pytest.raises(FormatError, match=re.escape(name)):
        open_index(copied)


SIZE = 600 * 5 * 2
TRUE = {f"t{t:04d}": tensor([600, 5], n * SIZE, (n + 1) * SIZE) for n, t in enumerate(SPEC.timesteps)}


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (header(TRUE | {"t0980": tensor([10**18, 1152], 0, SIZE)}), "claims the shape .1000000000000000000, 1152."),
        (header(TRUE | {"t0980": tensor([10**18], 0, 2 * 10**18)}), "the tensors end at byte|gap or an overlap"),
        (header(TRUE | {"t0500": tensor([600, 5], 0, SIZE)}), "gap or an overlap"),
        (header(TRUE | {"t0500": tensor([600, 5], SIZE - 2, 2 * SIZE - 2)}), "gap or an overlap"),
        (header(TRUE | {"t0980": tensor([1500], 0, SIZE, "F32")}), "each float16 with shape .600, 5."),
        (header(TRUE | {"t0980": tensor([3000], 0, SIZE)}), "each float16 with shape .600, 5."),
        (header(TRUE | {"t0980": tensor([600, 5], 0, SIZE, "BF16")}), 'dtype "BF16", expected F16 or F32'),
        (header(TRUE | {"t0980": tensor([-600, 5], 0, SIZE)}), "not what safetensors writes"),
        (header({name.replace("t", "u"): each for name, each in TRUE.items()}), "t0980, t0500, t12345"),
        (struct.pack("<Q", len(header(TRUE)) - 7) + header(TRUE)[8:] + b" ", "aligned to its values"),
        (header(b'{"t":' * 200_000), "not what safetensors writes"),
        (struct.pack("<Q", 2**63) + b"{}", "a header of 9223372036854775808 bytes"),
        (struct.pack("<Q", 10**8) + b"{}", "should end at byte 100000008"),
    ],
)
def test_a_header_that_lies_is_refused(copied, start, message):
    """The file has the size that index.json says, and its hash would not be looked at before a view is made."""
    file = copied / SHIRT / FEATURES
    size = len(start) + 3 * SIZE
    file.write_bytes(start + bytes(3 * SIZE))
    values = json.loads((copied / "index.json").read_text())
    values["classes"][0]["files"][FEATURES] = {"bytes": size, "blocks": ["0" * 64]}
    (copied / "index.json").write_text(json.dumps(values))
    found = refused(copied)
    assert f"{SHIRT}/{FEATURES}" in found and re.search(message, found)


def set_in(values, path, value):
    *parents, last = path
    for key in parents:
        values = values[key]
    values[last] = value


FILE = ("classes", 0, "files", FEATURES)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), 2), (("schema",), True), (("schema",), None), (("new",), 1), (("block_bytes",), 10**18),
        (("timesteps",), [980, 980, 1]), (("timesteps",), [980, -1, 1]), (("timesteps",), {}), (("timesteps",), 10**18),
        (("feature_shape",), [10**18]), (("feature_shape",), [5.0]), (("feature_shape",), [-5]), (("dtype",), "object"),
        (("feature_shape",), [6]), (("latent_shape",), [2, 3, 10**18]), (("latent_shape",), [2, 3]), (("seed",), -1),
        (("noise",), ["own"]), (("shard",), [0, 0]), (("shard",), "1/2"), (("source",), []), (("block",), 1e3),
        (("classes",), []), (("classes",), {}), (("classes", 0), None), (("classes", 0, "rows"), 10**18),
        (("classes", 0, "rows"), -1), (("classes", 0, "rows"), "600"), (("classes", 0, "rows"), 2**39),
        (("classes", 0, "folder"), "../copied/none"), (("classes", 0, "folder"), "/etc"), (("classes", 0, "name"), 3),
        (("classes", 0, "folder"), "none"), (("classes", 0, "label"), -1), (("classes", 0, "label"), "0"),
        ((*FILE, "bytes"), -1), ((*FILE, "bytes"), 10**18), ((*FILE, "bytes"), 10**30), ((*FILE, "blocks"), []),
        ((*FILE, "blocks"), ["0" * 63]), ((*FILE, "blocks"), [0]), ((*FILE, "blocks"), None),
        (("classes", 0, "files"), {}), (("classes", 0, "extra"), 1),
    ],
    ids=str,
)  # fmt: skip
def test_an_index_json_that_lies_is_refused(copied, path, value):
    values = json.loads((copied / "index.json").read_text())
    set_in(values, path, value)
    (copied / "index.json").write_text(json.dumps(values))
    assert "index.json: " in refused(copied)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[" * 200_000,
        '{"a":' * 200_000,
        "9" * 10_000,
        '{"schema": NaN}',
        "\xff",
        '{"schema": 1} 2',
        "\ud800",
    ],
    ids=lambda text: text[:20],
)
def test_an_index_json_that_is_no_json_is_refused(copied, text):
    (copied / "index.json").write_bytes(text.encode("latin-1", "surrogatepass" if "\ud800" not in text else "replace"))
    assert re.search(r"index\.json: (schema: )?expected", refused(copied))


def test_ids_that_are_not_texts_are_refused(copied):
    for text in ('["a"]', json.dumps([1] * 600), "{}", "[" * 10_000):
        file = copied / SHIRT / "ids.json"
        file.write_text(text)
        values = json.loads((copied / "index.json").read_text())
        set_in(values, ("classes", 0, "files", "ids.json", "bytes"), file.stat().st_size)
        (copied / "index.json").write_text(json.dumps(values))
        assert re.search(r"ids\.json: (\[0\]: )?expected", refused(copied))


def test_links_are_refused(copied, tmp_path):
    shutil.move(copied / SHIRT, tmp_path / "elsewhere")
    (copied / SHIRT).symlink_to(tmp_path / "elsewhere")
    assert f"{SHIRT}: expected a folder, not a link" in refused(copied)
    (copied / SHIRT).unlink()
    shutil.copytree(tmp_path / "elsewhere", copied / SHIRT)
    (copied / SHIRT / LATENTS).unlink()
    (copied / SHIRT / LATENTS).symlink_to(tmp_path / "elsewhere" / LATENTS)
    assert f"{SHIRT}/{LATENTS}: expected a file, not a link" in refused(copied)


def test_two_classes_of_one_name_are_refused(copied):
    values = json.loads((copied / "index.json").read_text())
    values["classes"].append(values["classes"][0])
    (copied / "index.json").write_text(json.dumps(values))
    assert "two classes have one name" in refused(copied)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(FormatError, match=r"nowhere/index\.json: no feature index"):
        open_index(tmp_path / "nowhere")


def test_a_damaged_ledger_is_refused(tmp_path):
    fill(IndexWriter(tmp_path / "i", SPEC, toy_classes()), limit=1)
    ledger = tmp_path / "i" / ".ledger.jsonl"
    first = ledger.read_bytes().split(b"\n")[0]
    for damage in (
        b"\x00\n",
        first + b"\n{]\n",
        first + b'\n{"class": "x", "start": 0}\n',
        first + b"\n[]\n",
        first + b'\n{"class": 3, "start": 0}\n',
        first + b'\n{"class": "Bag", "files": {"x": 1}}\n',
        first + b'\n{"class": "Bag", "start": 1e9}\n',
    ):
        ledger.write_bytes(damage)
        with pytest.raises(FormatError, match=r"ledger\.jsonl: damaged"):
            IndexWriter(tmp_path / "i", SPEC, toy_classes())
