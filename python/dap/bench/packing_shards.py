"""Tar shards in and out: dap, the webdataset package and tarfile.

What dap writes has reached the disk and is hashed by SHA-256; of the others' neither is asked. How long the bytes alone
take, written at once and made durable, is shown beside.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from dap._core import TarWriter
from dap.bench.fields import Field
from dap.bench.race import Contender
from dap.data.webdataset import open_webdataset

__all__ = ["reading", "temporary_folder", "writing"]


def temporary_folder(owner: Any) -> Path:
    """A folder that goes when its owner does."""
    folder = tempfile.mkdtemp()
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def writing(count: int, size: int, threads: int) -> Field:
    """Files with their labels into one shard."""
    import webdataset

    files = _files(count, size)

    def check(path: Any, rtol: float) -> None:
        with tarfile.open(path) as archive:
            read = _images(archive)
        if read != files:
            raise ValueError(f"{path} holds other files than those that were written")

    folder = temporary_folder(check)

    def by_dap() -> Path:
        writer = TarWriter(folder / "dap.tar")
        for number, data in enumerate(files):
            writer.append([(f"{number:06d}.cls", b"3"), (f"{number:06d}.png", data)])
        writer.finish()
        return folder / "dap.tar"

    def by_webdataset() -> Path:
        with webdataset.ShardWriter(str(folder / "webdataset-%06d.tar"), verbose=0) as writer:
            for number, data in enumerate(files):
                writer.write({"__key__": f"{number:06d}", "cls": b"3", "png": data})
        return folder / "webdataset-000000.tar"

    def by_tarfile() -> Path:
        with tarfile.open(folder / "tarfile.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for number, data in enumerate(files):
                for name, content in ((f"{number:06d}.cls", b"3"), (f"{number:06d}.png", data)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return folder / "tarfile.tar"

    def at_once(durable: bool) -> Path:
        with (folder / "plain.tar").open("wb") as file:
            file.write(whole)
            if durable:
                os.fsync(file.fileno())
        return folder / "plain.tar"

    whole = by_tarfile().read_bytes()
    return [
        Contender("dap", by_dap, "dap"),
        Contender("webdataset.ShardWriter", by_webdataset),
        Contender("tarfile", by_tarfile, "beside"),
        Contender("the bytes alone", lambda: at_once(False), "beside"),
        Contender("the bytes alone, with fsync", lambda: at_once(True), "beside"),
    ], check


def reading(count: int, size: int, threads: int) -> Field:
    """A shard with labels, opened and read to its end."""
    import webdataset

    files = _files(count, size)

    def check(read: Any, rtol: float) -> None:
        if read != files:
            raise ValueError("other files than those that were written")

    path = temporary_folder(check) / "shard.tar"
    writer = TarWriter(path)
    for number, data in enumerate(files):
        writer.append([(f"{number:06d}.cls", b"3"), (f"{number:06d}.png", data)])
    writer.finish()

    def by_dap() -> list[bytes]:
        source = open_webdataset([path], name="bench")
        assert source.read is not None
        return [source.read(index) for index in range(len(source))]

    def by_tarfile() -> list[bytes]:
        with tarfile.open(path) as archive:
            return _images(archive)

    return [
        Contender("dap", by_dap, "dap"),
        Contender("webdataset", lambda: [one["png"] for one in webdataset.WebDataset(str(path), shardshuffle=False)]),
        Contender("tarfile", by_tarfile, "beside"),
    ], check


def _files(count: int, size: int) -> list[bytes]:
    draw = np.random.default_rng(0)
    return [draw.bytes(size) for _ in range(count)]


def _images(archive: tarfile.TarFile) -> list[bytes]:
    members = [archive.extractfile(member) for member in archive if member.name.endswith(".png")]
    return [member.read() for member in members if member is not None]
