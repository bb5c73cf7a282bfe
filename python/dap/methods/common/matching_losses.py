"""Distribution- and gradient-matching losses between real and generated images, for :mod:`dap.methods.ld3m`.

Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, https://arxiv.org/abs/2110.04181; Zhao,
Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, https://arxiv.org/abs/2006.05929.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["distribution_loss", "gradient_loss"]


def distribution_loss(net: nn.Module, real: Tensor, generated: Tensor) -> Tensor:
    """Return ‖mean ψ(real) − mean ψ(generated)‖², with ψ all layers of a network but the last.

    Args:
        net: A network of :func:`dap.nets.create_net`.
        real: Images, float (N, channels, H, W) in [−1, 1].
        generated: Images, float (M, channels, H, W) in [−1, 1], with a graph.

    Returns:
        A scalar with the graph to ``generated``.
    """
    with torch.no_grad():
        target = net.features(real).mean(0)  # type: ignore[operator]
    loss: Tensor = (net.features(generated).mean(0) - target).square().sum()  # type: ignore[operator]
    return loss


def gradient_loss(net: nn.Module, real: Tensor, generated: Tensor, *, target: int) -> Tensor:
    """Return Σ_rows 1 − cos of the gradients of the cross-entropy on real and on generated images.

    A row holds the weights that lead to one output of a layer. As in the released code of gradient matching, parameters
    with one number for each output are left out: biases and the scales of normalisations.

    Args:
        net: Maps float images in [−1, 1] to logits.
        real: Images, float (N, channels, H, W) in [−1, 1].
        generated: Images, float (M, channels, H, W) in [−1, 1], with a graph.
        target: The class number of all images.

    Returns:
        A scalar with the graph to ``generated``.
    """
    weights = [parameter for parameter in net.parameters() if parameter.dim() > 1]

    def gradients(images: Tensor, *, graph: bool) -> list[Tensor]:
        loss = functional.cross_entropy(net(images), torch.full((len(images),), target, device=images.device))
        return [rows.flatten(1) for rows in torch.autograd.grad(loss, weights, create_graph=graph)]

    with torch.enable_grad():
        of_real = [rows.detach() for rows in gradients(real, graph=False)]
        of_generated = gradients(generated, graph=True)
    gaps = [(1 - functional.cosine_similarity(a, b, dim=1)).sum() for a, b in zip(of_generated, of_real, strict=True)]
    return torch.stack(gaps).sum()
