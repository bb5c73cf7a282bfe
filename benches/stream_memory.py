"""Peak memory while 200,000 small images stream from tar shards to Parquet: python benches/stream_memory.py

The images are Fashion-MNIST's training set (60,000), repeated; a first packing makes the tars. Peak RSS is that of the
whole process, read from the system at every 50,000 images.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dap.data.open import open_source
from dap.data.packing import source_samples, write_packed
from dap.data.shard_writer import Sample


def repeated(samples: list[Sample], total: int) -> Iterator[Sample]:
    for number in range(total):
        sample = samples[number % len(samples)]
        yield replace(sample, key=f"{number // len(samples)}/{sample.key}")


def watched(samples: Iterator[Sample], every: int) -> Iterator[Sample]:
    start = time.perf_counter()
    for number, sample in enumerate(samples, 1):
        yield sample
        if number % every == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"{number:>7} images: peak {peak:.0f} MB, {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--folder", default=None, help="where the shards are written")
    arguments = parser.parse_args()
    source = open_source("fashion-mnist")
    options = {"class_names": source.class_names, "provenance": {"name": source.name}, "maxcount": 20_000}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        tars, rows = Path(folder, "tars"), Path(folder, "rows")
        write_packed(repeated(list(source_samples(source)), arguments.images), tars, format="webdataset", **options)
        packed = open_source(tars)
        assert len(packed) == arguments.images
        print(f"tar: {len(list(tars.glob('*.tar')))} shards; to Parquet:")
        samples = watched(source_samples(packed), arguments.images // 4)
        record = write_packed(samples, rows, format="parquet", **options)
        assert record["images"] == arguments.images


if __name__ == "__main__":
    main()
