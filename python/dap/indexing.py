"""``build_index``: check the options, resolve names, and fill a feature index."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dap.config import check_choice, check_path, check_seed, check_whole, plain
from dap.data.classmap import LabelMap
from dap.data.open import SourceLike, check_outside
from dap.errors import OptionError
from dap.features import (
    DEFAULT_POOLING,
    check_channels,
)
from dap.index import Index
from dap.index.spec import DTYPES
from dap.priors import PriorLike
from dap.run import Rank, own_rank, worker_processes
from dap.run.index_build import Build, build_with
from dap.short_memory import memory_for
from dap.storage.cache import cache_in_use
from dap.storage.claims import Claims
from dap.storage.files import SHARED, check_writable
from dap.storage.lock import folder_lock
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    import torch

__all__ = ["build_index"]


@own_torch_state()
@memory_for("to build the index", "an earlier block or a pooling that keeps less, or another device")
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
        prior: "fashion-dit", a folder, hub id or object of a pipeline, or a :class:`dap.priors.Prior`, as for
            :func:`dap.distill`.
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
        return build_with(build, rank, None, progress=progress)
    rank, new = Rank(0, 0, workers) if workers > 1 else rank, not out.exists()
    try:
        with Claims(out / SHARED) as claims:
            with worker_processes(workers, _help, build):
                index = build_with(build, rank, claims, progress=progress and rank.number == 0)
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
        build_with(build, rank, claims, progress=False)
