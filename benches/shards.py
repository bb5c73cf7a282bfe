"""Tar shards against the webdataset package and tarfile: alternating in one process, medians, results compared.

python benches/shards.py [--rounds 5] [--folder .]: images are bytes that look like encoded ones (random), of the sizes
that encoded images have: 1 KB (32 x 32 PNG), 20 KB (256 x 256 JPEG), 100 KB (256 x 256 PNG). Ours ends with fsync and a
SHA-256 of the shard, the others with neither.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import webdataset

from dap._core import TarWriter, build_info
from dap.data.webdataset import open_webdataset


def write_dap(path: Path, images: list[bytes]) -> None:
    writer = TarWriter(path)
    for number, data in enumerate(images):
        writer.append([(f"{number:06d}.cls", b"3"), (f"{number:06d}.png", data)])
    writer.finish()


def write_webdataset(path: Path, images: list[bytes]) -> None:
    with webdataset.ShardWriter(str(path).replace(".tar", "-%06d.tar"), verbose=0) as writer:
        for number, data in enumerate(images):
            writer.write({"__key__": f"{number:06d}", "cls": b"3", "png": data})


def write_tarfile(path: Path, images: list[bytes]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, data in enumerate(images):
            for name, content in ((f"{number:06d}.cls", b"3"), (f"{number:06d}.png", data)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def read_dap(path: Path) -> int:
    source = open_webdataset([path], name="bench")
    return sum(len(source.read(index)) for index in range(len(source)))


def read_webdataset(path: Path) -> int:
    return sum(len(sample["png"]) for sample in webdataset.WebDataset(str(path), shardshuffle=False))


def race(rounds: int, contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where the shards are written")
    arguments = parser.parse_args()
    assert build_info()["profile"] == "release"
    rng = np.random.default_rng(0)
    for size, count in ((1_000, 5_000), (20_000, 2_000), (100_000, 500)):
        images = [rng.bytes(size) for _ in range(count)]
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            ours, theirs, plain = Path(folder, "a.tar"), Path(folder, "b.tar"), Path(folder, "c.tar")
            written = race(
                arguments.rounds,
                {
                    "dap": partial(write_dap, ours, images),
                    "ShardWriter": partial(write_webdataset, theirs, images),
                    "tarfile": partial(write_tarfile, plain, images),
                },
            )
            read = race(
                arguments.rounds,
                {"dap": partial(read_dap, ours), "webdataset": partial(read_webdataset, ours)},
            )
            assert read_dap(ours) == read_webdataset(ours) == read_dap(Path(folder, "b-000000.tar")) == size * count
        for what, times in (("write", written), ("read", read)):
            mine = times["dap"]
            ratios = ", ".join(f"{name} {seconds / mine:.1f} x" for name, seconds in times.items() if name != "dap")
            print(f"{what} {count} images of {size // 1000} KB: dap {count / mine:,.0f} a second; {ratios} the time")


if __name__ == "__main__":
    main()
