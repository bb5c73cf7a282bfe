"""Fills a feature index: images to latents, latents to features of every timestep, group by group of rows.

Features are taken of the latents as they are stored, and in groups of rows that the class's list of rows alone fixes.
So an index has the same bytes whether its build was killed and continued, dealt out to several machines, or started
from the kept latents of another index.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from dap.errors import OptionError
from dap.features.pooling import Tap
from dap.features.references import encode_images, noised_features
from dap.index import Index, IndexSpec, IndexWriter, index_bytes

if TYPE_CHECKING:
    from dap.data.source import Source
    from dap.priors import Prior

__all__ = [
    "LatentsOf", "choose_timesteps", "computed_by", "feature_width", "fill_index", "index_spec", "kept_latents",
    "prior_hash", "schedule", "source_latents",
]  # fmt: skip

logger = logging.getLogger(__name__)

LatentsOf = Callable[[str, int, int], Tensor]  # the latents of rows start to stop of a class, float32 (n, C, h, w)


def schedule(scheduler: Any) -> list[int]:
    """The timesteps of a diffusers scheduler, from noise to image."""
    return [int(t) for t in scheduler.timesteps]


def choose_timesteps(steps: Sequence[int], wanted: int | Sequence[int]) -> tuple[int, ...]:
    """Timesteps of a schedule.

    Args:
        steps: The schedule's timesteps, from noise to image.
        wanted: How many, evenly spaced from the noisiest on, all of them where there are fewer; or some of them.

    Raises:
        OptionError: None is wanted, or one that the schedule does not have.

    Example:
        >>> choose_timesteps([900, 700, 500, 300, 100], 2), choose_timesteps([900, 500, 100], [100, 900])
        ((900, 500), (900, 100))
    """
    steps = list(dict.fromkeys(steps))
    if isinstance(wanted, int):
        if isinstance(wanted, bool) or wanted < 1:
            raise OptionError(f"timesteps: expected a number of at least 1, or timesteps, got {wanted!r}")
        count = min(wanted, len(steps))
        return tuple(steps[number * len(steps) // count] for number in range(count))
    if not wanted or not set(wanted) <= set(steps):
        strange = ", ".join(str(t) for t in wanted if t not in steps) or "none"
        raise OptionError(f"timesteps: expected some of the schedule's, {', '.join(map(str, steps))}; got {strange}")
    return tuple(t for t in steps if t in set(wanted))


def feature_width(prior: Prior, tap: Tap, label: int) -> int:
    """D of the features, found by one pass up to the tapped block, under any label that the prior has.

    Raises:
        OptionError: The prior has no such block, or its tokens do not fit the pooling.
    """
    zero = torch.zeros((1, *prior.latent_shape), device=prior.device)
    start, labels = torch.tensor(0, device=prior.device), torch.tensor([label], device=prior.device)
    return int(tap.pool(prior.features(zero, start, labels, tap.block)).shape[1])


def index_spec(
    prior: Prior,
    tap: Tap,
    scheduler: Any,
    *,
    label: int,
    source: dict[str, str],
    timesteps: tuple[int, ...],
    noise: str,
    seed: int,
    dtype: str,
    latent_dtype: str,
    shard: tuple[int, int] | None = None,
) -> IndexSpec:
    """The spec of an index of features under the image's class; what is not here is read off prior and scheduler.

    ``label`` is any that the prior has.

    Raises:
        OptionError: A value outside its range; a block or pooling that the prior does not have.
    """
    return IndexSpec(
        source=source, prior=prior_hash(prior), block=tap.block, pooling=tap.pooling, timesteps=timesteps,
        feature_shape=(feature_width(prior, tap, label),), latent_shape=tuple(prior.latent_shape),
        scheduler=type(scheduler).__name__, num_inference_steps=len(scheduler.timesteps), noise=noise, seed=seed,
        dtype=dtype, latent_dtype=latent_dtype, shard=shard,
    )  # fmt: skip


def prior_hash(prior: Prior) -> str:
    """The hash of the prior's weights and configuration, as the manifest has it."""
    return str(prior.describe()["sha256"])


