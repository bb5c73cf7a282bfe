"""Images a batch at a time: decoded in threads, and a source's in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dap.data.codecs import MAX_PIXELS, decode_square
from dap.data.pixels import CropFilter
from dap.errors import FormatError

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["Batches", "ImageError", "decode_batch"]

CHUNK = 8  # images that a thread takes at once


@dataclass(eq=False)
class Batches:
    """What :meth:`Source.batches` returns.

    Attributes:
        skipped: (id, message) of the images that the last iteration left out so far.
    """

    source: Source
    batch_size: int
    size: int
    channels: int
    start: int
    skip: bool
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.skipped = []
        for begin in range(self.start, len(self.source), self.batch_size):
            indices = np.arange(begin, min(begin + self.batch_size, len(self.source)))
            try:
                images = self._images(indices)
            except FormatError:
                if not self.skip:
                    raise
                kept = [index for index in indices if self._decodes(int(index))]
                if not kept:
                    continue
                indices = np.array(kept)
                images = self._images(indices)
            yield images, self.source.labels[indices]

    def _images(self, indices: np.ndarray) -> np.ndarray:
        return self.source.images(indices, size=self.size, channels=self.channels)

    def _decodes(self, index: int) -> bool:
        try:
            self._images(np.array([index]))
        except FormatError as error:
            self.skipped.append((self.source.ids[index], str(error)))
            return False
        return True


class ImageError(FormatError):
    """One image of a batch cannot be read.

    Attributes:
        index: The index that was given to ``read``.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


def decode_batch(
    read: Callable[[int], bytes],
    indices: Sequence[int] | np.ndarray,
    *,
    size: int,
    channels: int,
    threads: int | None = None,
    filter: CropFilter = "adm",
    dct_scaling: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Reads files and decodes them in threads, each as :func:`decode_square` does.

    The calling thread alone calls ``read``, in order, and only a little ahead of what is being decoded. The result does
    not depend on the number of threads, nor does which error comes first.

    Args:
        read: Gives the bytes of the file with this index.
        indices: n indices.
        size: Side in pixels, at least 1.
        channels: 1 for grey, 3 for RGB.
        threads: How many threads decode; None: as many as this process may run at once.
        filter: See :func:`decode_square`.
        dct_scaling: See :func:`decode_square`.
        max_pixels: See :func:`decode_square`.

    Returns:
        uint8 with shape (n, channels, size, size).

    Raises:
        ImageError: A file cannot be read or decoded; the first of them in the order of ``indices``.

    Example:
        >>> from dap.data.codecs import encode
        >>> files = [encode(np.full((1, 4, 4), grey, np.uint8), "png") for grey in (0, 9)]
        >>> decode_batch(files.__getitem__, [1, 0], size=4, channels=1)[:, 0, 0, 0].tolist()
        [9, 0]
    """
    out = np.empty((len(indices), channels, size, size), np.uint8)
    threads = threads or _cpus()
    step = max(1, min(CHUNK, len(indices) // (2 * threads)))

    def attempt(index: int) -> bytes | ImageError:
        try:
            return read(index)
        except MemoryError:
            raise
        except Exception as error:  # raised when its turn comes: an earlier image may be damaged
            message = str(error) if isinstance(error, FormatError) else f"{type(error).__name__}: {error}"
            return ImageError(index, message)

    def read_chunks() -> Iterator[list[tuple[int, bytes | ImageError, np.ndarray]]]:
        for start in range(0, len(indices), step):
            part: list[tuple[int, bytes | ImageError, np.ndarray]] = []
            for place in range(start, min(start + step, len(indices))):
                part.append((int(indices[place]), attempt(int(indices[place])), out[place]))
                if isinstance(part[-1][1], ImageError):
                    yield part
                    return  # what comes later is not asked for, and may take as long to fail
            yield part

    def work(chunk: list[tuple[int, bytes | ImageError, np.ndarray]]) -> None:
        for index, data, row in chunk:
            if isinstance(data, ImageError):
                raise data
            try:
                decode_square(
                    data, size=size, channels=channels, filter=filter, dct_scaling=dct_scaling, max_pixels=max_pixels,
                    out=row,
                )  # fmt: skip
            except FormatError as error:
                raise ImageError(index, str(error)) from error

    if threads == 1 or len(indices) <= 1:
        for chunk in read_chunks():
            work(chunk)
        return out
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for chunk in read_chunks():
                pending.append(pool.submit(work, chunk))
                if len(pending) > 2 * threads:
                    pending.popleft().result()
            while pending:
                pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
    return out


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
