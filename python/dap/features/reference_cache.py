"""The references of a run as an index in the cache: made once, and read by every run that needs the same ones.

A process that was stopped is continued by the next one after its last group of rows. Processes that want the same
references share out the groups.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dap.bar import Bars
from dap.errors import FormatError
from dap.features.build import fill_groups, log_size, source_latents
from dap.features.index_options import computed_by, index_spec
from dap.features.pooling import Tap
from dap.index import ClassRows, Index, IndexSpec, IndexWriter, index_bytes, open_index
from dap.storage.cache import INDEXES, RESULT, CacheEntry
from dap.storage.unfinished import continued, unfinished_bytes

if TYPE_CHECKING:
    from diffusers import SchedulerMixin

    from dap.data.classmap import ClassEntry
    from dap.data.source import Source
    from dap.priors import Prior
    from dap.storage.claims import Claims

__all__ = ["reference_index"]

logger = logging.getLogger(__name__)

RULE = 1  # raise it with every change of the computed bits, so that entries of older versions are not read


def reference_index(
    source: Source,
    classes: Sequence[ClassEntry],
    prior: Prior,
    indices: Mapping[str, Sequence[int]],
    *,
    tap: Tap,
    scheduler: SchedulerMixin,
    timesteps: tuple[int, ...],
    noise: str,
    seed: int,
    bars: Bars,
) -> Index:
    """Return an index of some images of a source, from the cache if it is there. Features and latents are float32.

    Args:
        source: The images; its ``identity()`` tells whether they changed. A file that was replaced by one of the same
            size is not noticed.
        classes: The class map.
        prior: The prior.
        indices: Image indices of each class, by class name; the rows of the index have their order.
        tap: Where features are taken.
        scheduler: The diffusers scheduler whose ``add_noise`` takes latents to the timesteps.
        timesteps: Some of its timesteps.
        noise: "own" or "shared".
        seed: Root seed of the noise.
        bars: Opens the bar.

    Raises:
        OptionError: The cache cannot be written or has too little space, or an option is outside its range.
        FormatError: An image cannot be decoded.
    """
    spec = index_spec(
        prior, tap, scheduler, label=classes[0].label,
        source={"name": source.name, "identity": source.identity()}, timesteps=timesteps, noise=noise, seed=seed,
        dtype="float32", latent_dtype="float32",
    )  # fmt: skip
    rows = [
        ClassRows(entry.name, entry.prior_label, tuple(source.ids[i] for i in indices[entry.name])) for entry in classes
    ]
    content = [spec.to_json(), [(entry.name, entry.label, entry.ids) for entry in rows], [RULE, *computed_by(prior)]]
    cached = CacheEntry.of(INDEXES, content)
    cached.use()
    if cached.exists() and not _is_whole(cached, spec, rows):
        cached.remove()
    if not cached.exists():
        latents_of = source_latents(
            source, prior, {name: np.asarray(of_class, np.int64) for name, of_class in indices.items()}
        )
        count = sum(len(entry.ids) for entry in rows)
        cached.check_space(
            index_bytes(spec, [len(entry.ids) for entry in rows]) - unfinished_bytes(cached),
            f"the features of {count} references at {len(spec.timesteps)} timesteps take",
            "choose fewer references or guided steps (start, stop)",
        )
        work = f"{cached.path.parent.name}-{cached.path.name}-"

        def help(folder: Path, claims: Claims) -> None:
            if (folder / RESULT).is_dir():
                writer = IndexWriter(folder / RESULT, spec, rows, shared=True, begins=False)
                fill_groups(writer, prior, scheduler, latents_of, claims=claims, entry=work)

        with continued(cached, hashed=False, help=help) as unfinished:
            if unfinished is not None:
                writer = IndexWriter(unfinished.folder / RESULT, spec, rows, shared=True)
                log_size(writer)
                fill_groups(
                    writer, prior, scheduler, latents_of, bars=bars, title="references",
                    kept="the features that are computed are kept; the same command continues after them",
                    claims=unfinished.claims, entry=work,
                )  # fmt: skip
                writer.finish()
        logger.info("references kept in %s", cached.path)
    return open_index(cached.path)


def _is_whole(cached: CacheEntry, spec: IndexSpec, rows: Sequence[ClassRows]) -> bool:
    """Return whether the cache's index is this one, and every byte of it is as it was written."""
    try:
        index = open_index(cached.path)
        index.verify()
        cached_rows = [ClassRows(entry.name, entry.label, index.ids(entry.name)) for entry in index.classes]
    except FormatError:
        return False
    return index.spec == spec and cached_rows == list(rows)
