"""Batches of images: decoded in threads, or all images of a source in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dap.config import check_choice, check_whole
from dap.data.codecs import MAX_PIXELS, decode_square
from dap.data.pixels import CropFilter
from dap.errors import FormatError

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["Batches", "ImageError", "decode_batch"]

CHUNK = 8  # images that a thread takes at once


@dataclass(eq=False)
class Batches:
    """All images of a source in order, in batches; made by :meth:`dap.data.source.Source.batches`.

    Attributes:
        skipped: (id, message) of each image that the current or last iteration has left out.

    Raises:
        OptionError: A value is out of range.
    """

    source: Source
    batch_size: int
    size: int
    channels: int
    start: int
    on_error: str
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Checks the options."""
        check_whole("batch_size", self.batch_size)
        check_whole("start", self.start, 0, len(self.source))
        check_choice("on_error", self.on_error, ("raise", "skip"))

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self.skipped = []
        for begin in range(self.start, len(self.source), self.batch_size):
            indices = np.arange(begin, min(begin + self.batch_size, len(self.source)))
            try:
                images = self._images(indices)
            except FormatError:
                if self.on_error == "raise":
                    raise
                indices = np.array([index for index in indices if self._decodes(int(index))], np.int64)
                if not len(indices):
                    continue
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
    """An image of a batch cannot be read or decoded.

    Attributes:
        index: Its index, as given to ``read``.
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

    Only the calling thread calls ``read``, in order, a few chunks ahead of decoding. Neither the result nor the error
    that is raised depends on the number of threads.

    Args:
        read: Returns the bytes of the file with this index.
        indices: n indices.
        size: Side in pixels, at least 1.
        channels: 1 for grey, 3 for RGB.
        threads: Number of threads that decode; None: the number of CPUs that this process may use.
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
        except Exception as error:  # raised in its turn, after errors of earlier images
            message = str(error) if isinstance(error, FormatError) else f"{type(error).__name__}: {error}"
            return ImageError(index, message)

    def read_chunks() -> Iterator[list[tuple[int, bytes | ImageError, np.ndarray]]]:
        for start in range(0, len(indices), step):
            part: list[tuple[int, bytes | ImageError, np.ndarray]] = []
            for position in range(start, min(start + step, len(indices))):
                part.append((int(indices[position]), attempt(int(indices[position])), out[position]))
                if isinstance(part[-1][1], ImageError):
                    yield part
                    return  # reading the rest would be wasted, and might take long to fail
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
