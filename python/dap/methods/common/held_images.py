"""Real images of a run: held in memory if they take up to 4 GiB, else decoded when they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dap.data.stack import read_images

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = ["can_hold", "held_bytes", "images_by_index", "images_by_number"]

HELD_BYTES = 2**32


def held_bytes(context: Context) -> int:
    """Return the memory that the images of a run take while they are held; 0 if they are not."""
    count = len(context.source)
    return count * context.channels * context.size**2 if can_hold(context, count) else 0


def can_hold(context: Context, count: int) -> bool:
    """Return whether this many images of a run are few enough to be held."""
    return count * context.channels * context.size**2 <= HELD_BYTES


def images_by_number(context: Context, rows: np.ndarray, *, hold: bool) -> Callable[[Tensor | np.ndarray], Tensor]:
    """Return a function from numbers of rows, int64 (n,), to images, uint8 (n, channels, size, size) on the CPU.

    Args:
        context: The run.
        rows: Image indices, int64 (N,).
        hold: Decode all of them now; otherwise each when it is used.
    """
    if hold:
        return context.images(rows.tolist()).__getitem__
    return lambda numbers: context.images(rows[np.asarray(numbers)].tolist())


def images_by_index(context: Context, *, kept: str = "nothing is kept") -> Callable[[Tensor | np.ndarray], Tensor]:
    """Return a function from image indices, int64 (n,), to images, uint8 (n, channels, size, size) on the CPU.

    Args:
        context: The run.
        kept: What Ctrl-C leaves while they are read; see :meth:`dap.bar.Bars.stage`.

    Raises:
        FormatError: An image cannot be decoded.
    """
    count = len(context.source)
    if not can_hold(context, count):
        context.images([0])  # raises now, and not while images are made, if the source has none
        return images_by_number(context, np.arange(count), hold=False)
    images = read_images(
        context.source, np.arange(count), size=context.size, channels=context.channels, bars=context.bars, kept=kept
    )
    return torch.from_numpy(images).__getitem__
