"""``build_index``: check the options, resolve names, and fill a feature index."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dap.bar import Bars
from dap.config import check_choice, check_path, check_seed, check_whole, plain
from dap.data.classmap import LabelMap
from dap.data.open import SourceLike, check_outside, open_source
from dap.data.source import Source
from dap.errors import OptionError
from dap.features import (
    DEFAULT_POOLING,
    Tap,
    block_number,
    check_channels,
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
from dap.index.spec import DTYPES
from dap.priors import PriorLike, load_prior
from dap.run import Rank, own_device, own_rank, worker_processes
from dap.run.classes import as_index, classes_of_source
from dap.sampling import SamplingSettings, scheduler_of
from dap.selection import permutation
from dap.storage.cache import cache_in_use
from dap.storage.claims import Claims
from dap.storage.files import SHARED, check_writable, is_vacant
from dap.storage.lock import folder_lock
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    import torch

__all__ = ["build_index"]


@dataclass(frozen=True, kw_only=True)
class Build:
    """The options of :func:`build_index`; see there. It pickles where its values do."""

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


@own_torch_state()
@cache_in_use()
def build_index(
    source: SourceLike,
    *,
    out: str | Path,
    prior: PriorLike = "fashion-dit",
    prior_options: Mapping[str, object] | None = None,
    block: int | str | None = None,
    pooling: str = DEFAULT_POOLING,
    timesteps: int | Sequence[int] | None = None,
    sampling: str | None = None,
    num_inference_steps: int | None = None,
    scheduler: str | None = None,
    timestep_spacing: str | None = None,
    noise: str = "own",
    seed: int = 0,
    classes: Collection[str] | None = None,
    label_map: LabelMap | None = None,
    channels: str | None = None,
    max_per_class: int | None = None,
    shard: str | None = None,
    storage_dtype: str = "float16",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    tf32: bool = False,
    latents: str | Path | Index | None = None,
    workers: int = 1,
    progress: bool = True,
) -> Index:
    """Compute the features φ(x_t, t) of real images, for every later run with the same prior, block and schedule.

    Logs (level INFO) the bytes that the index will take before it starts, and the time left after the first group of
    images. The same call continues a build that was stopped, even by SIGKILL, and ends with the same bytes. A folder
    with other options is refused.

    Args:
        source: Real images, as for :func:`dap.distill`.
        out: Folder of the index: new, empty, or of the same build.
        prior: "fashion-dit", a ``DiTPipeline`` folder, hub id or object, or a :class:`dap.priors.Prior`.
        prior_options: Options of the prior by name, as for :func:`dap.distill`.
        block: The denoiser's block at which φ is taken, from 1, or its name; None: the prior's recommendation, or the
            block at a third of its depth.
        pooling: "sketch1024", "mean", "flat" or "grid4"; see :mod:`dap.features.pooling`.
        timesteps: How many timesteps, evenly spaced in the schedule from its noisiest step on; or a list of timesteps
            of the schedule; 8, or all of a shorter schedule, if left out.
        sampling: "dit-repo": the steps of that sampling; see :func:`dap.distill`.
        num_inference_steps: Steps of the schedule; the prior's recommendation, or 50, if left out.
        scheduler: "ddpm", "ddim", "dpm++", "dpm++-karras", "euler", "euler-ancestral", "heun" or "lcm"; the prior's own
            if left out.
        timestep_spacing: How the steps lie in the schedule; see :func:`dap.distill`.
        noise: "own": each image has its own noise at each timestep; "shared": the images of a timestep share one.
        seed: Root seed of the noise and of the draw of ``max_per_class``; 0 or more.
        classes: Names of the classes; all if left out.
        label_map: Labels of classes that the prior does not know; see :func:`dap.distill`.
        channels: "grey" or "rgb": convert images whose channels are not those of the prior, instead of refusing them.
        max_per_class: Most images of a class; of a larger class, a random subset is taken: the one that a run with this
            seed and as many references draws. All images if left out.
        shard: "i/n" builds part i of n, from 1, with every n-th group of 256 images of a class;
            :func:`dap.index.merge` joins the parts.
        storage_dtype: In which the features are stored: "float16" or "float32".
        device: Where the prior runs; the GPU if there is one.
        dtype: In which the prior computes them, such as "bfloat16"; float32 if left out. The index says it, and fits
            runs in every dtype.
        tf32: Let a GPU multiply float32 numbers with the ten fraction bits of TF32. CPUs ignore it.
        latents: An index of the same images and prior; its latents are copied instead of encoding the images again.
        workers: Processes of this machine that build the index together, with this one; each on a GPU of its own if
            there are several. Processes that torchrun or SLURM has started do so too, on any machines that share the
            folder: groups of 256 images are dealt out, and the bytes are those of one process.
        progress: Show a progress bar.

    Returns:
        The index, opened.

    Raises:
        DapError: A subclass of it, for a bad option, source, prior or folder.

    Example:
        >>> import dap
        >>> index = dap.build_index("fashion-mini", out="index", timesteps=8)  # doctest: +SKIP
        >>> distilled = dap.distill(index=index, out="distilled")  # doctest: +SKIP
    """
    build = Build(
        source=source, out=check_path("out", out), prior=prior, prior_options=prior_options, block=plain(block),
        pooling=pooling, timesteps=plain(timesteps), sampling=sampling, num_inference_steps=num_inference_steps,
        scheduler=scheduler, timestep_spacing=timestep_spacing, noise=noise, seed=check_seed(seed), classes=classes,
        label_map=label_map, channels=channels, max_per_class=max_per_class, shard=shard, storage_dtype=storage_dtype,
        device=device, dtype=dtype, tf32=tf32, latents=latents,
    )  # fmt: skip
    check_channels(channels)
    if max_per_class is not None:
        check_whole("max_per_class", max_per_class)
    check_choice("storage_dtype", storage_dtype, DTYPES)
    workers, rank = check_whole("workers", workers), own_rank()
    if workers > 1 and rank.world > 1:
        raise OptionError(f"workers: torchrun or SLURM has started {rank.world} processes already; leave it out")
    out = build.out
    check_writable(out)
    check_outside(out, source)
    if workers == rank.world == 1:
        with folder_lock(out):
            pass  # refused before anything is loaded while another process writes there
        return _build(build, rank, None, progress=progress)
    rank, new = Rank(0, 0, workers) if workers > 1 else rank, not out.exists()
    try:
        with Claims(out / SHARED) as claims:
            with worker_processes(workers, _help, build):
                index = _build(build, rank, claims, progress=progress and rank.number == 0)
            if workers > 1:
                claims.clear()  # of those that were ended with their work
    except BaseException:
        if new:
            with suppress(OSError):  # not empty
                out.rmdir()
        raise
    return index


@own_torch_state()
@cache_in_use()
def _help(rank: Rank, build: Build) -> None:
    """Work on an index that another process of this machine has been asked for."""
    with Claims(build.out / SHARED) as claims:
        _build(build, rank, claims, progress=False)


def _build(build: Build, rank: Rank, claims: Claims | None, *, progress: bool) -> Index:
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