def computed_by(prior: Prior) -> list[str]:
    """Return what the last bits of the prior's results depend on, beside its weights: versions, device and dtype."""
    return [version("torch"), version("diffusers"), prior.device.type, str(prior.dtype)]


def source_latents(source: Source, prior: Prior, indices: dict[str, np.ndarray]) -> LatentsOf:
    """Latents that are encoded from the images of a source.

    Args:
        source: The images.
        prior: Whose VAE encodes them.
        indices: Of the rows of each class, by its name, int64 (rows,).
    """
    channels, size, _ = prior.image_shape

    def encode(name: str, start: int, stop: int) -> Tensor:
        pixels = source.images(indices[name][start:stop], size=size, channels=channels)
        return encode_images(prior, torch.from_numpy(pixels))

    return encode


def kept_latents(index: Index, ids: dict[str, tuple[str, ...]]) -> LatentsOf:
    """Latents that another index keeps.

    Args:
        index: The index.
        ids: Image ids of the rows of each class, by its name.

    Raises:
        OptionError: It lacks a class, or an image.
    """
    rows: dict[str, list[int]] = {}
    for name, wanted in ids.items():
        places = {each: row for row, each in enumerate(index.ids(name))}
        if missing := [each for each in wanted if each not in places]:
            raise OptionError(
                f"latents: {index.path} lacks {len(missing)} of the {len(wanted)} images of class {name!r}, such as "
                f"{missing[0]!r}: choose an index of the same images, or leave it out"
            )
        rows[name] = [places[each] for each in wanted]

    def read(name: str, start: int, stop: int) -> Tensor:
        return torch.from_numpy(np.asarray(index.latents(name))[rows[name][start:stop]]).float()

    return read


def fill_index(
    writer: IndexWriter, prior: Prior, scheduler: Any, latents_of: LatentsOf, *, progress: bool = False
) -> Index:
    """Computes what an index still lacks, and completes it. Says what it will take, before and after the first group.

    Args:
        writer: The index that is begun or continued.
        prior: The prior of the index.
        scheduler: Its scheduler, whose ``add_noise`` takes latents to the timesteps.
        latents_of: Where latents come from.
        progress: Show a progress bar.

    Returns:
        The index, opened.

    Raises:
        OptionError: A feature is not finite in the index's dtype.
        FormatError: An image cannot be decoded.
    """
    spec, tap = writer.spec, Tap(writer.spec.block, writer.spec.pooling)
    groups = [(each, *rows) for each in writer.classes for rows in writer.pending(each.name)]
    total, left = sum(len(each.ids) for each in writer.classes), sum(stop - start for _, start, stop in groups)
    size = index_bytes(spec, [len(each.ids) for each in writer.classes])
    logger.info(
        "%s: %d images, %d timesteps, %d numbers each: %.1f MB", writer.out, total, len(spec.timesteps),
        spec.feature_shape[0], size / 1e6,
    )  # fmt: skip
    began = time.monotonic()
    with tqdm(total=total, initial=total - left, unit=" images", disable=not progress) as bar:
        for number, (each, start, stop) in enumerate(groups):
            latents = latents_of(each.name, start, stop).to(getattr(torch, spec.latent_dtype))
            features = {
                t: noised_features(
                    prior, latents.float(), each.ids[start:stop], label=each.label or 0, tap=tap, scheduler=scheduler,
                    timestep=t, seed=spec.seed, shared_noise=spec.noise == "shared",
                ).numpy()
                for t in spec.timesteps
            }  # fmt: skip
            writer.write(each.name, start, latents.numpy(), features)
            if number == 0:
                seconds = (time.monotonic() - began) / (stop - start) * left
                logger.info("%s: about %.0f s for %d images, by the first %d", writer.out, seconds, left, stop - start)
            bar.update(stop - start)
    return writer.finish()
