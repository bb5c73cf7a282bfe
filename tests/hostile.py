"""A matrix of all parsers and all kinds of damage: ``python tests/hostile.py`` prints it.

The parsers are those of image files, here, and those of dap's own JSON, in ``hostile_records.py``. They run in another
process, which reports for each file whether it was read or refused with an error that names the file, how long that
took, and the peak of its memory. Anything else is a bug and stands in the last column: an error without the name
or of another class, a crash, a file that takes 5 s.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

SECONDS, BYTES = 5.0, 1e9
SIDE = 48

READ = """
import json, sys, time
from pathlib import Path
from dap.data.open import open_source
from dap.errors import FormatError, RunMismatchError, SourceError

def peak():  # getrusage would return the parent's peak if that is higher
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

parser = None
for line in sys.stdin:
    imports, code, folder, opened, name = json.loads(line)
    if parser != (imports, code, name):
        parser = (imports, code, name)
        exec(imports)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
        before = peak()
    start, problem = time.monotonic(), ""
    try:
        exec(code)
        outcome = "read"
    except (FormatError, RunMismatchError, SourceError) as error:
        outcome = "refused"
        if name not in str(error) and not (imports and folder in str(error)) or "\\n" in str(error):
            problem = f"not named: {error}"
    except BaseException as error:
        outcome, problem = "refused", f"{type(error).__name__}: {error}"
    print(json.dumps([outcome, time.monotonic() - start, peak() - before, problem]), flush=True)
