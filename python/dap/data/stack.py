"""All images of a source as one array."""

from __future__ import annotations

import os

import numpy as np

from dap.data.source import Source
from dap.errors import OptionError

__all__ = ["stack_images"]


def stack_images(source: Source, size: int | None = None) -> np.ndarray:
    """All images of a source, in order.

    Args:
        source: The images.
        size: Side in pixels to which all are resized, grey or RGB like the first one; None: all have one size already.

    Returns:
        uint8 with shape (N, C, H, W).

    Raises:
        OptionError: They differ in size or channels and ``size`` is not given, or they do not fit into memory.
        FormatError: An image cannot be decoded; the message names it.
    """
    shape = source.pixels(0).shape if size is None else (source.native_shape()[1], size, size)
    needed = len(source) * int(np.prod(shape))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise OptionError(
            f"{source.name}: {len(source)} images of {shape} take {needed / 1e9:.0f} GB, this machine has "
            f"{memory / 1e9:.0f} GB: give a smaller size=, or read DistilledDataset.source in parts"
        )
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
