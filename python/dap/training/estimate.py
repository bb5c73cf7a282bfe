"""The time that a training will take, from a few steps of networks that are thrown away."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from dap import rng
from dap.nets import steps_done
from dap.training.autoencoder import autoencoder_loss, build_autoencoder
from dap.training.dit import BATCH, build_denoiser, denoiser_loss

__all__ = ["time_left"]

TIMED = 3  # steps, after one that is not timed


def time_left(
    images: Tensor,
    classes: int,
    folder: Path,
    *,
    autoencoder_steps: int,
    denoiser_steps: int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[str, str, str]:
    """Return the time that the autoencoder, the denoiser and 50 samples of each class will take, such as "12 min".

    Args:
        images: The training images, uint8 (N, C, H, W).
        classes: Number of classes.
        folder: The unfinished training; the steps of its checkpoints are not counted.
        autoencoder_steps: Steps of the autoencoder.
        denoiser_steps: Steps of the denoiser.
        device: Where to train.
        dtype: In which products are computed.
    """
    left = (
        autoencoder_steps - steps_done(folder / "autoencoder.safetensors"),
        denoiser_steps - steps_done(folder / "denoiser.safetensors"),
    )
    _, channels, size, _ = images.shape
    vae = build_autoencoder(channels, size, 0).to(device)
    with torch.no_grad():
        shape = vae.encode(torch.zeros(1, channels, size, size, device=device)).latent_dist.mean.shape[1:]
    first = _seconds_of_step(vae, autoencoder_loss(vae, images, dtype))
    denoiser, labels = build_denoiser(shape[0], shape[1], classes, 0).to(device), torch.zeros(BATCH, dtype=torch.int64)
    second = _seconds_of_step(denoiser, denoiser_loss(denoiser, torch.zeros(BATCH, *shape), labels, dtype))
    # 50 steps of 50 samples, twice for guidance; a forward pass is a third of a training step
    return _text(first * left[0]), _text(second * left[1]), _text(second / 3 * 50 * 100 / BATCH * classes)


def _text(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _seconds_of_step(net: nn.Module, loss: Callable[[torch.Generator], Tensor]) -> float:
    """Return the median time of a step of a network with AdamW."""
    optimizer, times = torch.optim.AdamW(net.parameters()), []
    for step in range(1 + TIMED):
        start = time.monotonic()
        optimizer.zero_grad()
        value = loss(rng.generator(0, "estimate", step))
        value.backward()
        optimizer.step()
        value.item()  # waits for the device
        times.append(time.monotonic() - start)
    return statistics.median(times[1:])
