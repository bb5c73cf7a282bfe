"""All real images of a run: held in memory if they take up to 4 GiB, else decoded when they are used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dap.data.stack import read_images

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = ["held_bytes", "images_by_index"]

HELD_BYTES = 2**32


def held_bytes(context: Context) -> int:
    """Return the memory that the images of a run take while they are held; 0 if they are not."""
    needed = len(context.source) * context.channels * context.size**2
    return needed if needed <= HELD_BYTES else 0


def images_by_index(context: Context, *, kept: str = "nothing is kept") -> Callable[[Tensor | np.ndarray], Tensor]:
    """Return a function from image indices, int64 (n,), to images, uint8 (n, channels, size, size) on the CPU.

    Args:
        context: The run.
        kept: What Ctrl-C leaves while they are read; see :meth:`dap.bar.Bars.stage`.

    Raises:
        FormatError: An image cannot be decoded.
    """
    count, shape = len(context.source), (context.channels, context.size, context.size)
    if count * math.prod(shape) > HELD_BYTES:
        context.images([0])  # raises now, and not while images are made, if the source has none
        return lambda indices: context.images(indices.tolist())
    images = read_images(
        context.source, np.arange(count), size=context.size, channels=context.channels, bars=context.bars, kept=kept
    )
    return torch.from_numpy(images).__getitem__
