"""Images of a source as one array in memory."""

from __future__ import annotations

import math
import os

import numpy as np

from dap.bar import Bars
from dap.data.source import Source
from dap.errors import OptionError

__all__ = ["read_images", "stack_images"]

READ = 256  # images between two moves of the bar


def read_images(
    source: Source, indices: np.ndarray, *, size: int, channels: int, bars: Bars, kept: str = "nothing is kept"
) -> np.ndarray:
    """Some images of a source, decoded under a progress bar.

    Args:
        source: The images.
        indices: Their indices, int64 (n,).
        size: Side in pixels.
        channels: 1 for grey, 3 for RGB.
        bars: Opens the bar.
        kept: What Ctrl-C leaves; see :meth:`dap.bar.Bars.stage`.

    Returns:
        uint8 with shape (n, channels, size, size).

    Raises:
        OptionError: They do not fit into memory.
        FormatError: An image cannot be decoded; the message names it.
    """
    shape = (len(indices), channels, size, size)
    _check_memory(source, shape, "choose a smaller size, or fewer classes or images")
    images = np.empty(shape, np.uint8)
    with bars.stage("images", total=len(indices), unit=" images", kept=kept) as bar:
        for start in range(0, len(indices), READ):
            rows = indices[start : start + READ]
            images[start : start + READ] = source.images(rows, size=size, channels=channels)
            bar.update(len(rows))
    return images


def stack_images(source: Source, size: int | None = None) -> np.ndarray:
    """All images of a source, in order.

    Args:
        source: The images.
        size: Side in pixels to which all are resized, RGB if some are in colour; None: all have one size already.

    Returns:
        uint8 with shape (N, C, H, W).

    Raises:
        OptionError: They differ in size or channels and ``size`` is not given, or they do not fit into memory.
        FormatError: An image cannot be decoded; the message names it.
    """
    shape = source.pixels(0).shape if size is None else (source.appearance.channels, size, size)
    _check_memory(source, (len(source), *shape), "give a smaller size=, or read DistilledDataset.source in parts")
    if size is not None:
        return source.images(range(len(source)), size=size, channels=shape[0])
    images = np.empty((len(source), *shape), np.uint8)
    for index in range(len(source)):
        image = source.pixels(index)
        if image.shape != shape:
            raise OptionError(
                f"{source.name}: images differ in shape, {source.ids[0]} is {shape} and {source.ids[index]} is "
                f"{image.shape}: give size= to resize them all"
            )
        images[index] = image
    return images


def _check_memory(source: Source, shape: tuple[int, ...], advice: str) -> None:
    """Raise OptionError if an array of bytes has more than the memory of this machine."""
    needed, memory = math.prod(shape), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise OptionError(
            f"{source.name}: {shape[0]} images of {shape[1:]} take {needed / 1e9:.0f} GB, this machine has "
            f"{memory / 1e9:.0f} GB: {advice}"
        )
