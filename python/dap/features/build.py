"""Fills a feature index: images become latents, and latents become features of every timestep, in groups of rows.

Features are computed from the latents as they are stored, and a class's groups depend only on its number of rows. So an
index has the same bytes whether its build was killed and continued, shared by several machines, or started from the
latents of another index.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from dap.bar import NO_BARS, Bars
from dap.errors import OptionError
from dap.features.pooling import Tap
from dap.features.references import encode_images, noised_features
from dap.features.shared_build import groups_to_fill, pending_groups, rows_in
from dap.index import Index, IndexWriter, index_bytes
from dap.storage.waiting import waiting_for

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from dap.data.source import Source
    from dap.priors import Prior
    from dap.storage.claims import Claims

__all__ = ["LatentsOf", "fill_groups", "fill_index", "log_size", "source_latents", "stored_latents"]

logger = logging.getLogger(__name__)

# from a class's name, start and stop: the latents of its rows start to stop, float32 (n, C, h, w)
LatentsOf: TypeAlias = Callable[[str, int, int], Tensor]


def source_latents(source: Source, prior: Prior, indices: dict[str, np.ndarray]) -> LatentsOf:
    """Return a function that encodes the images of a source.

    Args:
        source: The images.
        prior: The prior whose VAE encodes them.
        indices: Image indices of the rows of each class, by class name, int64 (rows,).
    """
    channels, size, _ = prior.image_shape

    def encode(name: str, start: int, stop: int) -> Tensor:
        pixels = source.images(indices[name][start:stop], size=size, channels=channels)
        return encode_images(prior, torch.from_numpy(pixels))

    return encode


def stored_latents(index: Index, ids: dict[str, tuple[str, ...]]) -> LatentsOf:
    """Return a function that reads the latents of another index.

    Args:
        index: The index.
        ids: Image ids of the rows of each class, by class name.

    Raises:
        OptionError: The index lacks a class or an image.
    """
    rows: dict[str, list[int]] = {}
    for name, wanted in ids.items():
        places = {image_id: row for row, image_id in enumerate(index.ids(name))}
        if missing := [image_id for image_id in wanted if image_id not in places]:
            raise OptionError(
                f"latents: {index.path} lacks {len(missing)} of the {len(wanted)} images of class {name!r}, such as "
                f"{missing[0]!r}: choose an index of the same images, or leave it out"
            )
        rows[name] = [places[image_id] for image_id in wanted]

    def read(name: str, start: int, stop: int) -> Tensor:
        return torch.from_numpy(np.asarray(index.latents(name))[rows[name][start:stop]]).float()

    return read


def fill_index(
    writer: IndexWriter,
    prior: Prior,
    scheduler: SchedulerMixin,
    latents_of: LatentsOf,
    *,
    bars: Bars,
    title: str | None = None,
    kept: str,
    claims: Claims | None = None,
) -> Index:
    """Compute the features that an index still lacks, and complete it.

    The size is logged before the first group of rows, and the expected time after it, if no other process has written
    one meanwhile.

    Args:
        writer: The index that is begun or continued.
        prior: The prior of the index.
        scheduler: Its scheduler, whose ``add_noise`` takes latents to the timesteps.
        latents_of: Returns the latents of rows; see :func:`source_latents` and :func:`stored_latents`.
        bars: Opens the bar.
        title: Text before the bar.
        kept: What is kept at Ctrl-C; see :meth:`dap.bar.Bars.stage`.
        claims: This process among those that fill the index together; None: it is alone.

    Returns:
        The index, opened.

    Raises:
        OptionError: A feature is not finite in the index's dtype.
        FormatError: An image cannot be decoded.
    """
    log_size(writer)
    if claims is None:
        with writer.alone():
            fill_groups(writer, prior, scheduler, latents_of, bars=bars, title=title, kept=kept)
            return writer.finish()
    fill_groups(writer, prior, scheduler, latents_of, bars=bars, title=title, kept=kept, claims=claims)
    with claims.turn("finish", waiting_for(writer.out, "to finish the index")):
        index = writer.finish()
        claims.clear()
    return index


def log_size(writer: IndexWriter) -> None:
    """Log (level INFO) what an index holds, and how many bytes it takes."""
    spec, counts = writer.spec, [len(rows.ids) for rows in writer.classes]
    logger.info(
        "%s: %d images, %d timesteps, %d numbers each: %.1f MB", writer.out, sum(counts), len(spec.timesteps),
        spec.feature_shape[0], index_bytes(spec, counts) / 1e6,
    )  # fmt: skip


def fill_groups(
    writer: IndexWriter,
    prior: Prior,
    scheduler: SchedulerMixin,
    latents_of: LatentsOf,
    *,
    bars: Bars = NO_BARS,
    title: str | None = None,
    kept: str = "",
    claims: Claims | None = None,
    entry: str = "",
) -> None:
    """Compute and write what is pending, group by group; the arguments are those of :func:`fill_index`.

    Args:
        writer: The index.
        prior: The prior.
        scheduler: Its scheduler.
        latents_of: Returns the latents of rows.
        bars: Opens the bar.
        title: Text before the bar.
        kept: What is kept at Ctrl-C.
        claims: This process among those that fill it.
        entry: See :func:`dap.features.shared_build.groups_to_fill`.
    """
    spec, tap = writer.spec, Tap(writer.spec.block, writer.spec.pooling)
    groups = pending_groups(writer)
    total, left, began = sum(len(rows.ids) for rows in writer.classes), rows_in(groups), time.monotonic()
    with bars.stage(title, total=total, done=total - left, unit=" images", kept=kept) as bar:
        to_fill = groups if claims is None else groups_to_fill(writer, claims, entry)
        for number, (rows, start, stop) in enumerate(to_fill):
            latents = latents_of(rows.name, start, stop).to(getattr(torch, spec.latent_dtype))
            features = {
                t: noised_features(
                    prior, latents.float(), rows.ids[start:stop], label=rows.label or 0, tap=tap, scheduler=scheduler,
                    timestep=t, seed=spec.seed, shared_noise=spec.noise == "shared",
                ).numpy()
                for t in spec.timesteps
            }  # fmt: skip
            writer.write(rows.name, start, latents.numpy(), features)
            done = stop - start if claims is None else left - rows_in(pending_groups(writer))
            if number == 0 and done == stop - start:
                seconds = (time.monotonic() - began) / done * left
                logger.info("%s: about %.0f s for %d images, by the first %d", writer.out, seconds, left, done)
            left -= done
            bar.update(done)
        bar.update(left)  # what others have written since
