"""The variational bound of a learned variance, which is trained on beside the squared error of ε.

Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021, https://arxiv.org/abs/2102.09672,
Eq. 15 and its code, which the DiT repository has too. The network's ν in [−1, 1] gives the variance

    log Σ = f log β_t + (1 − f) log β̃_t,    f = (ν + 1) / 2,    β̃_t = β_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t),

and the bound is the divergence of N(µ_θ, Σ) from the posterior of x_{t−1} given x_0, or at t = 0 the negative log
likelihood of x_0 in bins of 2 / 255, in bits and averaged over the numbers of x. µ_θ is not trained by it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["variance_bound"]

BIN = 1 / 255  # half of the width
EDGE = 0.999  # from here on a bin has no end
LEAST = 1e-12  # probability


def variance_bound(
    cumulative: Tensor, x0: Tensor, sample: Tensor, timesteps: Tensor, eps: Tensor, variance: Tensor
) -> Tensor:
    """Return the bound of each slot in bits, float32 (B,), with the graph to ``variance`` alone.

    Args:
        cumulative: ᾱ of each timestep of the schedule, (T,).
        x0: x_0, float32 (B, C, h, w).
        sample: x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε.
        timesteps: t, int64 (B,).
        eps: The estimate of ε.
        variance: ν, the network's values in [−1, 1] between the two variances.

    Example:
        >>> x = torch.zeros(1, 1, 2, 2)
        >>> variance_bound(torch.tensor([0.9, 0.5]), x, x, torch.tensor([1]), x, -torch.ones_like(x))
        tensor([0.])
    """
    after = cumulative.double().cpu()
    before = torch.cat([torch.ones(1, dtype=torch.float64), after[:-1]])
    beta = 1 - after / before
    posterior = beta * (1 - before) / (1 - after)
    smallest = torch.cat([posterior[1:2], posterior[1:]]).log()  # the first one is 0

    def at(values: Tensor) -> Tensor:
        return values[timesteps.cpu()].float().to(sample.device).view(-1, 1, 1, 1)

    def mean(x: Tensor) -> Tensor:
        of_x0, of_sample = beta * before.sqrt() / (1 - after), (1 - before) * (1 - beta).sqrt() / (1 - after)
        return at(of_x0) * x + at(of_sample) * sample

    estimate = (sample - at((1 - after).sqrt()) * eps.detach()) / at(after.sqrt())
    made, least = mean(estimate), at(smallest)
    log_variance = least + (variance + 1) / 2 * (at(beta.log()) - least)
    gap = (mean(x0) - made).square() * (-log_variance).exp()
    divergence = (log_variance - least - 1 + (least - log_variance).exp() + gap) / 2
    nats = torch.where(
        timesteps.view(-1, 1, 1, 1).to(sample.device) == 0, -_log_bin(x0, made, log_variance), divergence
    )
    return nats.mean((1, 2, 3)) / math.log(2)


def _log_bin(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the logarithm of the probability of the bin around x under a Gaussian."""
    inverse = (-log_variance / 2).exp()
    below, above = (_normal_cdf(inverse * (x - mean + side)) for side in (-BIN, BIN))
    inner = torch.where(x > EDGE, 1 - below, above - below)
    return torch.where(x < -EDGE, above, inner).clamp(min=LEAST).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """Return the distribution function of the normal distribution as the source approximates it."""
    return (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh()) / 2
