"""``dap.train_prior``: training a small latent DiT, as the built-in prior was trained."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import DiTPipeline
from PIL import Image
from torch import Tensor

from dap.config import check_whole
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
from dap.torch_state import own_torch_state
from dap.training.autoencoder import build_autoencoder, to_float, train_autoencoder
from dap.training.card import Figures, card
from dap.training.dit import build_denoiser, build_schedule, train_denoiser
from dap.training.folder import FINISHED, check_folder, training_folder

__all__ = ["train_prior"]

RECOMMENDED = {"num_inference_steps": 50, "guidance_scale": 1.5, "block": 2}
HELD_OUT, SAMPLES, SHOWN = 20, 50, 10  # hold out every 20th image of a class; sample 50 of each class, show 10
SIDES = (16, 128)


@own_torch_state()
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
    """Train a class-conditional latent DiT on labelled images: a prior for small images of any kind.

    Writes the folder of a ``DiTPipeline`` (float16 weights), which ``prior=`` of :func:`dap.distill` takes, a model
    card (``README.md``) with its quality on held-out images, and ``samples.png``. After a kill the same call continues
    and ends with the same weights; if the folder is finished, it is loaded. All images are held in memory.

    Args:
        source: Real images, as for :func:`dap.distill`. Every 20th image of each class is held out for the card.
        out: The training folder: new, empty, or of the same training.
        size: Side of the images in pixels, from 16 to 128, a multiple of 8. If left out, the side of the first image,
            rounded up, but at most 64.
        autoencoder_steps: Steps of the autoencoder, each on 64 images.
        denoiser_steps: Steps of the denoiser, each on 128 latents.
        classes: Names of the classes; all if left out.
        seed: Root seed of all randomness.
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
    check_whole("autoencoder_steps", autoencoder_steps)
    check_whole("denoiser_steps", denoiser_steps)
    images = open_source(source, classes=classes)
    side, channels = images.native_shape()
    size = size or min(64, max(SIDES[0], -(-side // 8) * 8))
    if size % 8 or not SIDES[0] <= size <= SIDES[1]:
        raise OptionError(f"size: expected a multiple of 8 from {SIDES[0]} to {SIDES[1]}, got {size}")
    where = resolve_device(device)
    identity = {
        "what": "dap.train_prior", "source": images.identity(), "classes": list(images.class_names), "size": size,
        "channels": channels, "autoencoder_steps": autoencoder_steps, "denoiser_steps": denoiser_steps, "seed": seed,
        "device": where.type,
    }  # fmt: skip
    folder = Path(out)
    if not check_folder(folder, identity):
        train, test = _split(images, size, channels)
        with training_folder(folder, identity) as unfinished:
            trained = _train(
                unfinished, train, images.class_names, seed=seed, autoencoder_steps=autoencoder_steps,
                denoiser_steps=denoiser_steps, device=where, progress=progress,
            )  # fmt: skip
            _measure(unfinished / FINISHED, identity, images, train, test, trained, seed, where)
    return DiTPrior.from_pretrained(folder, device=where)


class Split(NamedTuple):
    """uint8 images (N, C, H, W) and their labels, int64 (N,), on the CPU."""

    images: Tensor
    labels: Tensor


def _split(images: Source, size: int, channels: int) -> tuple[Split, Split]:
    """Return the training images and the held-out images.

    Raises:
        OptionError: Every class has too few images to hold one out.
    """
    held_out = np.concatenate([images.of_class(c)[HELD_OUT - 1 :: HELD_OUT] for c in range(len(images.class_names))])
    if len(held_out) == 0:
        raise OptionError(f"{images.name}: expected a class of at least {HELD_OUT} images, to hold some out")

    def split(indices: np.ndarray) -> Split:
        pixels = torch.from_numpy(images.images(indices, size=size, channels=channels))
        return Split(pixels, torch.tensor(images.labels[indices]))

    return split(np.setdiff1d(np.arange(len(images)), held_out)), split(held_out)


def _train(
    unfinished: Path,
    train: Split,
    class_names: tuple[str, ...],
    *,
    seed: int,
    autoencoder_steps: int,
    denoiser_steps: int,
    device: torch.device,
    progress: bool,
) -> tuple[Trained, Trained]:
    """Train the autoencoder and the denoiser, and save the pipeline."""
    _, channels, size, _ = train.images.shape
    vae = build_autoencoder(channels, size, seed).to(device)
    trained_vae = train_autoencoder(
        vae, train.images, steps=autoencoder_steps, seed=seed, checkpoint=unfinished / "autoencoder.safetensors",
        progress=progress,
    )  # fmt: skip
    with torch.no_grad():
        latents = torch.cat([
            vae.encode(to_float(batch).to(device)).latent_dist.mean.cpu() for batch in train.images.split(250)
        ])  # fmt: skip
    denoiser = build_denoiser(latents.shape[1], latents.shape[2], len(class_names), seed).to(device)
    trained_denoiser = train_denoiser(
        denoiser, latents, train.labels, steps=denoiser_steps, seed=seed,
        checkpoint=unfinished / "denoiser.safetensors", progress=progress,
    )  # fmt: skip
    finished = unfinished / FINISHED
    shutil.rmtree(finished, ignore_errors=True)
    pipeline = DiTPipeline(denoiser, vae, build_schedule())
    pipeline.register_to_config(id2label={str(label): name for label, name in enumerate(class_names)})
    pipeline.to(torch.float16).save_pretrained(finished)
    write_atomic(finished / "dap_prior.json", json.dumps(RECOMMENDED).encode())
    return trained_vae, trained_denoiser


def _measure(
    finished: Path,
    identity: Mapping[str, object],
    images: Source,
    train: Split,
    test: Split,
    trained: tuple[Trained, Trained],
    seed: int,
    device: torch.device,
) -> None:
    """Measure the prior as it will be loaded; write the model card and the picture of samples."""
    prior, names = DiTPrior.from_pretrained(finished, device=device), images.class_names
    settings = SamplingSettings.choose(RECOMMENDED)
    samples = torch.cat([
        prior.decode(sample(
            prior, torch.full((SAMPLES,), label),
            [generator(seed, "card", name, number) for number in range(SAMPLES)], settings=settings,
        ))
        for label, name in enumerate(names)
    ])  # fmt: skip
    judge = train_judge(train.images.numpy(), train.labels.numpy(), len(names), seed, device)
    judged = recognised(judge, samples.numpy(), np.repeat(np.arange(len(names)), SAMPLES), device)
    figures = Figures(
        autoencoder=trained[0],
        denoiser=trained[1],
        error=_error(prior, test.images),
        judge=recognised(judge, test.images.numpy(), test.labels.numpy(), device).share,
        recognised={name: judged.per_class[label] for label, name in enumerate(names)},
    )
    text = card(identity, images.name, len(train.images), len(test.images), figures)
    write_atomic(finished / "README.md", text.encode())
    rows = [
        (name, [partial(_picture, image) for image in samples[label * SAMPLES :][:SHOWN]])
        for label, name in enumerate(names)
    ]  # fmt: skip
    stream = io.BytesIO()
    contact_sheet(rows).save(stream, format="PNG")
    write_atomic(finished / "samples.png", stream.getvalue())


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
