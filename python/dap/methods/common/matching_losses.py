"""Distribution- and gradient-matching losses between real and generated images, for ``ld3m`` and ``dm``.

Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, https://arxiv.org/abs/2110.04181; Zhao,
Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, https://arxiv.org/abs/2006.05929.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap.nets import images_at_once

__all__ = ["LOSSES", "ClassLoss", "distribution_loss", "gradient_loss", "real_features"]

ClassLoss: TypeAlias = Callable[[nn.Module, Tensor, Tensor, int], Tensor]
"""A loss of a network, real images, generated images and the position of their class."""


def distribution_loss(net: nn.Module, real: Tensor, generated: Tensor) -> Tensor:
    """Return ‖mean ψ(real) − mean ψ(generated)‖², with ψ all layers of a network but the last.

    Args:
        net: A network of :func:`dap.nets.create_net`.
        real: Images as the network takes them, float (N, channels, H, W).
        generated: Images as the network takes them, float (M, channels, H, W), with a graph.

    Returns:
        A scalar with the graph to ``generated``.
    """
    target = real_features(net, real).mean(0)
    loss: Tensor = (net.features(generated).mean(0) - target).square().sum()  # type: ignore[operator]
    return loss


@torch.no_grad()
def real_features(net: nn.Module, images: Tensor) -> Tensor:
    """Return ψ of images (N, channels, H, W), float (N, D) without a graph, computed in parts that fit the memory."""
    parts = images.split(_at_once(net, images))
    return torch.cat([net.features(part) for part in parts])  # type: ignore[operator]


def gradient_loss(net: nn.Module, real: Tensor, generated: Tensor, *, target: int) -> Tensor:
    """Return Σ_rows 1 − cos of the gradients of the cross-entropy on real and on generated images.

    A row holds the weights that lead to one output of a layer. As in the released code of gradient matching, parameters
    with one number for each output are left out: biases and the scales of normalisations.

    Args:
        net: Maps images to logits.
        real: Images as the network takes them, float (N, channels, H, W).
        generated: Images as the network takes them, float (M, channels, H, W), with a graph.
        target: The class number of all images.

    Returns:
        A scalar with the graph to ``generated``.
    """
    weights = [parameter for parameter in net.parameters() if parameter.dim() > 1]

    def gradients(images: Tensor, *, graph: bool) -> list[Tensor]:
        loss = functional.cross_entropy(net(images), torch.full((len(images),), target, device=images.device))
        return [rows.flatten(1) for rows in torch.autograd.grad(loss, weights, create_graph=graph)]

    with torch.enable_grad():
        parts = real.split(_at_once(net, real))
        of_parts = [[len(part) / len(real) * rows for rows in gradients(part, graph=False)] for part in parts]
        of_real = [torch.stack(rows).sum(0).detach() for rows in zip(*of_parts, strict=True)]
        of_generated = gradients(generated, graph=True)
    gaps = [(1 - functional.cosine_similarity(a, b, dim=1)).sum() for a, b in zip(of_generated, of_real, strict=True)]
    return torch.stack(gaps).sum()


def _at_once(net: nn.Module, images: Tensor) -> int:
    """Return how many of these images go through a network at once."""
    channels, height, width = images.shape[1:]
    return images_at_once(net, (channels, height, width))


LOSSES: Mapping[str, ClassLoss] = {
    "distribution": lambda net, real, generated, index: distribution_loss(net, real, generated),
    "gradient": lambda net, real, generated, index: gradient_loss(net, real, generated, target=index),
}
"""The losses by the name that methods take."""
