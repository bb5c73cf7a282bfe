"""The references of a run as an index in the cache: made once, and read by every run that wants the same.

An entry is named by a hash of all that its bytes depend on, is built beside its place and renamed into it, and is never
changed. So two processes that want the same one at once both succeed, and the first one's stays.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dap.features.build import fill_index, index_spec, source_latents
from dap.features.pooling import Tap
from dap.index import ClassRows, Index, IndexSpec, IndexWriter, open_index
from dap.storage.cache import INDEXES, cache_folder, writing_cache

if TYPE_CHECKING:
    from dap.data.classmap import ClassEntry
    from dap.data.source import Source
    from dap.priors import Prior

__all__ = ["reference_index"]

logger = logging.getLogger(__name__)

RULE = 1  # raised whenever dap computes references to other bits: it then finds none that an older one made


def reference_index(
    source: Source,
    classes: Sequence[ClassEntry],
    prior: Prior,
    indices: Mapping[str, Sequence[int]],
    *,
    tap: Tap,
    scheduler: Any,
    timesteps: tuple[int, ...],
    noise: str,
    seed: int,
) -> Index:
    """An index of some images of a source, from the cache if it is there. Features and latents are float32.

    Args:
        source: The images. A changed source is known by its ``identity()``, so a file whose bytes were changed to as
            many others goes unseen.
        classes: The class map.
        prior: The prior.
        indices: The images of each class, by its name; rows keep their order.
        tap: Where features are taken.
        scheduler: Whose ``add_noise`` takes latents to the timesteps.
        timesteps: Of its schedule.
        noise: "own" or "shared".
        seed: Root seed of the noise.

    Raises:
        OptionError: The cache cannot be written, or an option is outside its range.
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
    target = cache_folder() / INDEXES / _key(spec, rows, prior)
    if target.is_dir():
        return open_index(target)
    numbers = {name: np.asarray(own, np.int64) for name, own in indices.items()}
    temporary = target.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
    with writing_cache():
        temporary.mkdir(parents=True)
    try:
        fill_index(IndexWriter(temporary, spec, rows), prior, scheduler, source_latents(source, prior, numbers))
        _take_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("references kept in %s", target)
    return open_index(target)


def _key(spec: IndexSpec, rows: Sequence[ClassRows], prior: Prior) -> str:
    """The entry's name. Other devices, dtypes and versions compute the same features to other last bits."""
    computed_by = [RULE, version("torch"), version("diffusers"), prior.device.type, str(prior.dtype)]
    content = [spec.to_json(), [(each.name, each.label, each.ids) for each in rows], computed_by]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _take_place(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same bytes
            raise
