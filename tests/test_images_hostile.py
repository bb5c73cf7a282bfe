"""Hostile image files give one clear error or an image, and never a crash, a hang or a large use of memory."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dap.data.codecs import decode, decode_square
from dap.errors import FormatError

PHOTOGRAPH = Image.fromarray(load_sample_images().images[1]).resize((90, 60))


def saved(format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    PHOTOGRAPH.save(stream, format, **options)
    return stream.getvalue()


FILES = {
    "png": saved("PNG"),
    "jpeg": saved("JPEG"),
    "progressive jpeg": saved("JPEG", progressive=True),
    "webp": saved("WEBP"),
    "lossless webp": saved("WEBP", lossless=True),
    "animated webp": saved("WEBP", save_all=True, append_images=[PHOTOGRAPH.rotate(9)]),
    "bmp": saved("BMP"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_an_error(name: str) -> None:
    data = FILES[name]
    for part in range(10):
        cut = data[: len(data) * part // 10]
        for read in (lambda: decode(cut), lambda: decode_square(cut, size=16, channels=1)):  # noqa: B023
            with pytest.raises(FormatError):
                read()
    with pytest.raises(FormatError):
        decode(data[:-3])


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits_give_an_error_or_an_image(name: str) -> None:
    refused = 0
    for seed in range(50):
        generator = np.random.default_rng(seed)
        data = bytearray(FILES[name])
        for place in generator.integers(0, len(data) if seed % 2 else 200, 3):
            data[place] ^= 1 << int(generator.integers(8))
        try:
            assert decode_square(bytes(data), size=16, channels=3).shape == (3, 16, 16)
        except FormatError as error:
            refused += 1
            assert str(error) and "\n" not in str(error)
    assert refused > 0


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"GIF89a"])
def test_what_is_no_image_is_an_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(data)


@pytest.mark.parametrize("name", FILES)
def test_the_limit_of_pixels_can_be_set(name: str) -> None:
    assert decode(FILES[name], max_pixels=90 * 60).shape == (60, 90, 3)
    for read in (decode, lambda data, **limit: decode_square(data, size=8, channels=1, **limit)):
        with pytest.raises(FormatError, match=r"90×60 pixels are more than max_pixels = 5399"):
            read(FILES[name], max_pixels=90 * 60 - 1)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, data: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(name: str, width: int, height: int) -> bytes:
    data = bytearray(FILES[name])
    place = data.index(b"\xff\xc2" if name.startswith("progressive") else b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def many_scans() -> bytes:
    """A progressive JPEG of 16 million pixels whose last scan is repeated 20,000 times."""
    data = jpeg("progressive jpeg", 4000, 4000)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last : last + 12] * 20_000 + bytes(40_000) + data[last:]


def webp_frame(width: int, height: int) -> bytes:
    data = bytearray(FILES["webp"])
    place = data.index(b"\x9d\x01\x2a") + 3
    data[place : place + 4] = struct.pack("<HH", width, height)
    return bytes(data)


def lossless_frame(size: int) -> bytes:
    data = bytearray(FILES["lossless webp"])
    place = data.index(b"VP8L") + 9
    data[place : place + 4] = struct.pack("<I", (size - 1) | (size - 1) << 14)
    return bytes(data)


def riff(*chunks: bytes) -> bytes:
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def canvas_smaller_than_its_frame(beyond: int = 0) -> bytes:
    canvas = b"VP8X" + struct.pack("<IB", 10, 0) + bytes(3) + b"\x59\0\0\x3b\0\0"
    frame = bytearray(webp_frame(16383, 16383)[12:])
    frame[4:8] = struct.pack("<I", struct.unpack("<I", frame[4:8])[0] + beyond)
    return riff(canvas, bytes(frame))


def header_a_byte_short() -> bytes:
    """A canvas header of nine bytes, which would claim 1.1 billion pixels if it were read one byte further."""
    return riff(b"VP8X" + struct.pack("<IB", 9, 16) + bytes(3) + b"\x06\0\xb7\x5e\0\0", FILES["webp"][12:])


BOMBS = {
    "png that claims 2^62 pixels": lambda: png(2**31 - 1, 2**31 - 1, zlib.compress(bytes(1000))),
    "png that claims 80 million pixels": lambda: png(8944, 8944, zlib.compress(bytes(1000))),
    "png of 400 million pixels": lambda: png(20_000, 20_000, zlib.compress(bytes(1_600_020_000 >> 4)) * 16),
    "png that holds fewer rows": lambda: png(8944, 8944, zlib.compress(bytes(100_000_000))),
    "jpeg that claims 4 billion pixels": lambda: jpeg("jpeg", 65500, 65500),
    "jpeg that claims 80 million pixels": lambda: jpeg("jpeg", 8944, 8944),
    "progressive jpeg that claims 80 million pixels": lambda: jpeg("progressive jpeg", 8944, 8944),
    "progressive jpeg of 20,000 scans": many_scans,
    "webp that claims 268 million pixels": lambda: webp_frame(16383, 16383),
    "webp that claims 80 million pixels": lambda: webp_frame(8944, 8944),
    "lossless webp that claims 268 million pixels": lambda: lossless_frame(16384),
    "lossless webp that claims 80 million pixels": lambda: lossless_frame(8944),
    "webp whose frame is larger than its canvas": canvas_smaller_than_its_frame,
    "webp whose header is a byte short": header_a_byte_short,
    "webp whose frame goes on after the file": lambda: canvas_smaller_than_its_frame(beyond=1 << 20),
}
READ = """
import json, sys, time
from dap.data.codecs import decode_square
from dap.errors import FormatError

def peak():  # getrusage would return the parent's peak if that is higher
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

data = sys.stdin.buffer.read()
before, start = peak(), time.monotonic()
try:
    decode_square(data, size=64, channels=3)
    error = ""
except FormatError as refused:
    error = str(refused)
used = peak() - before
print(json.dumps([error, time.monotonic() - start, used * 1024]))
"""


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused_soon_and_with_little_memory(make) -> None:
    done = subprocess.run([sys.executable, "-c", READ], input=make(), capture_output=True, check=True, timeout=60)
    error, seconds, used = json.loads(done.stdout)
    print(f"{error}: {seconds:.2f} s, {used / 1e6:.0f} MB")
    assert error and seconds < 5 and used < 1e9


@pytest.mark.parametrize("alpha", [False, True])
def test_a_webp_frame_of_another_size_than_its_image(alpha: bool) -> None:
    """libwebp alone would take the image's own size and paint it over the animation."""
    image = PHOTOGRAPH.convert("RGBA" if alpha else "RGB")
    if alpha:
        image.putalpha(PHOTOGRAPH.convert("L"))
    stream = io.BytesIO()
    image.save(stream, "WEBP", save_all=True, append_images=[image.rotate(9)])
    data = stream.getvalue()
    assert decode(data).shape == (*image.size[::-1], 3)
    at = data.index(b"ANMF") + 8
    for place in (6, 9):  # width, height
        lying = bytearray(data)
        lying[at + place] -= 2
        with pytest.raises(FormatError, match="a frame of another size than its image"):
            decode(bytes(lying))
    longer = bytearray(data)
    last = data.rindex(b"ANMF") + 4
    longer[last : last + 4] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(FormatError, match=r"truncated in the chunk b'ANMF'"):
        decode(bytes(longer))
