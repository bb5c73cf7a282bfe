"""``dap bench packing``: images in and out, shards, batches; beside Pillow, OpenCV, torchvision, webdataset, tarfile.

Content is natural: crops of 256 × 256 of scikit-learn's two photographs; JPEG of quality 90 (4:2:0), PNG of Pillow's
level 6, WebP of its defaults. Shards hold random bytes of the sizes that encoded images have. The rules of the race are
those of :mod:`dap.bench.race`; threads are worker processes where a contender is a DataLoader.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from dap.bench.fields import Field
from dap.bench.packing_batches import augmented_batches, jpeg_batches
from dap.bench.packing_images import adm_crop, decoding, png_encoding
from dap.bench.packing_shards import reading, writing

__all__ = ["CASES", "PackingCase", "list_packing_cases"]


@dataclass(frozen=True)
class PackingCase:
    """One task at one size.

    Args:
        task: One of :data:`CASES`.
        images: How many.
        size: Side in pixels, or bytes of a file in a shard.
        threads: Threads of every contender, or workers.

    Example:
        >>> print(PackingCase("decode JPEG", 64, 256, threads=1), "|", PackingCase("write tar", 500, 20_000, threads=1))
        decode JPEG, 64 of 256 × 256, 1 thread | write tar, 500 of 20 KB, 1 thread
    """

    task: str
    images: int
    size: int
    threads: int

    @property
    def bytes_read(self) -> int | None:
        """Of the files of a shard; None for other tasks, which do more than read."""
        return self.images * self.size if self.task == "read tar" else None

    @property
    def of_shards(self) -> bool:
        """Whether ``size`` is in bytes, and one thread does the work."""
        return self.task in ("write tar", "read tar")

    def field(self) -> Field:
        """The contenders and their check."""
        return CASES[self.task](self.images, self.size, self.threads)

    def __str__(self) -> str:
        """One line for people."""
        size = f"{self.size / 1000:g} KB" if self.of_shards else f"{self.size} × {self.size}"
        return f"{self.task}, {self.images:,} of {size}, {self.threads} thread{'s' * (self.threads > 1)}"


def list_packing_cases(quick: bool = False, threads: tuple[int, ...] = ()) -> list[PackingCase]:
    """The cases of ``dap bench packing``, with one thread and with torch's own number unless told.

    Example:
        >>> len(list_packing_cases(quick=True, threads=(1,)))
        14
    """
    some, many, part = (4, 8, 50) if quick else (64, 1000, 1)
    coded = [(task, some, 256) for task in CASES if "tar" not in task and "batches" not in task]
    shards = [(task, count // part, size) for task in ("write tar", "read tar") for count, size in SHARDS]
    batches = [("JPEG batches from tar", many, 256), ("augmented batches", many, 256)]
    shapes = [*coded, *shards, *batches]
    counts = dict.fromkeys(threads or (1, torch.get_num_threads()))
    cases = [PackingCase(*shape, threads=count) for count in counts for shape in shapes]
    return [case for case in cases if not case.of_shards or case.threads == min(counts)]


SHARDS = ((5000, 1000), (2000, 20_000), (500, 100_000))
"""Numbers of files and their bytes: a PNG of 32 × 32, a JPEG and a PNG of 256 × 256."""

CASES: dict[str, Callable[[int, int, int], Field]] = {
    "decode JPEG": partial(decoding, "JPEG", {"quality": 90, "subsampling": 2}),
    "decode PNG": partial(decoding, "PNG", {}),
    "decode WebP": partial(decoding, "WebP", {}),
    "decode WebP, lossless": partial(decoding, "WebP", {"lossless": True}),
    "encode PNG": png_encoding,
    "ADM crop": adm_crop,
    "write tar": writing,
    "read tar": reading,
    "JPEG batches from tar": jpeg_batches,
    "augmented batches": augmented_batches,
}
"""What makes the contenders of a task, and the check of their results."""