"""


IMAGES = "source = open_source(opened); source.images(range(len(source)), size=8, channels=3)"


@dataclass(frozen=True)
class Parser:
    """One format: the files of a folder, which of them is damaged, and code that reads ``opened`` or the ``folder``."""

    files: dict[str, bytes]
    damaged: str
    opened: str
    bomb: bytes
    code: str = IMAGES
    imports: str = ""


@dataclass
class Cell:
    """The results for the files of one kind of damage."""

    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    bytes: int = 0
    problem: str = ""


def faults(parser: Parser) -> Iterator[tuple[str, bytes]]:
    data = parser.files[parser.damaged]
    yield from (("truncated", data[: len(data) * part // 11]) for part in range(1, 11))
    for seed in range(60):
        draw, flipped = np.random.default_rng(seed), bytearray(data)
        for place in draw.integers(0, len(data) if seed % 2 else min(200, len(data)), 3):
            flipped[place] ^= 1 << int(draw.integers(8))
        yield "bits flipped", bytes(flipped)
    for seed in range(60):  # near both ends, where sizes are stored
        draw, lying = np.random.default_rng(seed), bytearray(data)
        place = int(draw.integers(min(600, len(data) - 4)))
        place = place if seed % 2 else len(data) - 4 - place
        lying[place : place + 4] = (b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"7777", b"\0\0\0\0")[seed % 4]
        yield "sizes lying", bytes(lying)
    yield "bomb", parser.bomb
    yield "empty", b""
    yield "wrong magic", b"NOTMAGIC" + data[8:]


def encoded(format: str, seed: int = 0, **options: object) -> bytes:
    smooth = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(smooth).resize((SIDE, SIDE)).save(stream, format, **options)
    return stream.getvalue()


def png_bomb() -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**8))) + chunk(b"IEND", b"")


def jpeg_bomb() -> bytes:
    data = bytearray(encoded("JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", 65500, 65500)
    return bytes(data)


def webp_bomb() -> bytes:
    data = bytearray(encoded("WEBP"))
    place = data.index(b"\x9d\x01\x2a") + 3
    data[place : place + 4] = struct.pack("<HH", 16383, 16383)
    return bytes(data)


def gif_bomb() -> bytes:
    data = bytearray(encoded("GIF"))
    data[6:10] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def tiff_bomb() -> bytes:
    data = encoded("TIFF", compression="tiff_deflate")
    for tag in (256, 257):  # width and height
        place = data.index(struct.pack("<HHI", tag, 3, 1)) + 8
        data = data[:place] + struct.pack("<I", 60_000) + data[place + 4 :]
    return data


def tar(members: dict[str, bytes], claimed: int | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    if claimed is None:
        return stream.getvalue()
    info = tarfile.TarInfo("large.png")
    info.size = claimed
    return info.tobuf(tarfile.USTAR_FORMAT) + stream.getvalue()


def parquet(values: list[bytes]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table({"image": pa.array(values), "label": [0] * len(values)}), stream)
    return stream.getvalue()


def safetensors(shape: list[int] | None = None) -> bytes:
    images, labels = np.zeros((4, 1, SIDE, SIDE), np.uint8), np.arange(4, dtype="<i8")
    ends = images.nbytes if shape is None else int(np.prod(shape, dtype=object))
    header = json.dumps(
        {
            "images": {"dtype": "U8", "shape": shape or images.shape, "data_offsets": [0, ends]},
            "labels": {"dtype": "I64", "shape": [4], "data_offsets": [ends, ends + labels.nbytes]},
        }
    ).encode()
    return struct.pack("<Q", len(header)) + header + images.tobytes() + labels.tobytes()


def idx(count: int) -> bytes:
    return struct.pack(">IIII", 0x803, count, SIDE, SIDE)


@cache
def parsers() -> dict[str, Parser]:
    table = {}
    for name, suffix, format, options, bomb in (
        ("JPEG", "jpg", "JPEG", {}, jpeg_bomb()),
        ("PNG", "png", "PNG", {}, png_bomb()),
        ("WebP", "webp", "WEBP", {}, webp_bomb()),
        ("WebP, lossless", "webp", "WEBP", {"lossless": True}, webp_bomb()),
        ("GIF", "gif", "GIF", {}, gif_bomb()),
        ("TIFF", "tif", "TIFF", {}, tiff_bomb()),
        ("TIFF, deflate", "tif", "TIFF", {"compression": "tiff_deflate"}, tiff_bomb()),
        ("PNM", "ppm", "PPM", {}, b"P6 60000 60000 255\n" + bytes(100)),
    ):
        files = {f"a/0.{suffix}": encoded(format, **options), "b/0.png": encoded("PNG")}
        table[name] = Parser(files, f"a/0.{suffix}", ".", bomb)
    images = [encoded("PNG", seed) for seed in range(4)]
    members = {f"{n}.{ext}": data for n in range(4) for ext, data in (("cls", b"%d" % n), ("png", images[n]))}
    table["tar"] = Parser({"x.tar": tar(members)}, "x.tar", "x.tar", tar(members, claimed=8**11 - 1))
    bomb = parquet([bytes(10**6)] * 2000)  # one value, stored once
    table["Parquet"] = Parser({"x.parquet": parquet(images)}, "x.parquet", "x.parquet", bomb)
    lying = safetensors([2**40, 3, 1000, 1000])
    table["safetensors"] = Parser({"x.safetensors": safetensors()}, "x.safetensors", "x.safetensors", lying)
    labels, pixels = "train-labels-idx1-ubyte.gz", "train-images-idx3-ubyte.gz"
    four = {labels: gzip.compress(struct.pack(">II", 0x801, 4) + bytes([0, 1, 2, 3]))}
    four |= {name.replace("train", "t10k"): data for name, data in four.items()}
    four |= {pixels: gzip.compress(idx(4) + bytes(4 * SIDE * SIDE), mtime=0)}
    four |= {"t10k-images-idx3-ubyte.gz": four[pixels]}
    inflates = gzip.compress(idx(790_000_000 // SIDE**2)) + gzip.compress(bytes(2**24)) * 128
    table["idx.gz"] = Parser(four, pixels, ".", inflates)
    plain = {name.removesuffix(".gz"): gzip.decompress(data) for name, data in four.items()}
    table["idx"] = Parser(plain, pixels.removesuffix(".gz"), ".", idx(2**31 - 1) + bytes(100))
    return table


class Reader(subprocess.Popen[str]):
    """The process that reads files, for as many parsers as there are."""

    def __init__(self) -> None:
        super().__init__([sys.executable, "-c", READ], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, *line: str) -> str:
        """Return the report about a file; nothing if the process died."""
        assert self.stdin is not None and self.stdout is not None
        self.stdin.write(json.dumps(line) + "\n")
        self.stdin.flush()
        return self.stdout.readline()


def tried(parser: Parser, child: Reader) -> dict[str, Cell]:
    """Return the row of a parser."""
    cells: dict[str, Cell] = {}
    with tempfile.TemporaryDirectory() as place:
        for number, (fault, data) in enumerate(faults(parser)):
            folder = Path(place, str(number))
            for name, content in (parser.files | {parser.damaged: data}).items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            cell = cells.setdefault(fault, Cell())
            names = (str(folder), str(folder / parser.opened), Path(parser.damaged).name)
            if not (line := child.read(parser.imports, parser.code, *names)):
                cell.problem = f"the process died with {child.wait()}"
                break
            outcome, seconds, used, problem = json.loads(line)
            setattr(cell, outcome, getattr(cell, outcome) + 1)
            cell.seconds, cell.bytes = max(cell.seconds, seconds), max(cell.bytes, used)
            cell.problem = cell.problem or problem
            if seconds > SECONDS or used > BYTES:
                cell.problem = cell.problem or f"{seconds:.1f} s, {used / 1e6:.0f} MB"
    return cells


def matrix(rows: dict[str, dict[str, Cell]]) -> str:
    """Return a Markdown table: read + refused files of each kind of damage, the slowest, the most memory, errors."""
    names = list(next(iter(rows.values())))
    lines = [f"| parser | {' | '.join(names)} | slowest | memory | wrong |", "|---" * (len(names) + 4) + "|"]
    for parser, cells in rows.items():
        shown = " | ".join(f"{cell.read} + {cell.refused}" for cell in cells.values())
        slowest = max(cell.seconds for cell in cells.values())
        most = max(cell.bytes for cell in cells.values())
        wrong = "; ".join(f"{fault}: {cell.problem}" for fault, cell in cells.items() if cell.problem) or "nothing"
        lines.append(f"| {parser} | {shown} | {slowest:.2f} s | {most / 1e6:.0f} MB | {wrong} |")
    return "\n".join(lines)


def run(show: Callable[[str], None]) -> dict[str, dict[str, Cell]]:
    from hostile_records import MAKERS, record

    with Reader() as child:
        rows = {
            name: tried(parser, child) for name, parser in (parsers() | {name: record(name) for name in MAKERS}).items()
        }
    show(f"read + refused:\n\n{matrix(rows)}")
    return rows


if __name__ == "__main__":
    run(print)
