"""Features of real images that are noised to a timestep.

How many images are computed at once depends on the prior alone (:mod:`dap.priors.batches`), not on how many a call has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dap import rng
from dap.features.pooling import Tap
from dap.priors.noise_levels import noised_input

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from dap.priors import Prior

__all__ = ["encode_images", "image_noise", "noised_features", "real_features"]


def image_noise(shape: tuple[int, ...], seed: int, image_id: str, timestep: int) -> Tensor:
    """Return the noise of one real image at one timestep; it depends on seed, image id and timestep alone."""
    return torch.randn(shape, generator=rng.generator(seed, "feature", image_id, timestep))


@torch.no_grad()
def noised_features(
    prior: Prior,
    latents: Tensor,
    image_ids: Sequence[str],
    *,
    label: int,
    tap: Tap,
    scheduler: SchedulerMixin,
    timestep: int,
    seed: int,
    shared_noise: bool = False,
) -> Tensor:
    """Return φ(α_t z + σ_t ε, t) of the latents z of real images, under their class's label.

    Args:
        prior: The prior.
        latents: Latents of real images, (N, C, h, w).
        image_ids: Their ids; the noise of each image depends on its id.
        label: The prior's label for all of them.
        tap: Where the feature is taken.
        scheduler: The diffusers scheduler whose ``add_noise`` takes the latents to ``timestep``.
        timestep: t of the noise schedule.
        seed: Root seed of the noise.
        shared_noise: Use the same noise for all images, instead of one for each.

    Returns:
        Features with shape (N, D), float32, on the CPU.
    """
    shape, together = tuple(latents.shape[1:]), prior.batches.features
    names = ["shared"] * len(image_ids) if shared_noise else list(image_ids)
    batches = []
    for start in range(0, len(latents), together):
        z = latents[start : start + together].to(prior.device)
        noise = torch.stack([image_noise(shape, seed, name, timestep) for name in names[start : start + together]])
        noised = noised_input(scheduler, z, noise.to(prior.device), timestep)
        t, labels = torch.tensor(timestep, device=prior.device), torch.full((len(z),), label, device=prior.device)
        tokens = prior.features(noised, t, labels, tap.block)
        batches.append(tap.pool(tokens).cpu())
    return torch.cat(batches)


def encode_images(prior: Prior, images: Tensor) -> Tensor:
    """Return latents with shape (N, C, h, w), float32 on the CPU, of uint8 images (N, channels, H, W).

    ``prior.batches.encode`` images are encoded at once. The rows are contiguous, whatever layout the encoder's
    convolutions chose: layers after it may round differently with another one.
    """
    return torch.cat([prior.encode(batch).cpu().contiguous() for batch in images.split(prior.batches.encode)])


def real_features(
    prior: Prior, images: Tensor, image_ids: Iterable[str], *, label: int, tap: Tap, timestep: int = 100, seed: int = 0
) -> Tensor:
    """Return features (N, D) of uint8 images (N, channels, H, W) at t = 100, in which the metrics are computed."""
    return noised_features(
        prior, encode_images(prior, images), list(image_ids), label=label, tap=tap,
        scheduler=prior.noise_schedule(), timestep=timestep, seed=seed,
    )  # fmt: skip
