"""The estimates of ε and x_0 that a network's output gives, by what the network was trained to predict."""

from __future__ import annotations

from torch import Tensor

__all__ = ["estimates_of"]


def estimates_of(
    predicts: str, sample: Tensor, output: Tensor, alpha: Tensor, sigma: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Return the estimate of ε, and that of x_0 if it does not follow from ε at all noise levels.

    Args:
        predicts: "v_prediction": v = α ε − σ x_0 with α² + σ² = 1 (Salimans and Ho, "Progressive
            Distillation for Fast Sampling of Diffusion Models", ICLR 2022); "flow": v = ε − x_0 with α + σ = 1
            (:mod:`dap.priors.flow`).
        sample: x_t = α x_0 + σ ε, the network's input, (B, C, h, w).
        output: The network's output, of the same shape.
        alpha: α_t, one for all slots or for each.
        sigma: σ_t, in the same way.

    Example:
        >>> import torch
        >>> x0, noise = torch.tensor([[[[2.0]]]]), torch.tensor([[[[-1.0]]]])
        >>> x = 0.75 * x0 + 0.25 * noise
        >>> estimates_of("flow", x, noise - x0, torch.tensor(0.75), torch.tensor(0.25))
        (tensor([[[[-1.]]]]), tensor([[[[2.]]]]))
    """
    alpha, sigma = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
    if predicts == "flow":
        return sample + alpha * output, sample - sigma * output
    return alpha * output + sigma * sample, None
