"""The matrix of parser × fault: every file is read or refused by its name, soon and with little memory."""

from __future__ import annotations

import io
from collections.abc import Iterator

import hostile
import numpy as np
import pytest
from hostile_records import MAKERS, record
from PIL import Image

from dap.data import batches
from dap.data.batches import ImageError, decode_batch
from dap.data.codecs import decode
from dap.errors import FormatError

NAMES = list(hostile.parsers())
LEDGERS = ("the ledger of a run", "the ledger of a worker")


@pytest.fixture(scope="module")
def reader() -> Iterator[hostile.Reader]:
    with hostile.Reader() as child:
        yield child


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_the_matrix(name: str, reader: hostile.Reader) -> None:
    cells = hostile.tried(hostile.parsers()[name], reader)
    print(hostile.matrix({name: cells}))
    assert [cell.problem for cell in cells.values() if cell.problem] == []
    assert {fault: cell.read + cell.refused for fault, cell in cells.items()} == {
        "truncated": 10, "bits flipped": 60, "sizes lying": 60, "bomb": 1, "empty": 1, "wrong magic": 1,
    }  # fmt: skip
    assert cells["bomb"].refused == cells["empty"].refused == cells["wrong magic"].refused == 1
    assert cells["truncated"].refused == 10 or name == "tar"  # the last blocks of a tar are padding


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_row_of_the_json_that_dap_writes(name: str, reader: hostile.Reader) -> None:
    cells = hostile.tried(record(name), reader)
    print(hostile.matrix({name: cells}))
    assert [cell.problem for cell in cells.values() if cell.problem] == []
    assert sum(cell.read + cell.refused for cell in cells.values()) == 133
    assert cells["bomb"].refused == cells["wrong magic"].refused == 1
    assert cells["empty"].refused == 1 or name in LEDGERS  # which has no line yet
    assert cells["truncated"].refused >= 9 or name in LEDGERS  # a torn last line is left out
    assert cells["bits flipped"].refused > 0


def test_a_matrix_says_what_went_wrong(reader: hostile.Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser whose error does not name the file, and one that dies."""
    parser = hostile.Parser({"x.png": b"x" * 700, "other.png": b"x" * 700}, "other.png", "x.png", b"")
    assert "not named" in hostile.tried(parser, reader)["empty"].problem
    monkeypatch.setattr(hostile, "READ", "import sys; sys.stdin.readline(); sys.exit(3)")
    with hostile.Reader() as child:
        assert hostile.tried(parser, child) == {"truncated": hostile.Cell(problem="the process died with 3")}


@pytest.mark.parametrize("options", [{}, {"compress_level": 0}], ids=["deflated", "stored"])
def test_every_flipped_bit_of_a_pngs_pixels_is_seen(options: dict[str, int]) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 9, 3), np.uint8)).save(stream, "PNG", **options)
    whole = stream.getvalue()
    start = whole.index(b"IDAT") + 4
    for place in range(start, whole.index(b"IEND") - 4):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(FormatError):
            decode(bytes(damaged))


@pytest.mark.parametrize("threads", [1, 3])
def test_nothing_is_read_after_a_file_that_cannot_be(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "CHUNK", 2)
    asked = []

    def read(index: int) -> bytes:
        asked.append(index)
        raise OSError("gone")

    with pytest.raises(ImageError, match="OSError: gone") as caught:
        decode_batch(read, range(100), size=4, channels=1, threads=threads)
    assert caught.value.index == 0 and asked == [0]
