"""Tar shards in and out: dap, the webdataset package and tarfile, on one thread.

Files have random bytes, of the sizes of a PNG of 32 × 32, a JPEG and a PNG of 256 × 256. What dap writes has reached
the disk and is hashed by SHA-256; of the others neither is asked. The limit is the bytes alone, written at once and
made durable, or read at once.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from turns import Contender, Group

from dap._core import TarWriter
from dap.data.webdataset import open_webdataset

SIZES = ((5_000, 1_000), (2_000, 20_000), (500, 100_000))
"""Numbers of files and their bytes."""


def groups(quick: bool) -> list[Group]:
    sizes = [(50, 1_000)] if quick else SIZES
    return [task(count, size) for task in (_writing, _reading) for count, size in sizes]


def test_tar(take_turns, group, contender):
    take_turns(group, contender)


class Files:
    """Files with their labels, a shard that holds them, and a folder to write to."""

    def __init__(self, count: int, size: int) -> None:
        draw = np.random.default_rng(0)
        self.files = [draw.bytes(size) for _ in range(count)]
        self.temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        self.shard = _by_tarfile(self).rename(self.folder / "shard.tar")
        self.bytes = self.shard.read_bytes()


def _by_dap(data: Files) -> Path:
    writer = TarWriter(data.folder / "dap.tar")
    for number, content in enumerate(data.files):
        writer.append([(f"{number:06d}.cls", b"3"), (f"{number:06d}.png", content)])
    writer.finish()
    return data.folder / "dap.tar"


def _by_webdataset(data: Files) -> Path:
    import webdataset

    with webdataset.ShardWriter(str(data.folder / "webdataset-%06d.tar"), verbose=0) as writer:
        for number, content in enumerate(data.files):
            writer.write({"__key__": f"{number:06d}", "cls": b"3", "png": content})
    return data.folder / "webdataset-000000.tar"


def _by_tarfile(data: Files) -> Path:
    with tarfile.open(data.folder / "tarfile.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, content in enumerate(data.files):
            for name, part in ((f"{number:06d}.cls", b"3"), (f"{number:06d}.png", content)):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                archive.addfile(member, io.BytesIO(part))
    return data.folder / "tarfile.tar"


def _bytes_alone(data: Files) -> None:
    with (data.folder / "plain.tar").open("wb") as file:
        file.write(data.bytes)
        os.fsync(file.fileno())


def _writing(count: int, size: int) -> Group:
    def check(data: Files, path: Path, rtol: float) -> None:
        with tarfile.open(path) as archive:
            if _images(archive) != data.files:
                raise ValueError(f"{path.name} holds other files than those that were written")

    contenders = {
        "dap": Contender(_by_dap, "dap"),
        "webdataset.ShardWriter": Contender(_by_webdataset),
        "tarfile": Contender(_by_tarfile, "beside"),
        "the bytes alone, with fsync": Contender(_bytes_alone, "limit"),
    }
    return Group(f"write tar, {count:,} of {size / 1000:g} KB", partial(Files, count, size), contenders, check)


def _reading(count: int, size: int) -> Group:
    def by_dap(data: Files) -> list[bytes]:
        source = open_webdataset([data.shard], name="bench")
        assert source.read is not None
        return [source.read(index) for index in range(len(source))]

    def by_webdataset(data: Files) -> list[bytes]:
        import webdataset

        return [sample["png"] for sample in webdataset.WebDataset(str(data.shard), shardshuffle=False)]

    def by_tarfile(data: Files) -> list[bytes]:
        with tarfile.open(data.shard) as archive:
            return _images(archive)

    def check(data: Files, files: list[bytes], rtol: float) -> None:
        if files != data.files:
            raise ValueError("other files than those that were written")

    contenders = {
        "dap": Contender(by_dap, "dap"),
        "webdataset": Contender(by_webdataset),
        "tarfile": Contender(by_tarfile, "beside"),
        "the bytes alone": Contender(lambda data: data.shard.read_bytes(), "limit"),
    }
    return Group(f"read tar, {count:,} of {size / 1000:g} KB", partial(Files, count, size), contenders, check)


def _images(archive: tarfile.TarFile) -> list[bytes]:
    members = [archive.extractfile(member) for member in archive if member.name.endswith(".png")]
    return [member.read() for member in members if member is not None]
