"""Augmentation of whole batches of tensors, on any device; the randomness is drawn on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["shift_flip"]


def shift_flip(images: Tensor, generator: torch.Generator, max_shift: int = 3) -> Tensor:
    """Mirrors each image left to right with probability 1/2, then shifts it by whole pixels.

    The shifts of the two axes are independent and uniform on {-max_shift, ..., max_shift}. What comes in from outside
    is -1, the lowest value of the scale [-1, 1]: black, which is the background of the embedded images.

    Args:
        images: Float images in [-1, 1] with shape (B, C, H, W).
        generator: CPU generator.
        max_shift: Largest shift in pixels, at least 0.

    Returns:
        New images of the same shape, dtype and device.

    Example:
        >>> shift_flip(torch.full((4, 1, 8, 8), -1.0), torch.Generator()).unique()
        tensor([-1.])
    """
    count, channels, height, width = images.shape
    shifts = torch.randint(-max_shift, max_shift + 1, (count, 2), generator=generator)
    flips = torch.rand(count, generator=generator) < 0.5

    # The pixel at (y, x) of the result is read at (y - dy, x - dx) of the padded image, x mirrored where it is flipped.
    rows = max_shift + torch.arange(height) - shifts[:, :1]
    columns = max_shift + torch.arange(width) - shifts[:, 1:]
    padded_width = width + 2 * max_shift
    columns = torch.where(flips[:, None], padded_width - 1 - columns, columns)
    places = (rows[:, :, None] * padded_width + columns[:, None, :]).reshape(count, 1, height * width)

    padded = functional.pad(images, (max_shift,) * 4, value=-1.0).flatten(2)
    return padded.gather(2, places.to(images.device).expand(-1, channels, -1)).reshape(images.shape)
