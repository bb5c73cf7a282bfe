"""Which networks :class:`dap.nets.ClassifierTraining` can train."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from dap.nets.seeded import SeededMode

__all__ = ["training_obstacle"]


def training_obstacle(net: nn.Module, shape: tuple[int, int, int]) -> str | None:
    """Return what keeps a network from being trained by :class:`dap.nets.ClassifierTraining`, in words.

    That loop keeps only the parameters and seeds only its own draws. So it trains no network with batch normalisation,
    whose running statistics are no parameters, and none that draws random numbers in training, as dropout does.

    Args:
        net: Takes float images (B, channels, H, W). It is run on torch's meta device: nothing is computed.
        shape: Channels, height and width of an image.

    Example:
        >>> training_obstacle(nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), (1, 2, 2))
        'dropout or stochastic depth'
        >>> training_obstacle(nn.Flatten(), (1, 2, 2)) is None
        True
    """
    if any(isinstance(layer, _BatchNorm) for layer in net.modules()):
        return "batch normalisation"
    state = {name: value.detach().to("meta") for name, value in (*net.named_parameters(), *net.named_buffers())}
    training, draws = net.training, SeededMode(torch.Generator())
    net.train()
    try:
        with torch.no_grad(), draws:
            functional_call(net, state, (torch.empty(2, *shape, device="meta"),))
    finally:
        net.train(training)
    return "dropout or stochastic depth" if draws.drew else None
