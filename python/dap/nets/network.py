"""The base class of classifiers, and the wrapper that makes one of a network of torchvision or timm."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["LibraryNetwork", "Network", "take_channels"]


class Network(nn.Module, ABC):
    """A classifier of square images. A subclass that lacks a part cannot be made: Python names the missing part."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of normalised float images with shape (B, channels, size, size)."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Return the input of the last layer, with shape (B, D), for images as in :meth:`forward`."""


class LibraryNetwork(Network):
    """A network of torchvision or timm.

    Args:
        net: Maps images to logits.
        head: The name of its last layer in ``net.named_modules()``.

    Example:
        >>> net = LibraryNetwork(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), "1")
        >>> net.features(torch.zeros(2, 3, 2, 2)).shape
        torch.Size([2, 12])
    """

    def __init__(self, net: nn.Module, head: str) -> None:
        super().__init__()
        self.net = net
        self._head = head

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, with shape (B, classes)."""
        logits: Tensor = self.net(images)
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the last layer, with shape (B, D)."""
        inputs: list[Tensor] = []
        handle = self.net.get_submodule(self._head).register_forward_pre_hook(
            lambda layer, arguments: inputs.append(arguments[0])
        )
        try:
            self.net(images)
        finally:
            handle.remove()
        return inputs[0]


@torch.no_grad()
def take_channels(net: nn.Module, channels: int) -> None:
    """Replace the first convolution of a network for RGB images by one for some channels.

    For grey images it sums over the colours: the network then returns what it returned for an RGB image with three
    equal channels. For 2 channels or more than 3, such as those of latents, it draws new weights from torch's global
    generator, scaled so that the variance of the output stays the same.
    """
    if channels == 3:
        return
    name, convolution = next((name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d))
    assert convolution.groups == 1, f"{name} has groups"
    weight = convolution.weight
    if channels == 1:
        taken = weight.sum(1, keepdim=True)
    else:
        taken = torch.randn_like(weight[:, :1].expand(-1, channels, -1, -1)) * weight.std() * (3 / channels) ** 0.5
    convolution.weight, convolution.in_channels = nn.Parameter(taken), channels
