"""The short sampling chain of :mod:`dap.methods.ld3m`, with a residual path to its start."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from dap.priors.noise_levels import level
from dap.priors.schedulers import clip_range
from dap.sampling import SamplingSettings, denoise_in_parts
from dap.sampling.schedule import ddim_of

if TYPE_CHECKING:
    from torch import Tensor

    from dap.priors import Prediction, Prior

__all__ = ["residual_chain"]


def residual_chain(
    prior: Prior,
    z: Tensor,
    noise: Tensor,
    labels: Tensor,
    condition: Tensor | None,
    *,
    steps: int,
    settings: SamplingSettings,
    pass_size: int | None = None,
) -> Tensor:
    """Return x_0 at the end of the chain, float32 (B, C, h, w), with the graph to z and the condition.

    Args:
        prior: The diffusion model.
        z: (B, C, h, w).
        noise: ε, of the same shape.
        labels: The prior's labels, int64 (B,).
        condition: c, (B, *condition_shape); None if the prior has none.
        steps: n.
        settings: The settings of the run; their sampler and its number of steps are not used.
        pass_size: The most slots in one call of the denoiser; None: all.
    """
    scheduler = ddim_of(prior, replace(settings, num_inference_steps=steps))
    clip, last = clip_range(scheduler), len(scheduler.timesteps) - 1
    first = level(scheduler, 0)
    x = first.alpha * z + first.sigma * noise

    def estimate(x: Tensor, t: Tensor, condition: Tensor | None) -> Prediction:
        return denoise_in_parts(
            prior, x, t, labels, pass_size=pass_size, guidance_scale=settings.guidance_scale, through=True,
            condition=condition,
        )  # fmt: skip

    at_once = pass_size is None or len(z) <= pass_size  # parts are checkpointed by themselves
    for step, t in enumerate(scheduler.timesteps):
        noise_level = level(scheduler, step)
        prediction: Prediction = (
            checkpoint(estimate, x, t, condition, use_reentrant=False, preserve_rng_state=False)
            if torch.is_grad_enabled() and at_once
            else estimate(x, t, condition)
        )
        eps, x0 = prediction.eps, prediction.x0
        if x0 is None:
            x0 = (x - noise_level.sigma * eps) / noise_level.alpha
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
        share = (last - step) / last
        x0 = (1 - share) * x0 + share * z
        x = noise_level.scale_after * (noise_level.after**0.5 * x0 + (1 - noise_level.after) ** 0.5 * eps)
    return x
