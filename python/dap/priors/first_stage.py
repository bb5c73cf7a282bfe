"""The first stage of a latent pipeline: the VAE of diffusers between images and latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dap.errors import DivergedError, OptionError

if TYPE_CHECKING:
    from diffusers import ModelMixin

__all__ = ["decode_latents", "encode_pixels", "image_scale", "levels"]

ENTRIES = ("in_channels", "scaling_factor")  # of its configuration that are read, beside the widths of the levels


def image_scale(name: str, first_stage: ModelMixin) -> tuple[int, int]:
    """Return the channels of an image, and how many pixels stand for one position of a latent on each side.

    Raises:
        OptionError: Its configuration is not that of an ``AutoencoderKL``, ``VQModel`` or ``AutoencoderDC``.
    """
    config, (widths, _) = first_stage.config, levels(first_stage)
    lacking = [key for key in ENTRIES if config.get(key) is None] + ["block_out_channels"] * (not widths)
    if lacking:
        raise OptionError(
            f"{name}: expected an AutoencoderKL, VQModel or AutoencoderDC as first stage, the configuration of this "
            f"{type(first_stage).__name__} has no {' and no '.join(lacking)}"
        )
    return config.in_channels, 2 ** (len(widths) - 1)


def levels(first_stage: ModelMixin) -> tuple[Sequence[int], int]:
    """Return the channels of the encoder's levels, from the image down, and the layers of the first level.

    There are no channels if the configuration does not say them.
    """
    config = first_stage.config
    if "encoder_block_out_channels" in config:  # AutoencoderDC
        return config.encoder_block_out_channels, config.encoder_layers_per_block[0]
    return config.get("block_out_channels") or (), config.get("layers_per_block") or 1


def encode_pixels(name: str, first_stage: ModelMixin, pixels: Tensor) -> Tensor:
    """Return the latents of pixels in [-1, 1], float32: the posterior's mean, shifted and scaled by its configuration.

    Raises:
        DivergedError: A latent is not finite.
    """
    encoded = first_stage.encode(pixels.to(first_stage.dtype))
    # diffusers: AutoencoderKL returns a posterior, VQModel "latents", AutoencoderDC "latent"
    mean = encoded.latent_dist.mean if "latent_dist" in encoded else encoded[0]
    shift = first_stage.config.get("shift_factor")  # of SD3 and FLUX
    latents: Tensor = (mean if shift is None else mean - shift) * first_stage.config.scaling_factor
    if not torch.isfinite(latents).all():
        raise _overflow(name, "encoder", first_stage.dtype)
    return latents.float()


def decode_latents(name: str, first_stage: ModelMixin, latents: Tensor) -> Tensor:
    """Return the pixels of latents, float32, about [-1, 1].

    Raises:
        DivergedError: A pixel is not finite, though all latents are.
    """
    scaled, shift = (
        latents.to(first_stage.dtype) / first_stage.config.scaling_factor,
        first_stage.config.get("shift_factor"),
    )
    pixels: Tensor = first_stage.decode(scaled if shift is None else scaled + shift).sample
    if not pixels.is_meta and not torch.isfinite(pixels).all() and torch.isfinite(latents).all():
        raise _overflow(name, "decoder", first_stage.dtype)
    return pixels.float()


def _overflow(name: str, part: str, dtype: torch.dtype) -> DivergedError:
    advice = "check its weights"
    if dtype.itemsize < 4:
        advice = (
            "keep it in float32: leave vae_dtype out, or pipeline.vae.to(torch.float32) where the prior is an object"
        )
    return DivergedError(f"{name}: the first stage's {part} gives values that are not finite in {dtype}; {advice}")
