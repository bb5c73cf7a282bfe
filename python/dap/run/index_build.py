"""An index from its options: source and prior are opened, every option is checked, and the features are computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dap.bar import Bars
from dap.data.classmap import LabelMap
from dap.data.open import SourceLike, open_source
from dap.data.source import Source
from dap.errors import OptionError
from dap.features import (
    Tap,
    block_number,
    check_images,
    check_prior,
    check_source,
    choose_timesteps,
    fill_index,
    index_spec,
    schedule,
    source_latents,
    stored_latents,
)
from dap.index import ClassRows, Index, IndexWriter, row_groups
from dap.priors import PriorLike, load_prior
from dap.run.classes import as_index, classes_of_source
from dap.run.ranks import Rank, own_device
from dap.sampling import SamplingSettings, scheduler_of
from dap.selection import permutation
from dap.storage.claims import Claims
from dap.storage.files import is_vacant
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    import torch

__all__ = ["Build", "build_with"]


@dataclass(frozen=True, kw_only=True)
class Build:
    """The options of :func:`dap.build_index`; see there. It pickles where its values do."""

    source: SourceLike
    out: Path
    prior: PriorLike
    prior_options: Mapping[str, object] | None
    block: int | str | None
    pooling: str
    timesteps: int | Sequence[int] | None
    sampling: str | None
    num_inference_steps: int | None
    scheduler: str | None
    timestep_spacing: str | None
    noise: str
    seed: int
    classes: Collection[str] | None
    label_map: LabelMap | None
    channels: str | None
    max_per_class: int | None
    shard: str | None
    storage_dtype: str
    device: str | torch.device | None
    dtype: str | torch.dtype | None
    tf32: bool
    latents: str | Path | Index | None


def build_with(build: Build, rank: Rank, claims: Claims | None, *, progress: bool) -> Index:
    """Open source and prior, check every option, and fill the index; with claims, together with other processes."""
    part = None if build.shard is None else _parse_shard(build.shard)
    all_images = open_source(build.source)
    images = all_images if build.classes is None else all_images.subset(build.classes)
    device = own_device(build.device, rank)
    loaded = load_prior(build.prior, device=device, dtype=build.dtype, options=build.prior_options)
    model = loaded.for_classes(images.class_names)
    settings = SamplingSettings.choose(
        model.recommended, build.sampling, num_inference_steps=build.num_inference_steps, scheduler=build.scheduler,
        timestep_spacing=build.timestep_spacing,
    )  # fmt: skip
    steps = scheduler_of(model, settings)
    times = schedule(steps)
    encoded = None if build.latents is None else as_index(build.latents)
    if encoded is not None:
        check_source(encoded, all_images)
        check_prior(encoded, model)
    entries = classes_of_source(images, model, build.label_map)
    if encoded is None and is_vacant(build.out):  # otherwise no image may have to be read
        check_images(images, model, build.channels)
    indices = {entry.name: _rows(images, entry.name, build.max_per_class, build.seed, part) for entry in entries}
    rows = [
        ClassRows(entry.name, entry.prior_label, tuple(images.ids[i] for i in indices[entry.name])) for entry in entries
    ]
    with own_torch_state(tf32=build.tf32):
        spec = index_spec(
            model, Tap(block_number(model, build.block), build.pooling), steps, label=entries[0].label,
            source={"name": all_images.name, "identity": all_images.identity()}, noise=build.noise,
            seed=build.seed, dtype=build.storage_dtype, shard=part,
            timesteps=choose_timesteps(times, min(8, len(set(times))) if build.timesteps is None else build.timesteps),
            latent_dtype="float16" if encoded is None else encoded.spec.latent_dtype,
        )  # fmt: skip
        latents_of = (
            source_latents(images, model, indices)
            if encoded is None
            else stored_latents(encoded, {class_rows.name: class_rows.ids for class_rows in rows})
        )
        return fill_index(
            IndexWriter(build.out, spec, rows, shared=claims is not None), model, steps, latents_of,
            bars=Bars(shown=progress),
            kept="the groups of images that are done stay; the same command continues after them", claims=claims,
        )  # fmt: skip


def _parse_shard(shard: str) -> tuple[int, int]:
    part, slash, parts = str(shard).partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise OptionError(f'shard: expected "i/n" with 1 <= i <= n, such as "1/4", got {shard!r}')
    return int(part), int(parts)


def _rows(images: Source, name: str, max_per_class: int | None, seed: int, shard: tuple[int, int] | None) -> np.ndarray:
    """Return the source indices of a class's images in the index, or in this part of it, in the source's order."""
    indices = images.of_class(images.class_names.index(name))
    if max_per_class is not None:
        indices = np.sort(indices[permutation(len(indices), seed, name)[:max_per_class]])
    groups = [indices[start:stop] for start, stop in row_groups(len(indices), shard)]
    return np.concatenate([indices[:0], *groups])
