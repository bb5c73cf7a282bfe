"""``build_index``: validate, resolve names, and fill a feature index; and what ``distill`` does with a given one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dap.data.classmap import ClassEntry, LabelMap, build_class_map, null_label
from dap.data.open import SourceLike, open_source
from dap.data.source import Source
from dap.errors import OptionError
from dap.features import (
    DEFAULT_POOLING,
    Tap,
    block_number,
    check_prior,
    check_source,
    choose_timesteps,
    class_names,
    fill_index,
    index_spec,
    schedule,
    source_latents,
    source_of_index,
    stored_latents,
)
from dap.index import ClassRows, Index, IndexWriter, open_index, row_groups
from dap.priors import Prior, load_prior
from dap.sampling import SamplingSettings
from dap.selection import permutation

if TYPE_CHECKING:
    import torch

__all__ = ["build_index", "classes_of_index", "classes_of_source", "source_beside"]


def build_index(
    source: SourceLike,
    *,
    out: str | Path,
    prior: Any = "fashion-dit",
    prior_options: Mapping[str, Any] | None = None,
    block: int | str | None = None,
    pooling: str = DEFAULT_POOLING,
    timesteps: int | Sequence[int] = 8,
    num_inference_steps: int | None = None,
    scheduler: str | None = None,
    noise: str = "own",
    seed: int = 0,
    classes: Collection[str] | None = None,
    label_map: LabelMap | None = None,
    max_per_class: int | None = None,
    shard: str | None = None,
    dtype: str = "float16",
    device: str | torch.device | None = None,
    latents: str | Path | Index | None = None,
    progress: bool = True,
) -> Index:
    """Computes the features φ(x_t, t) of real images once, for every later run of the same prior, block and schedule.

    Says (``logging``, level INFO) how many bytes it will take before it starts, and how long after its first group of
    images. A build that was stopped, even by SIGKILL, is continued by the same call and ends with the same bytes; a
    folder with other options is refused.

    Args:
        source: Real images, as for :func:`dap.distill`.
        out: Folder of the index: new, empty, or of the same build.
        prior: "fashion-dit", a ``DiTPipeline`` folder, hub id or object, or a :class:`dap.priors.Prior`.
        prior_options: Options of the prior by name, as for :func:`dap.distill`.
        block: The denoiser's block at which φ is taken, from 1, or its name; None: as method ``dap`` does.
        pooling: "sketch1024", "mean", "flat" or "grid4"; see :mod:`dap.features.pooling`.
        timesteps: A number of them, evenly spaced in the schedule from its noisiest step on, or some of the schedule's.
        num_inference_steps: Steps of the schedule; the prior's recommendation, or 50.
        scheduler: "ddpm", "ddim", "dpm++", "euler" or "heun"; the prior's own if left out.
        noise: "own" noise of each image and timestep, or "shared" by the images of a timestep.
        seed: Root seed of the noise, and of what ``max_per_class`` draws; 0 or more.
        classes: Names of the classes; all if left out.
        label_map: Labels of classes that the prior does not know; see :func:`dap.distill`.
        max_per_class: Images of each class, drawn where it has more; all if left out. They are the ones that a run
            with this seed and as many references draws.
        shard: "i/n": part i of n, from 1, has every n-th group of 256 images of a class; :func:`dap.index.merge` joins
            the parts.
        dtype: Of the features: "float16" or "float32".
        device: Where the prior runs; the GPU if there is one.
        latents: An index of the same images and prior, whose latents are taken instead of encoding the images again.
        progress: Show a progress bar.

    Returns:
        The index, opened.

    Raises:
        DapError: One of its kinds, for a bad option, source, prior or folder.

    Example:
        >>> import dap
        >>> index = dap.build_index("fashion-mini", out="index", timesteps=8)  # doctest: +SKIP
        >>> distilled = dap.distill(index=index, out="distilled")  # doctest: +SKIP
    """
    if max_per_class is not None and (type(max_per_class) is not int or max_per_class < 1):
        raise OptionError(f"max_per_class: expected a whole number of at least 1, got {max_per_class!r}")
    part = None if shard is None else _parse_shard(shard)
    whole = open_source(source)
    images = whole if classes is None else whole.subset(classes)
    model = load_prior(prior, device=device, options=prior_options).for_classes(images.class_names)
    settings = SamplingSettings.choose(model.recommended, num_inference_steps=num_inference_steps, scheduler=scheduler)
    steps = model.scheduler(settings.scheduler, settings.num_inference_steps)
    kept = None if latents is None else _opened(latents)
    if kept is not None:
        check_source(kept, whole)
        check_prior(kept, model)
    entries = classes_of_source(images, model, label_map)
    indices = {entry.name: _rows(images, entry.name, max_per_class, seed, part) for entry in entries}
    rows = [
        ClassRows(entry.name, entry.prior_label, tuple(images.ids[i] for i in indices[entry.name])) for entry in entries
    ]
    spec = index_spec(
        model, Tap(block_number(model, block), pooling), steps, label=entries[0].label,
        source={"name": whole.name, "identity": whole.identity()}, noise=noise, seed=seed, dtype=dtype, shard=part,
        timesteps=choose_timesteps(schedule(steps), timesteps),
        latent_dtype="float16" if kept is None else kept.spec.latent_dtype,
    )  # fmt: skip
    latents_of = (
        source_latents(images, model, indices)
        if kept is None
        else stored_latents(kept, {each.name: each.ids for each in rows})
    )
    return fill_index(IndexWriter(out, spec, rows), model, steps, latents_of, progress=progress)


def source_beside(
    index: str | Path | Index, source: SourceLike | None, classes: Collection[str] | None
) -> tuple[Index, Source]:
    """The index of a run, and the source: the given one, which has to be that of the index, or what the index knows.

    Raises:
        OptionError: The source is another one, or the index lacks a class.
        FormatError: The index is damaged.
    """
    opened = _opened(index)
    if source is None:
        return opened, source_of_index(opened, classes)
    whole = open_source(source)
    check_source(opened, whole)
    return opened, whole.subset(class_names(opened, classes))


def classes_of_source(images: Source, prior: Prior, label_map: LabelMap | None) -> tuple[ClassEntry, ...]:
    """The class map of a run from real images.

    Raises:
        ClassMapError: The prior does not know a class, or two lead to the same label.
        OptionError: ``label_map`` has a class or label that there is not, or asks for a null condition where there is
            none.
    """
    unlabelled = [name for name, label in (label_map or {}).items() if label is None]
    if unlabelled and not prior.has_null:
        raise OptionError(f"label_map: class {unlabelled[0]!r} has no label, and {prior.name} has no null condition")
    return build_class_map(images, prior.labels_of(images.class_names), label_map)


def classes_of_index(index: Index, images: Source, prior: Prior | None) -> tuple[ClassEntry, ...]:
    """The class map of a run from an index: the same whether its source is given or left out.

    Raises:
        OptionError: It is an index of another prior.
    """
    if prior is not None:
        check_prior(index, prior)
    labels = None if prior is None else {each.name: each.label for each in index.classes if each.label is not None}
    if prior is not None and labels is not None:
        own = prior.labels_of(images.class_names)
        for name in images.class_names:
            if labels.get(name) not in own.values() and labels.get(name) != null_label(name):
                raise OptionError(
                    f"index: its label of class {name!r} is not the prior's; was it made for another prompt?"
                )
    return tuple(replace(entry, source_id=entry.name) for entry in build_class_map(images, labels))


def _opened(index: str | Path | Index) -> Index:
    return index if isinstance(index, Index) else open_index(index)


def _parse_shard(shard: str) -> tuple[int, int]:
    part, slash, parts = str(shard).partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise OptionError(f'shard: expected "i/n" with 1 <= i <= n, such as "1/4", got {shard!r}')
    return int(part), int(parts)


def _rows(images: Source, name: str, max_per_class: int | None, seed: int, shard: tuple[int, int] | None) -> np.ndarray:
    """Indices of a class's images that the index, or this part of it, holds, in the source's order."""
    own = images.of_class(images.class_names.index(name))
    if max_per_class is not None:
        own = np.sort(own[permutation(len(own), seed, name)[:max_per_class]])
    groups = [own[start:stop] for start, stop in row_groups(len(own), shard)]
    return np.concatenate([own[:0], *groups])
