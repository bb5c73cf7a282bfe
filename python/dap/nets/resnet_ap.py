"""ResNetAP-10: a residual network whose strides are average poolings.

Source: IDC (Kim et al., ICML 2022, arXiv 2205.14959), models/resnet_ap.py, which Minimax (Gu et al., CVPR 2024, arXiv
2311.15529) took over as train_models/resnet_ap.py. Its first part depends on the size of the images: above 128 pixels a
7×7 convolution and 4×4 pooling; from 65 to 128 pixels 3×3 and 2×2; below, 3×3 and no pooling. Four stages of one basic
block follow. Where a ResNet has a stride of 2, the block pools after the ReLU of its first convolution, and its
shortcut pools after the 1×1 convolution. ResNet-10 has as many parameters, but other outputs.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from dap.nets.average_pool import AveragePool
from dap.nets.network import Network
from dap.nets.seeded import SeededMode

__all__ = ["ResNetAP"]


class ResNetAP(Network):
    """ResNetAP-10.

    Args:
        width: Channels of the first stage; the four stages have 1, 2, 4 and 8 times as many. The paper has 64.
        channels: Channels of the images.
        classes: Number of classes.
        size: Side of the square images in pixels.
        generator: CPU generator of the initial weights.
        norm: "instance" or "batch".

    Example:
        >>> net = ResNetAP(width=16, channels=1, classes=10, size=28, generator=torch.Generator())
        >>> net(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, *, width: int, channels: int, classes: int, size: int, generator: torch.Generator, norm: str = "instance"
    ) -> None:
        super().__init__()
        kernel, pool = (7, 4) if size > 128 else (3, 2) if size > 64 else (3, 1)
        with SeededMode(generator):
            first = _convolution(channels, width, kernel)
            pooling = AveragePool(pool) if pool > 1 else nn.Identity()  # of 1 × 1 changes nothing, and takes time
            self.stem = nn.Sequential(first, _norm(norm, width), nn.ReLU(), pooling)
            widths = [width, width, 2 * width, 4 * width, 8 * width]
            self.blocks = nn.Sequential(*(_Block(before, after, norm) for before, after in pairwise(widths)))
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.head = nn.Linear(8 * width, classes)
            for layer in self.modules():
                if isinstance(layer, nn.Conv2d):  # the normal rule of He et al., ICCV 2015, by the fan out
                    fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
                    nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / fan_out))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, with shape (B, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the last layer, with shape (B, 8 · width)."""
        hidden: Tensor = self.pool(self.blocks(self.stem(images)))
        return hidden


class _Block(nn.Module):
    """Two 3×3 convolutions beside a shortcut; if it changes the channels, it also halves the side."""

    def __init__(self, before: int, after: int, norm: str) -> None:
        super().__init__()
        halved: list[nn.Module] = [] if before == after else [AveragePool(2)]
        self.main = nn.Sequential(
            _convolution(before, after, 3), _norm(norm, after), nn.ReLU(), *halved,
            _convolution(after, after, 3), _norm(norm, after),
        )  # fmt: skip
        self.shortcut = nn.Sequential(*(
            [] if before == after else [_convolution(before, after, 1), *halved, _norm(norm, after)]
        ))  # fmt: skip

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the block's output."""
        return torch.relu(self.main(inputs) + self.shortcut(inputs))


def _convolution(before: int, after: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)


def _norm(norm: str, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(width, width)
