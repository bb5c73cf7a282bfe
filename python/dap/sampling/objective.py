"""The training objective of a denoiser, by which class embeddings and words are learned with the denoiser frozen.

L = ‖ε − ε_θ(x_t, t, c)‖² / D with x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε and D the number of values of x_0 (Ho et al.,
"Denoising Diffusion Probabilistic Models", 2020, Eq. 14). If the network predicts v, ε_θ is computed from v. With flow
matching x_t = (1 − σ) x_0 + σ ε, and t is uniform too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dap.priors import Prior
from dap.priors.noise_levels import denoiser_level

__all__ = ["denoising_loss", "draw_noised", "noised_latents"]


def denoising_loss(
    prior: Prior,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    labels: Tensor,
    *,
    condition: Tensor | None = None,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Return L of each latent, with the graph to the latents, the condition and the parameters that require a gradient.

    Args:
        prior: The diffusion model.
        latents: x_0, float32 (B, C, h, w).
        noise: ε, of the same shape.
        timesteps: t, int64 (B,).
        labels: The prior's labels, int64 (B,).
        condition: (B, *condition_shape), in place of the condition that the labels have.
        guidance_scale: The scale of classifier-free guidance.

    Returns:
        float32 (B,).

    Example:
        >>> from dap.priors import load_prior
        >>> prior, x = load_prior("fashion-dit"), torch.zeros(2, 8, 8, 8)
        >>> denoising_loss(prior, x, torch.randn_like(x), torch.tensor([10, 500]), torch.tensor([0, 1])).shape
        torch.Size([2])
    """
    predicted = prior.denoise(
        noised_latents(prior, latents, noise, timesteps), timesteps.to(prior.device), labels.to(prior.device),
        guidance_scale=guidance_scale, through=True, condition=condition,
    ).eps  # fmt: skip
    return (noise.to(prior.device) - predicted).square().mean((1, 2, 3))


def noised_latents(prior: Prior, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Return x_t of each latent, (B, C, h, w) on the prior's device, in the scale that its denoiser expects."""
    levels = denoiser_level(prior.noise_schedule(), timesteps.to(prior.device))
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in levels)
    return alpha * latents.to(prior.device) + sigma * noise.to(prior.device)


def draw_noised(count: int, prior: Prior, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw noise (B, C, h, w) and timesteps (B,), uniform over the schedule, from a CPU generator."""
    levels = prior.noise_schedule().config.num_train_timesteps
    noise = torch.randn((count, *prior.latent_shape), generator=generator)
    return noise, torch.randint(levels, (count,), generator=generator)
