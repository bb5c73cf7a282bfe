"""Tars that are damaged or made to harm: one error that names file and member, no harm, no waiting."""

from __future__ import annotations

import io
import resource
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dap._core import TarWriter, scan_tar
from dap.data.open import open_source
from dap.errors import FormatError


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Under 5 s and under 1 GB more, whatever the file says."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


def image(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def whole(tmp_path: Path) -> bytes:
    writer = TarWriter(tmp_path / "whole.tar")
    for number in range(4):
        writer.append([(f"{number}.cls", b"%d" % number), (f"{number}.png", image(number))])
    writer.finish()
    return (tmp_path / "whole.tar").read_bytes()


def made(path: Path, *members: tarfile.TarInfo, format: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)) if member.size else None)
    return path


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (info("../a.png"), r'member "\.\./a\.png": its name leads out of the folder'),
        (info("a/../../a.png"), "its name leads out of the folder"),
        (info("/etc/a.png"), r'member "/etc/a\.png": its name is an absolute path'),
        (info("a.png", tarfile.SYMTYPE, "/etc/passwd"), r'member "a\.png" is a symbolic link'),
        (info("a.png", tarfile.LNKTYPE, "b"), r'member "a\.png" is a hard link'),
        (info("a.png", tarfile.CHRTYPE), r'member "a\.png" is a device'),
        (info("a.png", tarfile.FIFOTYPE), r'member "a\.png" is a named pipe'),
        (info("a\udcff.png"), "its name is not UTF-8"),
        (info("d" * 200 + "/../../a.png"), "its name leads out of the folder"),
    ],
)
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_that_are_refused(tmp_path: Path, member: tarfile.TarInfo, message: str, format: int) -> None:
    if format == tarfile.USTAR_FORMAT and len(member.name) > 100:
        member.name = "d" * 120 + "/../../a.png"
    path = made(tmp_path / "x.tar", info("ok.cls"), member, format=format)
    with pytest.raises(FormatError, match=rf"x\.tar: .*{message}"):
        open_source(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.tar"]


def test_a_member_twice(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r'x\.tar: more than one member "a\.png"'):
        open_source(made(tmp_path / "x.tar", info("a.png"), info("a.png")))
    with pytest.raises(FormatError, match=r"x\.tar: more than one member 'png' of 'a'"):
        open_source(made(tmp_path / "x.tar", info("a.png"), info("a.PNG")))


@pytest.mark.parametrize("content", [b"", b"\0", b"not a tar" * 200, b"\x1f\x8b" + bytes(2000), b"\xff" * 4096])
def test_no_tar_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"x\.tar: "):
        open_source(path)


def test_truncated_anywhere(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "x.tar"
    for length in np.linspace(1, len(whole) - 1025, 40).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError, match=r"x\.tar: "):
            open_source(path)


def test_bits_flipped(tmp_path: Path, whole: bytes) -> None:
    """A header's bits are all under its checksum; an image's are found when it is decoded, or it is another image."""
    path, rng, refused = tmp_path / "x.tar", np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(whole)
        position = int(rng.integers(len(whole) - 1024))
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            source = open_source(path)
            source.images(range(len(source)), size=8, channels=1)
        except FormatError as error:
            assert "x.tar" in str(error)
            refused += 1
        else:
            header = any(damaged[at : at + 512] != whole[at : at + 512] for at in headers(path, whole))
            assert not header, position
    assert refused > 100


def headers(path: Path, whole: bytes) -> list[int]:
    path.write_bytes(whole)
    return [int(offset) - 512 for offset in scan_tar(path)[1]]


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80\0\0\0\x7f" + b"\xff" * 7, b"\x80" + b"\xff" * 11, b"9" * 12])
@pytest.mark.parametrize("kind", [b"0", b"x", b"L"])
def test_sizes_that_lie(tmp_path: Path, whole: bytes, size: bytes, kind: bytes) -> None:
    header = bytearray(whole[:512])
    header[124:136], header[156:157], header[148:156] = size, kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "x.tar"
    path.write_bytes(bytes(header) + whole[512:])
    with pytest.raises(FormatError, match=r'x\.tar: member "0\.cls"'):
        open_source(path)


def test_a_shard_that_shrinks_while_it_is_read(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(whole)
    source = open_source(path)
    path.write_bytes(whole[:2000])
    with pytest.raises(FormatError, match=r"x\.tar/3: .*got 0"):
        source.images([3], size=8, channels=1)


def test_a_writer_ends_with_its_first_error(tmp_path: Path) -> None:
    writer = TarWriter(tmp_path / "x.tar")
    with pytest.raises(FormatError, match="absolute path"):
        writer.append([("/a", b"")])
    with pytest.raises(ValueError, match="finished"):
        writer.finish()
    writer.discard()
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        TarWriter(tmp_path / "no" / "x.tar")
