"""Measures a finished prior on held-out images, and writes its model card and the picture of samples beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dap.bar import Bars
from dap.evaluation import recognised, train_judge
from dap.nets import Trained
from dap.priors.dit import DiTPrior
from dap.report import contact_sheet
from dap.rng import generator
from dap.sampling import SamplingSettings, sample
from dap.storage.checked_json import NUMBER, fields, items, read_json
from dap.storage.files import write_atomic
from dap.training.autoencoder import to_float
from dap.training.card import Figures, card

__all__ = ["LOSSES", "RECOMMENDED", "SAMPLES", "Split", "lacks_card", "losses_file", "write_card"]

RECOMMENDED = {"num_inference_steps": 50, "guidance_scale": 1.5, "block": 2}
SAMPLES, SHOWN = 50, 10  # sample 50 of each class, show 10
LOSSES, CARD = "losses.json", "README.md"
COURSE = fields({"losses": items(NUMBER), "seconds": NUMBER})
KEPT = "the prior is finished and can be used; the same command makes its card"


class Split(NamedTuple):
    """uint8 images (N, C, H, W) and their labels, int64 (N,), on the CPU."""

    images: Tensor
    labels: Tensor


def lacks_card(folder: Path) -> bool:
    """Return whether the folder of a finished prior has no card yet, and what a card is made of."""
    return (folder / LOSSES).is_file() and not (folder / CARD).exists()


def losses_file(autoencoder: Trained, denoiser: Trained) -> bytes:
    """Return the content of the file with the losses and seconds of both trainings."""
    parts = {"autoencoder": autoencoder, "denoiser": denoiser}
    return json.dumps({
        name: {"losses": trained.losses, "seconds": trained.seconds} for name, trained in parts.items()
    }).encode()  # fmt: skip


def write_card(
    folder: Path,
    identity: Mapping[str, object],
    source: str,
    class_names: tuple[str, ...],
    train: Split,
    test: Split,
    *,
    seed: int,
    device: torch.device,
    bars: Bars,
) -> None:
    """Measure a prior as it is loaded; write ``samples.png``, and ``README.md`` last.

    Args:
        folder: The finished prior.
        identity: Options of the training; see :func:`dap.train_prior`.
        source: The name of the source.
        class_names: The names of the labels.
        train: The training images.
        test: The held-out images.
        seed: The seed of the samples and of the judge.
        device: Where to compute.
        bars: Opens the bars.
    """
    prior, settings = DiTPrior.from_pretrained(folder, device=device), SamplingSettings.choose(RECOMMENDED)
    course = read_json(folder / LOSSES, fields({"autoencoder": COURSE, "denoiser": COURSE}))
    made = []
    with bars.stage("samples", total=SAMPLES * len(class_names), unit=" images", kept=KEPT) as bar:
        for label, name in enumerate(class_names):
            generators = [generator(seed, "card", name, number) for number in range(SAMPLES)]
            latents = sample(prior, torch.full((SAMPLES,), label), generators, settings=settings)
            made.append(prior.decode(latents))
            bar.update(SAMPLES)
    samples = torch.cat(made)
    rows = [
        (name, [partial(_picture, image) for image in samples[label * SAMPLES :][:SHOWN]])
        for label, name in enumerate(class_names)
    ]  # fmt: skip
    stream = io.BytesIO()
    contact_sheet(rows).save(stream, format="PNG")
    write_atomic(folder / "samples.png", stream.getvalue())
    judge = train_judge(
        train.images.numpy(), train.labels.numpy(), len(class_names), seed, device, bars=bars, kept=KEPT
    )
    judged = recognised(judge, samples.numpy(), np.repeat(np.arange(len(class_names)), SAMPLES), device)
    figures = Figures(
        autoencoder=Trained({}, **course["autoencoder"]),
        denoiser=Trained({}, **course["denoiser"]),
        error=_error(prior, test.images),
        judge=recognised(judge, test.images.numpy(), test.labels.numpy(), device).share,
        recognised={name: judged.per_class[label] for label, name in enumerate(class_names)},
    )
    text = card(identity, source, len(train.images), len(test.images), figures)
    write_atomic(folder / CARD, text.encode())


@torch.no_grad()
def _error(prior: DiTPrior, images: Tensor) -> float:
    """Return the mean of |x̂ − x| on [−1, 1] of images that were encoded and decoded."""
    totals = [
        (prior.decode_pixels(prior.encode(batch)).cpu() - to_float(batch)).abs().sum() for batch in images.split(250)
    ]
    return float(torch.stack(totals).sum()) / images.numel()


def _picture(image: Tensor) -> Image.Image:
    """Return a uint8 image (C, H, W) as a picture, grey if it has one channel."""
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
