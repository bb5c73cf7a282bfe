"""``dap.train_prior``: a small latent DiT of one's own, made as the built-in prior was made."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DiTPipeline
from PIL import Image
from torch import Tensor

from dap.data.open import SourceLike, open_source
from dap.data.source import Source
from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation import recognised, train_judge
from dap.nets import Trained
from dap.priors.dit import DiTPrior
from dap.report import contact_sheet
from dap.rng import generator
from dap.sampling import SamplingSettings, sample
from dap.storage.files import write_atomic
from dap.training.autoencoder import build_autoencoder, to_float, train_autoencoder
from dap.training.card import Figures, card
from dap.training.dit import build_denoiser, build_schedule, train_denoiser
from dap.training.folder import FINISHED, check_folder, training_folder

__all__ = ["train_prior"]

RECOMMENDED = {"num_inference_steps": 50, "guidance_scale": 1.5, "block": 2}
HELD_OUT, SAMPLES = 20, 50  # every so manieth image of a class is held out; samples of a class that are judged
SIDES = (16, 128)


def train_prior(
    source: SourceLike,
    *,
    out: str | Path,
    size: int | None = None,
    autoencoder_steps: int = 2000,
    denoiser_steps: int = 5000,
    classes: Collection[str] | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> DiTPrior:
    """Trains a class-conditional latent DiT on labelled images: a prior for small images of any kind.

    Writes the folder of a ``DiTPipeline`` (float16 weights), which ``prior=`` of :func:`dap.distill` takes, a model
    card (``README.md``) with its quality on images that were not trained on, and ``samples.png``. A training that was
    killed is continued by the same call and ends with the same weights; a folder that is finished is opened. All
    images are held in memory.

    Args:
        source: Real images, as for :func:`dap.distill`. Every twentieth of each class is held out for the card.
        out: The folder: new, empty, or of the same training.
        size: Side of the images in pixels, from 16 to 128, a multiple of 8; the first image's own, rounded up, if left
            out, but 64 at most.
        autoencoder_steps: Of 64 images.
        denoiser_steps: Of 128 latents.
        classes: Names of the classes; all if left out.
        seed: Root of all randomness.
        device: Where to train; the GPU if there is one.
        progress: Show progress bars.

    Returns:
        The prior, loaded from the folder.

    Raises:
        DapError: One of its kinds, for a bad option or source, or a folder with something else in it.

    Example:
        >>> import dap
        >>> prior = dap.train_prior("path/to/train", out="my-prior")  # doctest: +SKIP
        >>> distilled = dap.distill("path/to/train", prior="my-prior", out="distilled")  # doctest: +SKIP
    """
    for option, steps in (("autoencoder_steps", autoencoder_steps), ("denoiser_steps", denoiser_steps)):
        if type(steps) is not int or steps < 1:
            raise OptionError(f"{option}: expected a whole number of at least 1, got {steps!r}")
    images = open_source(source, classes=classes)
    side, channels = images.native_shape()
    size = size or min(64, max(SIDES[0], -(-side // 8) * 8))
    if size % 8 or not SIDES[0] <= size <= SIDES[1]:
        raise OptionError(f"size: expected a multiple of 8 from {SIDES[0]} to {SIDES[1]}, got {size}")
    chosen = resolve_device(device)
    identity = {
        "what": "dap.train_prior", "source": images.identity(), "classes": list(images.class_names), "size": size,
        "channels": channels, "autoencoder_steps": autoencoder_steps, "denoiser_steps": denoiser_steps, "seed": seed,
        "device": chosen.type,
    }  # fmt: skip
    folder = Path(out)
    if not check_folder(folder, identity):
        held = np.concatenate([images.of_class(label)[HELD_OUT - 1 :: HELD_OUT] for label in _labels(images)])
        if len(held) == 0:
            raise OptionError(f"{images.name}: expected a class of at least {HELD_OUT} images, to hold some out")
        kept = np.setdiff1d(np.arange(len(images)), held)
        train, test = (
            Split(torch.from_numpy(images.images(own, size=size, channels=channels)), torch.tensor(images.labels[own]))
            for own in (kept, held)
        )
        with training_folder(folder, identity) as workshop:
            trained = _train(workshop, identity, images.class_names, train, chosen, progress)
            _describe(workshop / FINISHED, identity, images, train, test, trained, chosen)
    return DiTPrior.from_pretrained(folder, device=chosen)


class Split(NamedTuple):
    """uint8 images (N, C, H, W) and their labels, int64 (N,), on the CPU."""

    images: Tensor
    labels: Tensor


def _train(
    workshop: Path,
    identity: dict[str, Any],
    names: Sequence[str],
    train: Split,
    device: torch.device,
    progress: bool,
) -> tuple[Trained, Trained]:
    """Trains both networks, and saves the pipeline."""
    seed, size = identity["seed"], identity["size"]
    vae = build_autoencoder(identity["channels"], size, seed).to(device)
    first = train_autoencoder(
        vae, train.images, steps=identity["autoencoder_steps"], seed=seed,
        checkpoint=workshop / "autoencoder.safetensors", progress=progress,
    )  # fmt: skip
    with torch.no_grad():
        latents = torch.cat([
            vae.encode(to_float(each).to(device)).latent_dist.mean.cpu() for each in train.images.split(250)
        ])  # fmt: skip
    denoiser = build_denoiser(latents.shape[1], latents.shape[2], len(names), seed).to(device)
    second = train_denoiser(
        denoiser, latents, train.labels, steps=identity["denoiser_steps"], seed=seed,
        checkpoint=workshop / "denoiser.safetensors", progress=progress,
    )  # fmt: skip
    finished = workshop / FINISHED
    shutil.rmtree(finished, ignore_errors=True)
    pipeline = DiTPipeline(denoiser, vae, build_schedule())
    pipeline.register_to_config(id2label={str(label): name for label, name in enumerate(names)})
    pipeline.to(torch.float16).save_pretrained(finished)
    write_atomic(finished / "dap_prior.json", json.dumps(RECOMMENDED).encode())
    return first, second


def _describe(
    finished: Path,
    identity: dict[str, Any],
    images: Source,
    train: Split,
    test: Split,
    trained: tuple[Trained, Trained],
    device: torch.device,
) -> None:
    """The model card and the samples, of the folder as it will be loaded."""
    prior, names, seed = DiTPrior.from_pretrained(finished, device=device), images.class_names, identity["seed"]
    settings = SamplingSettings.choose(RECOMMENDED)
    made = torch.cat([
        prior.decode(sample(
            prior, torch.full((SAMPLES,), label),
            [generator(seed, "card", name, number) for number in range(SAMPLES)], settings=settings,
        ))
        for label, name in enumerate(names)
    ])  # fmt: skip
    judge = train_judge(train.images.numpy(), train.labels.numpy(), len(names), seed, device)
    found = recognised(judge, made.numpy(), np.repeat(np.arange(len(names)), SAMPLES), device)
    figures = Figures(
        autoencoder=trained[0],
        denoiser=trained[1],
        error=_error(prior, test.images),
        judge=recognised(judge, test.images.numpy(), test.labels.numpy(), device).share,
        recognised={name: found.per_class[label] for label, name in enumerate(names)},
    )
    write_atomic(
        finished / "README.md", card(identity, images.name, len(train.images), len(test.images), figures).encode()
    )
    rows = [
        (name, [partial(_picture, image) for image in made[label * SAMPLES :][:10]])
        for label, name in enumerate(names)
    ]  # fmt: skip
    stream = io.BytesIO()
    contact_sheet(rows).save(stream, format="PNG")
    write_atomic(finished / "samples.png", stream.getvalue())


@torch.no_grad()
def _error(prior: DiTPrior, images: Tensor) -> float:
    """Mean of |x̂ − x| on [−1, 1] of images that go through the first stage."""
    totals = [
        (prior.decode_pixels(prior.encode(each)).cpu() - to_float(each)).abs().sum() for each in images.split(250)
    ]
    return float(torch.stack(totals).sum()) / images.numel()


def _picture(image: Tensor) -> Image.Image:
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _labels(images: Source) -> range:
    return range(len(images.class_names))
