"""The model card of a prior that was trained here: what it is, how it was made, and how good it is."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from dap.nets import Trained

__all__ = ["Figures", "card"]


@dataclass(frozen=True)
class Figures:
    """What is measured of a prior.

    Attributes:
        autoencoder, denoiser: Their trainings.
        error: Mean of |x̂ − x| on [−1, 1] of the autoencoder, on held-out images.
        judge: Share of the held-out images that the judge takes for their class.
        recognised: Share of the samples of each class that it takes for that class.
    """

    autoencoder: Trained
    denoiser: Trained
    error: float
    judge: float
    recognised: Mapping[str, float]


def card(identity: Mapping[str, Any], source: str, images: int, held_out: int, figures: Figures) -> str:
    """The card as Markdown with the front matter of the Hugging Face hub."""
    grey, classes = identity["channels"] == 1, len(figures.recognised)
    first, second = figures.autoencoder, figures.denoiser
    share = sum(figures.recognised.values()) / len(figures.recognised)
    rows = "\n".join(f"| {name} | {100 * found:.0f} % |" for name, found in figures.recognised.items())
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
  images, which is right on {100 * figures.judge:.1f} % of the held-out ones, takes {100 * share:.1f} % for their class:

| class | recognised |
|---|---|
{rows}
"""


def _course(trained: Trained) -> str:
    """The loss at the start, half way and at the end."""
    shown = [trained.losses[0], trained.losses[len(trained.losses) // 2], trained.losses[-1]]
    return " → ".join(f"{loss:.4f}" for loss in shown)
