"""The first stage of a small prior: an ``AutoencoderKL`` whose latents are standardised.

Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; Rombach et al., "High-Resolution Image Synthesis with
Latent Diffusion Models", 2022. The loss of an image of P values is the mean of |x̂ − x| plus 10⁻⁴ · KL / P; for small
images there is no adversarial or perceptual loss. ``DiTPipeline`` scales latents by a single number, so the mean and
deviation of each latent channel over the training images are built into the quantisation convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from dap import rng
from dap.bar import NO_BARS, Bars
from dap.nets import Trained, optimise

__all__ = ["autoencoder_loss", "build_autoencoder", "latents_of", "standardise", "to_float", "train_autoencoder"]

BATCH, PEAK_LR, WARM_UP, WEIGHT_DECAY, KL_WEIGHT = 64, 2e-3, 200, 1e-4, 1e-4
LATENT_CHANNELS, WIDTHS = 8, (32, 64, 64, 128)


def build_autoencoder(channels: int, size: int, seed: int) -> AutoencoderKL:
    """Return a new network of 0.9 million parameters (up to 64 pixels) or 2.2 million (above).

    Args:
        channels: Channels of the images.
        size: Side of the images. Latents have 8 channels and a quarter of the side, above 64 pixels an eighth.
        seed: Seed of the initial weights.
    """
    levels = 3 if size <= 64 else 4
    with torch.random.fork_rng(devices=[]):  # diffusers draws from the global generator
        torch.manual_seed(rng.derive_seed(seed, "autoencoder"))
        return AutoencoderKL(
            in_channels=channels, out_channels=channels, latent_channels=LATENT_CHANNELS, sample_size=size,
            scaling_factor=1.0, down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels, block_out_channels=WIDTHS[:levels], layers_per_block=1,
            norm_num_groups=8, mid_block_add_attention=False,
        )  # fmt: skip


def train_autoencoder(
    vae: AutoencoderKL,
    images: Tensor,
    *,
    steps: int,
    seed: int,
    checkpoint: Path,
    dtype: torch.dtype = torch.bfloat16,
    bars: Bars = NO_BARS,
) -> Trained:
    """Train a network in place and standardise its latents.

    Args:
        vae: From :func:`build_autoencoder`, on its device.
        images: uint8 (N, C, H, W), on the CPU.
        steps: Number of steps, each on 64 images.
        seed: Seed of the batches and the posterior's noise.
        checkpoint: See :func:`dap.nets.optimise`.
        dtype: In which products are computed (autocast); weights stay in float32.
        bars: Opens the bar.
    """
    trained = optimise(
        dict(vae.named_parameters()), autoencoder_loss(vae, images, dtype), steps=steps, peak_lr=PEAK_LR,
        warm_up=WARM_UP, betas=(0.9, 0.999), weight_decay=WEIGHT_DECAY, seed=(seed, "autoencoder"),
        checkpoint=checkpoint, title="autoencoder", bars=bars,
    )  # fmt: skip
    vae.eval().requires_grad_(False)
    standardise(vae, images, bars)
    return trained


def autoencoder_loss(vae: AutoencoderKL, images: Tensor, dtype: torch.dtype) -> Callable[[torch.Generator], Tensor]:
    """Return the loss of a step on 64 images; see :func:`train_autoencoder`."""
    device = next(vae.parameters()).device

    def loss(draw: torch.Generator) -> Tensor:
        x = to_float(images[torch.randint(len(images), (BATCH,), generator=draw)]).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=draw).to(device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        divergence = posterior.kl().float().mean() / x[0].numel()
        total: Tensor = (decoded - x).abs().mean() + KL_WEIGHT * divergence
        return total

    return loss


@torch.no_grad()
def standardise(vae: AutoencoderKL, images: Tensor, bars: Bars = NO_BARS) -> None:
    """Rewrite the quantisation convolutions so that latent channels have mean 0 and deviation 1 over ``images``."""
    latents = latents_of(vae, images, bars, title="standardising")
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    quant, post, channels = vae.quant_conv, vae.post_quant_conv, len(mean)
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()  # of the log-variances


@torch.no_grad()
def latents_of(vae: AutoencoderKL, images: Tensor, bars: Bars = NO_BARS, *, title: str = "latents") -> Tensor:
    """Return the means of the posteriors of uint8 images (N, C, H, W): float32 (N, c, h, w) on the network's device."""
    device, latents = next(vae.parameters()).device, []
    kept = "the autoencoder is kept; the same command continues after it"
    with bars.stage(title, total=len(images), unit=" images", kept=kept) as bar:
        for batch in images.split(250):
            latents.append(vae.encode(to_float(batch).to(device)).latent_dist.mean)
            bar.update(len(batch))
    return torch.cat(latents)


def to_float(images: Tensor) -> Tensor:
    """Return uint8 images as float32 values in [−1, 1]."""
    return images.float() / 127.5 - 1
