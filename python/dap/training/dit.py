"""The denoiser of a small prior: a class-conditional DiT on latents.

Peebles and Xie, "Scalable Diffusion Models with Transformers", 2023; the noise is predicted, under the squared-cosine
schedule of Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021. For classifier-free guidance
(Ho and Salimans, 2021) a tenth of the labels become the null label, the same in all blocks. The network stays in eval
mode, because in train mode diffusers' ``LabelEmbedding`` would drop labels in each block independently.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel
from torch import Tensor
from torch.nn import functional

from dap import rng
from dap.bar import NO_BARS, Bars
from dap.nets import Trained, optimise

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

__all__ = ["build_denoiser", "build_schedule", "denoiser_loss", "train_denoiser"]

BATCH, PEAK_LR, WARM_UP, AVERAGE, NULL_SHARE = 128, 1e-3, 200, 0.999, 0.1


def build_denoiser(channels: int, side: int, classes: int, seed: int) -> DiTTransformer2DModel:
    """Return a new network of six blocks, three heads of 64 and patches of 2: 5.8 million parameters plus the labels'.

    Args:
        channels: Channels of the latents.
        side: Side of the latents, an even number.
        classes: Number of labels, 0 to classes − 1; the null label is ``classes``.
        seed: Seed of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):  # diffusers draws from the global generator
        torch.manual_seed(rng.derive_seed(seed, "denoiser"))
        denoiser = DiTTransformer2DModel(
            num_attention_heads=3, attention_head_dim=64, num_layers=6, patch_size=2, sample_size=side,
            in_channels=channels, out_channels=channels, num_embeds_ada_norm=classes,
        )  # fmt: skip
    return denoiser.eval()


def build_schedule() -> SchedulerMixin:
    """Return DDPM's scheduler with 1,000 steps and squared cosine; x̂_0 is clipped to ±4 deviations of the latents."""
    return DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", timestep_spacing="leading", variance_type="fixed_small",
        clip_sample=True, clip_sample_range=4.0,
    )  # fmt: skip


def train_denoiser(
    denoiser: DiTTransformer2DModel,
    latents: Tensor,
    labels: Tensor,
    *,
    steps: int,
    seed: int,
    checkpoint: Path,
    dtype: torch.dtype = torch.bfloat16,
    bars: Bars = NO_BARS,
) -> Trained:
    """Train a network in place; its weights become their moving average.

    Args:
        denoiser: From :func:`build_denoiser`, on its device.
        latents: float32 (N, C, h, w), standardised, on the CPU.
        labels: int64 (N,).
        steps: Number of steps, each on 128 latents.
        seed: Seed of the batches, timesteps, noise and null labels.
        checkpoint: See :func:`dap.nets.optimise`.
        dtype: In which products are computed (autocast); weights stay in float32.
        bars: Opens the bar.
    """
    trained = optimise(
        dict(denoiser.named_parameters()), denoiser_loss(denoiser, latents, labels, dtype), steps=steps,
        peak_lr=PEAK_LR, warm_up=WARM_UP, average=AVERAGE, seed=(seed, "denoiser"), checkpoint=checkpoint,
        title="denoiser", bars=bars,
    )  # fmt: skip
    denoiser.requires_grad_(False).load_state_dict(trained.average, strict=False)  # the average has no buffers
    return trained


def denoiser_loss(
    denoiser: DiTTransformer2DModel, latents: Tensor, labels: Tensor, dtype: torch.dtype
) -> Callable[[torch.Generator], Tensor]:
    """Return the loss of a step on 128 latents; see :func:`train_denoiser`."""
    device, schedule = next(denoiser.parameters()).device, build_schedule()
    null = denoiser.config.num_embeds_ada_norm

    def loss(draw: torch.Generator) -> Tensor:
        chosen = torch.randint(len(latents), (BATCH,), generator=draw)
        noise = torch.randn((BATCH, *latents.shape[1:]), generator=draw)
        timesteps = torch.randint(schedule.config.num_train_timesteps, (BATCH,), generator=draw)
        conditions = torch.where(torch.rand(BATCH, generator=draw) < NULL_SHARE, null, labels[chosen])
        noised = schedule.add_noise(latents[chosen], noise, timesteps)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            predicted = denoiser(noised.to(device), timestep=timesteps.to(device), class_labels=conditions.to(device))
        return functional.mse_loss(predicted.sample.float(), noise.to(device))

    return loss
