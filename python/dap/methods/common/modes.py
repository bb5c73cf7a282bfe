"""Modes of a class: centres of clusters of its real latents, one for each slot, and the pull towards them.

mgd3, manifold_gd and dmgd guide by them; the modes of coda are real latents; d4m starts its samples at them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor

from dap.errors import OptionError
from dap.features import RealLatents, latents_bytes, real_latents
from dap.kernels import nearest
from dap.methods.base import Context, Record, Unit
from dap.rng import derive_seed
from dap.sampling import DeltaTerm, StepState
from dap.selection import k_means
from dap.storage.cache import MODES, CacheEntry
from dap.storage.shared_tensors import make_tensors

__all__ = ["Clusters", "ModeTerm", "Modes", "find_modes", "largest_first", "modes_bytes"]

RULE = 1  # raise it with every change of the found bits, so that entries of older versions are not read


@dataclass(frozen=True)
class Clusters:
    """The clusters of a class, in the order of its slots.

    Attributes:
        centers: The centre of each cluster, (k, D).
        labels: The cluster of each row, int64 (N,); −1 for a row in no cluster.
    """

    centers: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    def in_order(self, order: npt.NDArray[np.int64]) -> Clusters:
        """Return the clusters in another order: cluster ``order[i]`` becomes cluster i."""
        return Clusters(self.centers[order], np.append(np.argsort(order), -1)[self.labels])


@dataclass(frozen=True)
class Modes:
    """The modes of each class, by its name.

    Attributes:
        latents: The mode of each slot, float32 (n, C, h, w) on the CPU.
        sizes: The number of real images in the cluster of each mode.
        nearest: The source id of the real image nearest to each mode.
    """

    latents: dict[str, Tensor]
    sizes: dict[str, list[int]]
    nearest: dict[str, list[str]]

    def of(self, context: Context, unit: Unit) -> Tensor:
        """Return the mode of each slot, (B, C, h, w) on the prior's device."""
        modes = [self.latents[context.classes[slot.class_index].name][slot.number] for slot in unit.slots]
        return torch.stack(modes).to(context.prior.device)

    def record(self) -> Record:
        """Return the sizes of the clusters and the nearest real images, by class and in slot order."""
        return {"sizes": self.sizes, "nearest": self.nearest}


def find_modes(
    context: Context,
    cluster: Callable[[npt.NDArray[np.float32], int, int], Clusters],
    rule: object,
    *,
    count: int | None = None,
) -> Modes:
    """Cluster the latents of all real images of each class, or find the modes in the cache.

    A search that was stopped is continued after its last class.

    Args:
        context: The run; if it has an index, the latents are read from there.
        cluster: Takes latents (N, D), the number of clusters and a seed; returns clusters in the order of the slots.
        rule: Everything besides these that its result depends on, as JSON: its name, options and versions.
        count: Modes of each class, or as many as it has images; None: one for each slot.

    Raises:
        OptionError: A class has fewer images than slots.
    """
    prior = context.prior
    real = real_latents(
        context.source, context.classes, prior, index=context.index, bars=context.bars, dtype=context.latent_dtype
    )  # fmt: skip
    names, counts = list(real.ids), [context.ipc_of(index) for index in range(len(real.ids))]
    if count is not None:
        counts = [min(count, len(ids)) for ids in real.ids.values()]
    for (name, ids), wanted in zip(real.ids.items(), counts, strict=True):
        if len(ids) < wanted:
            raise OptionError(
                f"class {name!r} has {len(ids)} images, fewer than the modes that ipc={wanted} needs: lower ipc"
            )
    entry = CacheEntry.of(MODES, [RULE, real.identity, rule, counts, context.seed], ".safetensors")

    def modes_of(number: int) -> npt.NDArray[np.float32]:
        name, count = names[number], counts[number]
        rows = real.of_class(name).flatten(1).numpy()
        clusters = cluster(rows, count, derive_seed(context.seed, "modes", name))
        centers = clusters.centers.astype(np.float32)
        sizes = np.bincount(clusters.labels[clusters.labels >= 0], minlength=count)
        rows_of_modes = np.asarray(nearest(centers, rows)[1])[:, 0]
        return np.concatenate([part.astype(np.float32).ravel() for part in (centers, sizes, rows_of_modes)])

    if not entry.is_whole():
        real.prepare()
        shapes: dict[str, tuple[int, ...]] = {}
        for number, count in enumerate(counts):
            shapes[f"latents {number}"] = (count, *prior.latent_shape)
            shapes |= {f"sizes {number}": (count,), f"nearest {number}": (count,)}
        values = [count * (math.prod(prior.latent_shape) + 2) for count in counts]
        kept = "the modes that are found are kept; the same command continues after them"
        with closing(make_tensors(entry, shapes, values, modes_of)) as written:
            before = next(written, None)
            if before is not None:
                with context.bars.stage("modes", total=len(names), done=before, unit="class", kept=kept) as bar:
                    for _ in written:
                        bar.update()
    return _read(entry, real)


def modes_bytes(context: Context, count: int | None = None) -> int:
    """Return how many bytes the modes take in the cache, with the latents of all real images; see find_modes."""
    number = sum(count or context.ipc_of(index) for index in range(len(context.classes)))
    modes = 4 * number * (math.prod(context.prior.latent_shape) + 2)
    return modes + latents_bytes(context.source, context.prior, index=context.index)


def _read(entry: CacheEntry, real: RealLatents) -> Modes:
    """Return the modes of an entry; sizes and rows are whole numbers below 2²⁴, which float32 holds."""
    modes = Modes({}, {}, {})
    with safe_open(entry.path, framework="pt") as file:
        for number, (name, ids) in enumerate(real.ids.items()):
            modes.latents[name] = file.get_tensor(f"latents {number}")
            modes.sizes[name] = file.get_tensor(f"sizes {number}").long().tolist()
            modes.nearest[name] = [ids[row] for row in file.get_tensor(f"nearest {number}").long().tolist()]
    return modes


def largest_first(rows: npt.NDArray[np.float32], count: int, seed: int) -> Clusters:
    """Cluster latents (N, D) by k-means from one start; the largest cluster comes first."""
    result = k_means(rows, count, seed=seed)
    order = np.argsort(-np.bincount(result.labels, minlength=count), kind="stable")
    return Clusters(result.cluster_centers, result.labels).in_order(order)


@dataclass(frozen=True, kw_only=True)
class ModeTerm(DeltaTerm):
    """The pull of each slot towards its mode: m − x̂_0 times the ancestral σ_t, or times −√(1 − ᾱ_t) at "eps".

    Attributes:
        modes: m, (B, C, h, w).
        by_signal: Multiply by √ᾱ_t instead.
    """

    modes: Tensor
    by_signal: bool = False

    def delta(self, state: StepState) -> Tensor:
        """Return the change, (B, C, h, w)."""
        factor = -state.sigma if self.at == "eps" else state.std
        if self.by_signal:
            factor = state.alpha
        return (self.modes - state.x0) * factor
