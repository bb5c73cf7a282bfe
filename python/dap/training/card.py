"""The model card of a trained prior: its parts, training and quality."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from dap.nets import Trained

__all__ = ["Figures", "card"]


@dataclass(frozen=True)
class Figures:
    """Measurements of a trained prior.

    Attributes:
        autoencoder: Losses and seconds of its training.
        denoiser: Losses and seconds of its training.
        error: Mean of |x̂ − x| on [−1, 1] of the autoencoder on held-out images.
        judge: Accuracy of the judge (a classifier) on held-out images, 0 to 1.
        recognised: Share of the samples of each class that the judge recognises, 0 to 1.
    """

    autoencoder: Trained
    denoiser: Trained
    error: float
    judge: float
    recognised: Mapping[str, float]


def card(identity: Mapping[str, object], source: str, images: int, held_out: int, figures: Figures) -> str:
    """Return the card as Markdown with the front matter of the Hugging Face hub.

    Args:
        identity: Options of the training; see :func:`dap.train_prior`.
        source: Name of the source.
        images: Number of training images.
        held_out: Number of held-out images.
        figures: Measurements.
    """
    grey, classes = identity["channels"] == 1, len(figures.recognised)
    first, second = figures.autoencoder, figures.denoiser
    mean = sum(figures.recognised.values()) / classes
    rows = "\n".join(f"| {name} | {100 * share:.0f} % |" for name, share in figures.recognised.items())
    return f"""---
library_name: diffusers
pipeline_tag: unconditional-image-generation
---

# A class-conditional latent DiT

A `DiTPipeline` folder with float16 weights, made by `dap.train_prior`. `prior=` of `dap.distill` takes it.
`training.json` has the options; the licence is that of the images.

| part | |
|---|---|
| images | {identity["size"]} × {identity["size"]}, {"grey" if grey else "RGB"}, {classes} classes |
| VAE | `AutoencoderKL`, latents standardised per channel in its quantisation convolutions |
| denoiser | `DiTTransformer2DModel`, 6 blocks, 3 heads of 64, patch 2 |
| scheduler | `DDPMScheduler`, squared cosine, ε-prediction, x0 clipped to ±4 |

## Training

On {images} images of `{source}`, on {os.cpu_count()} cores ({platform.machine()}), torch {version("torch")},
seed {identity["seed"]}:

- VAE: {identity["autoencoder_steps"]} steps of 64 images, {first.seconds:.0f} s; loss {_course(first)}.
- DiT: {identity["denoiser_steps"]} steps of 128 latents, {second.seconds:.0f} s; loss {_course(second)}.

## Quality

On {held_out} images that were not trained on (every twentieth of a class):

- **VAE**: mean absolute error {figures.error:.4f} on [−1, 1].
- **Samples**: of 50 of each class (50 steps, guidance 1.5; `samples.png` shows ten), a classifier trained on the same
  images, which is right on {100 * figures.judge:.1f} % of the held-out ones, takes {100 * mean:.1f} % for their class:

| class | recognised |
|---|---|
{rows}
"""


def _course(trained: Trained) -> str:
    """Return the loss at the start, half way and at the end."""
    losses = [trained.losses[0], trained.losses[len(trained.losses) // 2], trained.losses[-1]]
    return " → ".join(f"{loss:.4f}" for loss in losses)
