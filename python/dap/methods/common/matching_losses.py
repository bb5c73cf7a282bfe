"""What made images are to have in common with real ones, for methods that optimise them (:mod:`dap.methods.ld3m`).

Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, https://arxiv.org/abs/2110.04181; Zhao,
Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, https://arxiv.org/abs/2006.05929.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["distribution_loss", "gradient_loss"]


def distribution_loss(net: nn.Module, real: Tensor, made: Tensor) -> Tensor:
    """‖mean ψ(real) − mean ψ(made)‖², with ψ all of a network but its last layer.

    Args:
        net: Of :func:`dap.nets.create_net`.
        real: Images, float (N, channels, H, W) in [−1, 1].
        made: Images (M, channels, H, W), with a graph.
    """
    with torch.no_grad():
        target = net.features(real).mean(0)  # type: ignore[operator]
    found: Tensor = (net.features(made).mean(0) - target).square().sum()  # type: ignore[operator]
    return found


def gradient_loss(net: nn.Module, real: Tensor, made: Tensor, *, target: int) -> Tensor:
    """Σ 1 − cos of the cross-entropy's gradients on real and made images of class ``target``, over rows of weights.

    A row is what leads to one output of a layer, as in the released code of gradient matching; biases and the scales of
    normalisations, which have one number for each output, are left out there and here.
    """
    weights = [each for each in net.parameters() if each.dim() > 1]

    def gradients(images: Tensor, *, graph: bool) -> list[Tensor]:
        loss = functional.cross_entropy(net(images), torch.full((len(images),), target, device=images.device))
        return [each.flatten(1) for each in torch.autograd.grad(loss, weights, create_graph=graph)]

    with torch.enable_grad():
        wanted = [each.detach() for each in gradients(real, graph=False)]
        found = gradients(made, graph=True)
    gaps = [(1 - functional.cosine_similarity(a, b, dim=1)).sum() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(gaps).sum()
