"""``dap.train_prior``: training a small latent DiT, as the built-in prior was trained."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from diffusers import DiTPipeline
from torch import nn

from dap.bar import Bars
from dap.config import check_whole
from dap.data.open import SourceLike, open_source
from dap.data.source import Source
from dap.data.stack import read_images
from dap.device import TRAINING_DTYPES, fast_dtype, named_dtype, resolve_device
from dap.errors import OptionError
from dap.priors.dit import DiTPrior
from dap.short_memory import memory_for
from dap.storage.files import write_atomic
from dap.torch_state import own_torch_state
from dap.training.autoencoder import build_autoencoder, latents_of, train_autoencoder
from dap.training.dit import build_denoiser, build_schedule, train_denoiser
from dap.training.estimate import time_left
from dap.training.folder import FINISHED, check_folder, precision_of_training, recorded_dtype, training_folder
from dap.training.measure import LOSSES, RECOMMENDED, Split, lacks_card, losses_file, write_card

__all__ = ["train_prior"]

logger = logging.getLogger(__name__)

HELD_OUT = 20  # every 20th image of a class
SIDES = (16, 128)


@own_torch_state()
@memory_for("to train the prior", "smaller images or another device")
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
    card: bool = True,
    dtype: str | torch.dtype | None = None,
    tf32: bool = False,
    progress: bool = True,
) -> DiTPrior:
    """Train a class-conditional latent DiT on labelled images: a prior for small images of any kind.

    Writes the folder of a ``DiTPipeline`` (float16 weights), which ``prior=`` of :func:`dap.distill` takes. Then it
    writes ``samples.png`` and a model card (``README.md``) with the prior's quality on held-out images. After a kill
    the same call continues and ends with the same weights; if the prior is finished, it is loaded, and only a card that
    is missing is made. Logs (level INFO) the expected time, by a few timed steps. All images are held in memory.

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
        card: Make the model card; if left out now, the same call with ``card=True`` makes it later.
        dtype: In which products are computed, "bfloat16" or "float32"; weights stay in float32. If left out, that of a
            training that is continued, and of a new one the faster of both (:func:`dap.device.fast_dtype`).
        tf32: Let a GPU multiply float32 numbers with the ten fraction bits of TF32. CPUs ignore it.
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
    side, channels = images.appearance.size, images.appearance.channels
    size = size or min(64, max(SIDES[0], -(-side // 8) * 8))
    if size % 8 or not SIDES[0] <= size <= SIDES[1]:
        raise OptionError(f"size: expected a multiple of 8 from {SIDES[0]} to {SIDES[1]}, got {size}")
    where, folder = resolve_device(device), Path(out)
    own = recorded_dtype(folder) or fast_dtype(where)
    computed_in = own if dtype is None else named_dtype(dtype, TRAINING_DTYPES)
    identity = {
        "what": "dap.train_prior", "source": images.identity(), "classes": list(images.class_names), "size": size,
        "channels": channels, "autoencoder_steps": autoencoder_steps, "denoiser_steps": denoiser_steps, "seed": seed,
        "device": where.type, **precision_of_training(computed_in, torch.bfloat16, tf32, where),
    }  # fmt: skip
    bars = Bars(shown=progress)
    finished = check_folder(folder, identity)
    if not finished or (card and lacks_card(folder)):
        train, test = _split(images, size, channels, bars, needs_test=card)
        if not finished:
            with training_folder(folder, identity) as unfinished, own_torch_state(tf32=tf32):
                _train(
                    unfinished, train, images.class_names, seed=seed, autoencoder_steps=autoencoder_steps,
                    denoiser_steps=denoiser_steps, device=where, dtype=computed_in, bars=bars,
                )  # fmt: skip
        if card:
            write_card(
                folder, identity, images.name, images.class_names, train, test, seed=seed, device=where, bars=bars
            )  # fmt: skip
    return DiTPrior.from_pretrained(folder, device=where)


def _split(images: Source, size: int, channels: int, bars: Bars, *, needs_test: bool) -> tuple[Split, Split]:
    """Return the training images and the held-out images.

    Raises:
        OptionError: Every class has too few images to hold one out, and the card needs some.
    """
    held_out = np.concatenate([images.of_class(c)[HELD_OUT - 1 :: HELD_OUT] for c in range(len(images.class_names))])
    if len(held_out) == 0 and needs_test:
        raise OptionError(
            f"{images.name}: expected a class of at least {HELD_OUT} images, to hold some out for the card; "
            "add images, or train without a card (card=False)"
        )

    def split(indices: np.ndarray) -> Split:
        pixels = read_images(images, indices, size=size, channels=channels, bars=bars)
        return Split(torch.from_numpy(pixels), torch.tensor(images.labels[indices]))

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
    dtype: torch.dtype,
    bars: Bars,
) -> None:
    """Train the autoencoder and the denoiser, and save the pipeline."""
    _, channels, size, _ = train.images.shape
    if logger.isEnabledFor(logging.INFO):
        times = time_left(
            train.images, len(class_names), unfinished, autoencoder_steps=autoencoder_steps,
            denoiser_steps=denoiser_steps, device=device, dtype=dtype,
        )  # fmt: skip
        logger.info("about %s for the autoencoder, %s for the denoiser; for the samples of a card %s", *times)
    vae = build_autoencoder(channels, size, seed).to(device)
    trained_vae = train_autoencoder(
        vae, train.images, steps=autoencoder_steps, seed=seed, checkpoint=unfinished / "autoencoder.safetensors",
        dtype=dtype, bars=bars,
    )  # fmt: skip
    latents = latents_of(vae, train.images, bars).cpu()
    denoiser = build_denoiser(latents.shape[1], latents.shape[2], len(class_names), seed).to(device)
    trained_denoiser = train_denoiser(
        denoiser, latents, train.labels, steps=denoiser_steps, seed=seed,
        checkpoint=unfinished / "denoiser.safetensors", dtype=dtype, bars=bars,
    )  # fmt: skip
    finished = unfinished / FINISHED
    shutil.rmtree(finished, ignore_errors=True)
    for network in (denoiser, vae):
        nn.Module.to(network, torch.float16)  # diffusers' own method logs that no module stays in float32
    pipeline = DiTPipeline(denoiser, vae, build_schedule())
    pipeline.register_to_config(id2label={str(label): name for label, name in enumerate(class_names)})
    pipeline.save_pretrained(finished)
    write_atomic(finished / "dap_prior.json", json.dumps(RECOMMENDED).encode())
    write_atomic(finished / LOSSES, losses_file(trained_vae, trained_denoiser))
