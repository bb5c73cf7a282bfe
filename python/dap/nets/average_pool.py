"""Average pooling, computed on a CPU by what is quickest there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AveragePool"]


class AveragePool(nn.AvgPool2d):
    """Average pooling of squares of ``side`` pixels that do not overlap; what is left at the edges is dropped.

    torch's own pooling of channels-first images on a CPU takes longer than a convolution of each channel with equal
    weights, which computes the same.

    Example:
        >>> AveragePool(2)(torch.arange(16.0).view(1, 1, 4, 4)).flatten()
        tensor([ 2.5000,  4.5000, 10.5000, 12.5000])
    """

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.side = side

    def forward(self, input: Tensor) -> Tensor:
        """Return the means of the squares."""
        channels_first = input.is_cpu and input.ndim == 4 and input.is_contiguous()
        if not channels_first or input.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        channels = input.shape[1]
        weights = input.new_full((channels, 1, self.side, self.side), 1 / self.side**2)
        return functional.conv2d(input, weights, stride=self.side, groups=channels)
