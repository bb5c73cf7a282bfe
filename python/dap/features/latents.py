"""Latents of all real images of each class, in the cache: encoded once, and read by every run that needs them.

An entry of the cache is one safetensors file, written in groups of rows: memory holds one group of images at a time. A
process that was stopped is continued by the next one after its last group. Processes that want the same entry share out
the groups.

They are stored in float16, which rounds a latent by up to 1 part in 2,048; runs that older versions began read float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dap.bar import NO_BARS, Bars
from dap.errors import FormatError, OptionError
from dap.features.build import source_latents
from dap.features.index_checks import check_prior
from dap.features.index_options import computed_by, prior_hash
from dap.index import row_groups
from dap.storage.cache import LATENTS, CacheEntry
from dap.storage.shared_tensors import make_tensors
from dap.storage.unfinished import unfinished_bytes

if TYPE_CHECKING:
    from dap.data.classmap import ClassEntry
    from dap.data.source import Source
    from dap.index import Index
    from dap.priors import Prior

__all__ = ["RealLatents", "latents_bytes", "real_latents"]

RULE = 1  # raise it with every change of the encoded bits, so that entries of older versions are not read


@dataclass(frozen=True)
class RealLatents:
    """Latents of the real images of each class.

    Attributes:
        ids: The source's image ids by class name, in the order of the rows.
        of_class: Returns the latents of a class by its name, float32 (N, C, h, w) on the CPU.
        prepare: Encodes the images, unless the cache has their latents; otherwise the first ``of_class`` does.
        identity: What the latents depend on, JSON-able.
    """

    ids: Mapping[str, Sequence[str]]
    of_class: Callable[[str], Tensor]
    prepare: Callable[[], None]
    identity: object


def real_latents(
    source: Source,
    classes: Sequence[ClassEntry],
    prior: Prior,
    *,
    index: Index | None = None,
    bars: Bars = NO_BARS,
    dtype: str = "float16",
) -> RealLatents:
    """Return the latents of all images of a source, or those of an index.

    The images are encoded at the first request for the latents of a class, unless the cache has them.

    Args:
        source: The images; its ``identity()`` tells whether they changed.
        classes: The class map; labels of ``source`` are positions in it.
        prior: The prior whose VAE encodes them.
        index: A feature index whose latents are returned instead; no image is then read.
        bars: Opens the bar of the encoding.
        dtype: In which they are stored, "float16" or "float32".

    Returns:
        Ids, and functions that encode and return latents. They raise OptionError if the cache cannot be written or has
        too little space, and FormatError if an image cannot be decoded or the file in the cache is damaged.

    Raises:
        OptionError: The index is of another prior, or is one part of several.

    Example:
        >>> from dap.data.classmap import build_class_map
        >>> from dap.data.open import open_source
        >>> from dap.priors import load_prior
        >>> prior, source = load_prior("fashion-dit"), open_source("fashion-mini").subset(["Dress"])
        >>> latents = real_latents(source, build_class_map(source, prior.labels), prior)
        >>> latents.of_class("Dress").shape  # doctest: +SKIP
        torch.Size([1000, 8, 8, 8])
    """
    if index is not None:
        check_prior(index, prior)
        if index.spec.shard is not None:
            part, parts = index.spec.shard
            raise OptionError(f"index {index.path} is part {part} of {parts}: join them with dap index merge first")
        ids: dict[str, Sequence[str]] = {entry.name: index.ids(entry.name) for entry in classes}
        return RealLatents(
            ids, lambda name: torch.from_numpy(np.array(index.latents(name), np.float32)), lambda: None, index.hash
        )  # fmt: skip

    indices = {entry.name: source.of_class(position) for position, entry in enumerate(classes)}
    ids = {name: [source.ids[i] for i in rows] for name, rows in indices.items()}
    content = [source.identity(), prior_hash(prior), list(prior.image_shape), ids, [RULE, *computed_by(prior)]]
    if dtype != "float32":
        content.append(dtype)
    entry = CacheEntry.of(LATENTS, content, ".safetensors")
    numbers = {name: str(number) for number, name in enumerate(ids)}  # names of tensors: a class may have any name

    verified = False

    def prepare() -> None:
        nonlocal verified
        if not (verified and entry.exists()) and not entry.is_whole():
            shapes = {numbers[name]: (len(rows), *prior.latent_shape) for name, rows in ids.items()}
            count = sum(len(rows) for rows in ids.values())
            need = count * math.prod(prior.latent_shape) * np.dtype(dtype).itemsize - unfinished_bytes(entry)
            entry.check_space(need, f"the latents of {count} images take", "choose fewer images or classes")
            groups = [(name, start, stop) for name, rows in indices.items() for start, stop in row_groups(len(rows))]
            ends = [0, *accumulate(stop - start for _, start, stop in groups)]
            values = [(stop - start) * math.prod(prior.latent_shape) for _, start, stop in groups]
            latents_of = source_latents(source, prior, indices)

            def stored(group: int) -> npt.NDArray[np.floating]:
                return _rounded(latents_of(*groups[group]).numpy(), dtype)

            kept = "the latents that are encoded are kept; the same command continues after them"
            with closing(make_tensors(entry, shapes, values, stored, dtype)) as written:
                before = next(written, None)
                if before is not None:
                    with bars.stage("latents", total=count, done=ends[before], unit=" images", kept=kept) as bar:
                        for group in written:
                            bar.update(ends[group] - ends[group - 1])
        verified = True

    def of_class(name: str) -> Tensor:
        prepare()
        try:
            with safe_open(entry.path, framework="pt") as file:
                latents: Tensor = file.get_tensor(numbers[name]).float()
        except SafetensorError as error:
            raise FormatError(f"{entry.path}: damaged ({error}); delete it, it is made again") from error
        return latents

    return RealLatents(ids, of_class, prepare, content)


def latents_bytes(source: Source, prior: Prior, *, index: Index | None = None) -> int:
    """Return how many bytes the latents of all images of a source take in the cache; 0 with an index that has them."""
    return 0 if index is not None else 2 * len(source) * math.prod(prior.latent_shape)


def _rounded(latents: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.floating]:
    with np.errstate(over="ignore"):
        rounded: npt.NDArray[np.floating] = latents.astype(dtype)
    if not np.isfinite(rounded).all():
        raise OptionError(
            f"the prior's latents are not finite in {dtype}, in which the cache keeps them: set the scaling_factor of "
            "its VAE so that latents have a standard deviation of about 1"
        )
    return rounded
