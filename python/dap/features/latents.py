"""Latents of all real images of each class, in the cache: encoded once, and read by every run that wants them.

An entry is one safetensors file, named by a hash of all that its bytes depend on. It is written group by group beside
its place and renamed into it, so that memory holds one group of images, and nobody sees a part of the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dap.errors import FormatError, OptionError
from dap.features.build import LatentsOf, prior_hash, source_latents
from dap.features.index_checks import check_prior
from dap.index import row_groups
from dap.storage.cache import LATENTS, cache_folder, writing_cache

if TYPE_CHECKING:
    from dap.data.classmap import ClassEntry
    from dap.data.source import Source
    from dap.index import Index
    from dap.priors import Prior

__all__ = ["RealLatents", "real_latents"]

RULE = 1  # raised whenever dap encodes images to other bits: it then finds no file that an older one made


@dataclass(frozen=True)
class RealLatents:
    """Latents of the real images of each class.

    Attributes:
        ids: The source's image ids by class name, in the order of the rows.
        of_class: The latents of a class by its name, float32 (N, C, h, w) on the CPU.
    """

    ids: Mapping[str, Sequence[str]]
    of_class: Callable[[str], Tensor]


def real_latents(
    source: Source, classes: Sequence[ClassEntry], prior: Prior, *, index: Index | None = None
) -> RealLatents:
    """The latents of an index, or those of all images of a source; these are encoded when one is first asked for.

    Args:
        source: The images. A changed source is known by its ``identity()``.
        classes: The class map; labels of ``source`` are positions in it.
        prior: Whose VAE encodes.
        index: A feature index whose latents are taken instead; no image is then touched.

    Returns:
        Ids, and a function from a class's name to its latents. It raises OptionError if the cache cannot be written,
        and FormatError if an image cannot be decoded or the file in the cache is damaged.

    Raises:
        OptionError: The index is another prior's, or a part of one.

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
        return RealLatents(ids, lambda name: torch.from_numpy(np.array(index.latents(name), np.float32)))

    indices = {entry.name: source.of_class(position) for position, entry in enumerate(classes)}
    ids = {name: [source.ids[i] for i in own] for name, own in indices.items()}
    numbers = {name: str(number) for number, name in enumerate(ids)}
    path = cache_folder() / LATENTS / f"{_key(source, prior, ids)}.safetensors"

    def of_class(name: str) -> Tensor:
        if not path.is_file():
            _write(path, [len(own) for own in ids.values()], prior, source_latents(source, prior, indices), list(ids))
        try:
            with safe_open(path, framework="pt") as file:
                latents: Tensor = file.get_tensor(numbers[name])
        except SafetensorError as error:
            raise FormatError(f"{path}: damaged ({error}); delete it, it is made again") from error
        return latents

    return RealLatents(ids, of_class)


def _key(source: Source, prior: Prior, ids: Mapping[str, Sequence[str]]) -> str:
    """The entry's name. Other devices, dtypes and versions encode the same images to other last bits."""
    computed_by = [RULE, version("torch"), version("diffusers"), prior.device.type, str(prior.dtype)]
    content = [source.identity(), prior_hash(prior), list(prior.image_shape), ids, computed_by]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write(path: Path, counts: Sequence[int], prior: Prior, latents_of: LatentsOf, names: Sequence[str]) -> None:
    """A safetensors file with the latents of class number n as tensor "n": any name is then a class's name."""
    stops = np.cumsum(counts) * math.prod(prior.latent_shape) * 4
    layout = {
        str(number): {
            "dtype": "F32",
            "shape": [count, *prior.latent_shape],
            "data_offsets": [int(stops[number - 1]) if number else 0, int(stops[number])],
        }
        for number, count in enumerate(counts)
    }
    header = json.dumps(layout).encode()
    header += b" " * (-len(header) % 8)  # the format's alignment
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
    with writing_cache():
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("xb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for name, count in zip(names, counts, strict=True):
                for start, stop in row_groups(count):
                    file.write(latents_of(name, start, stop).numpy().astype("<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
