"""Class names as folders, PNG bytes, and the idx format."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from dap.data.idx import read_idx
from dap.data.image_files import encode_png
from dap.data.names import escape, some, unescape
from dap.errors import FormatError

DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³")}


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text(st.characters() | st.sampled_from('.%/\\:*?"<>| \x00\x7f'), max_size=12))
@example("")
@example("%")
@example("T-shirt/top")
@example("..")
@example("con")
@example("LPT³ .tar.gz")
@example("a. . ")
@example("\ud800")
def test_escape_is_reversible_and_safe_on_every_file_system(name: str) -> None:
    folder = escape(name)
    assert unescape(folder) == name
    assert folder and folder.encode()  # no lone surrogate is left
    assert not set(folder) & set('/\\:*?"<>|')
    assert all(ord(character) >= 32 and not 127 <= ord(character) < 160 for character in folder)
    assert not folder.startswith(".") and not folder.endswith((".", " "))
    assert folder.split(".")[0].rstrip(" ").lower() not in DEVICES


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text(st.sampled_from("%0124Fa./xé"), min_size=1, max_size=10))
@example("%2f")
@example("100%")
@example("%FF")
def test_a_foreign_folder_name_stays_literal(folder: str) -> None:
    name = unescape(folder)
    assert escape(name) == folder or name == folder


def test_escape_keeps_readable_names_readable() -> None:
    assert escape("Ankle boot") == "Ankle boot"
    assert escape("Köln 名前") == "Köln 名前"
    assert escape("T-shirt/top") == "T-shirt%2Ftop"
    assert [escape(name) for name in ("CON", "console", ".git", "etc.", "50%")] == [
        "%43ON", "console", "%2Egit", "etc%2E", "50%25",
    ]  # fmt: skip
    assert unescape("%41") == "%41" and unescape("%2f") == "%2f" and unescape("%FF") == "%FF"


def test_some_shortens_long_lists() -> None:
    assert some(["a"]) == "'a'"
    assert some(list(range(8))) == "0, 1, 2, 3, 4 and 3 more"


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (channels, 9, 7), np.uint8)
    data = encode_png(image)
    decoded = Image.open(io.BytesIO(data))
    assert decoded.mode == ("L" if channels == 1 else "RGB")
    np.testing.assert_array_equal(np.asarray(decoded).reshape(9, 7, channels).transpose(2, 0, 1), image)
    assert encode_png(np.asfortranarray(image)) == data


def test_png_refuses_other_shapes_and_dtypes() -> None:
    for image in (np.zeros((2, 4, 4), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.float32)):
        with pytest.raises(ValueError, match="expected uint8"):
            encode_png(image)


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".xz", lzma.compress)])
def test_idx_reads_back_and_lies_are_refused(tmp_path: Path, suffix: str, pack: object) -> None:
    assert callable(pack)
    array = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    whole = idx_bytes(array)
    path = tmp_path / f"images{suffix}"
    path.write_bytes(pack(whole))
    np.testing.assert_array_equal(read_idx(path), array)

    lies = {
        "only 29": whole[:-1],
        "holds more": whole + b"\0",
        "more than": struct.pack(">HBB2I", 0, 8, 2, 10**9, 10**9) + b"\0" * 50,  # claims 10^18 bytes
        "only 50": struct.pack(">HBB2I", 0, 8, 2, 20_000, 40_000) + b"\0" * 50,  # the largest claim that is believed
        "more than 800000000": struct.pack(">HBB2I", 0, 8, 2, 20_000, 40_001) + b"\0" * 50,
        "got magic": struct.pack(">HBB1I", 0, 13, 1, 4) + b"\0" * 16,  # float32
        "truncated": whole[:6],
    }
    for message, data in lies.items():
        path.write_bytes(pack(data))
        with pytest.raises(FormatError, match=message) as caught:
            read_idx(path)
        assert str(path) in str(caught.value)
    path.write_bytes(pack(whole[:16]))  # other items than are expected are refused before a value is read
    with pytest.raises(FormatError, match="expected 7 images, as many as labels, got 2"):
        read_idx(path, count=7)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_damaged_compression_is_a_format_error(tmp_path: Path, suffix: str, pack: object) -> None:
    assert callable(pack)
    packed = pack(idx_bytes(np.random.default_rng(0).integers(0, 256, (40, 10, 10), np.uint8)))
    for data in (packed[:-30], packed[:100] + bytes(50) + packed[150:], b"not compressed at all", b""):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(data)
        with pytest.raises(FormatError, match="truncated or damaged"):
            read_idx(path)


def test_idx_allocates_what_is_there_and_not_what_is_claimed(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "x"
    path.write_bytes(struct.pack(">HBB1I", 0, 8, 1, (1 << 32) - 1) + b"\0" * 50)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            read_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
