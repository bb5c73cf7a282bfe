"""The ConvNet of the dataset-distillation literature, and the table of network names.

Architecture: Gidaris and Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting", CVPR 2018; as the peers use
it (protocols.md, B.1): depth x [3x3 convolution, padding 1 -> GroupNorm(C, C), which is instance normalisation with an
affine map -> ReLU -> 2x2 average pooling], flattened into one linear layer.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from dap.errors import OptionError
from dap.registry import Registry

__all__ = ["ConvNet", "create_net", "list_nets"]


class ConvNet(nn.Module):
    """``depth`` blocks of convolution, normalisation, ReLU and pooling, then one linear layer.

    The weights are drawn from ``generator`` alone, by PyTorch's default rule; global random state is neither read nor
    moved. They lie in channels-last order, which is the quicker one on a CPU.

    Args:
        depth: Number of blocks; each halves the side (odd sides are rounded down).
        width: Channels of every block.
        channels: Channels of the images.
        classes: Number of classes.
        size: Side of the square images in pixels, at least ``2 ** depth``.
        generator: CPU generator of the initial weights.

    Raises:
        OptionError: The images are too small for so many poolings.

    Example:
        >>> net = ConvNet(depth=3, width=32, channels=1, classes=10, size=32, generator=torch.Generator())
        >>> net(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, *, depth: int, width: int, channels: int, classes: int, size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        side = size // 2**depth
        if side < 1:
            raise OptionError(f"a ConvNet of depth {depth} needs images of at least {2**depth} pixels, got {size}")
        layers: list[nn.Module] = []
        with torch.device("meta"):  # no memory and no random number is spent on weights that are overwritten below
            for block in range(depth):
                layers += [
                    nn.Conv2d(channels if block == 0 else width, width, 3, padding=1),
                    nn.GroupNorm(width, width),
                    nn.ReLU(),
                    nn.AvgPool2d(2),
                ]
            layers += [nn.Flatten(), nn.Linear(width * side * side, classes)]
        self.layers = nn.Sequential(*layers).to_empty(device="cpu")
        self._initialise(generator)
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # kaiming_uniform with a = √5 and the rule for biases are both U(−b, b) with b = 1 / √(fan in).
                bound = 1 / math.sqrt(layer.weight[0].numel())
                layer.weight.uniform_(-bound, bound, generator=generator)
                assert layer.bias is not None
                layer.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(layer, nn.GroupNorm):
                layer.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Logits with shape (B, classes) of float images in [-1, 1] with shape (B, channels, size, size)."""
        logits: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees of images, with shape (B, width · side²)."""
        hidden: Tensor = self.layers[:-1](images.contiguous(memory_format=torch.channels_last))
        return hidden


class NetBuilder(Protocol):
    """Builds one named network; its initial weights come from the generator alone."""

    def __call__(
        self, *, width: int, channels: int, classes: int, size: int, generator: torch.Generator
    ) -> nn.Module: ...


_NETS: Registry[NetBuilder] = Registry("network")


@_NETS.register("convnet3")
def _convnet3(*, width: int, channels: int, classes: int, size: int, generator: torch.Generator) -> nn.Module:
    return ConvNet(depth=3, width=width, channels=channels, classes=classes, size=size, generator=generator)


def create_net(
    name: str, *, width: int, channels: int, classes: int, size: int, generator: torch.Generator
) -> nn.Module:
    """Builds a network by name, on the CPU.

    Args:
        name: One of :func:`list_nets`.
        width: Channels of a block; the protocol states it.
        channels: Channels of the images.
        classes: Number of classes.
        size: Side of the square images in pixels.
        generator: CPU generator of the initial weights.

    Raises:
        OptionError: The name is unknown, or the images are too small for the network.

    Example:
        >>> net = create_net("convnet3", width=32, channels=1, classes=10, size=32, generator=torch.Generator())
        >>> sum(weights.numel() for weights in net.parameters())
        24138
    """
    return _NETS[name](width=width, channels=channels, classes=classes, size=size, generator=generator)


def list_nets() -> list[str]:
    """Names that :func:`create_net` knows."""
    return list(_NETS)
