"""Modes of a class: centres of clusters of its real latents, one for each slot, and the pull towards them.

mgd3 and manifold_gd guide by them; the modes of coda are real latents; d4m starts its samples at them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dap.errors import OptionError
from dap.features import real_latents
from dap.kernels import nearest
from dap.methods.base import Context, Record, Unit
from dap.rng import derive_seed
from dap.sampling import DeltaTerm, StepState
from dap.selection import k_means

__all__ = ["Clusters", "ModeTerm", "Modes", "find_modes", "largest_first"]


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


def find_modes(context: Context, cluster: Callable[[npt.NDArray[np.float32], int, int], Clusters]) -> Modes:
    """Cluster the latents of all real images of each class.

    Args:
        context: The run; if it has an index, the latents are read from there.
        cluster: Takes latents (N, D), the number of clusters and a seed; returns clusters in the order of the slots.

    Raises:
        OptionError: A class has fewer images than are wanted.
    """
    prior, modes = context.prior, Modes({}, {}, {})
    real = real_latents(context.source, context.classes, prior, index=context.index, bars=context.bars)
    for index, (name, ids) in enumerate(real.ids.items()):
        if len(ids) < context.ipc_of(index):
            raise OptionError(
                f"class {name!r} has {len(ids)} images, fewer than the modes that ipc={context.ipc_of(index)} needs: "
                "lower ipc"
            )
    real.prepare()
    kept = "the latents are kept in the cache; the same command finds the modes again"
    with context.bars.stage("modes", total=len(real.ids), unit="class", kept=kept) as bar:
        for index, (name, ids) in enumerate(real.ids.items()):
            rows, count = real.of_class(name).flatten(1).numpy(), context.ipc_of(index)
            clusters = cluster(rows, count, derive_seed(context.seed, "modes", name))
            centers = clusters.centers.astype(np.float32)
            modes.latents[name] = torch.from_numpy(centers).reshape(-1, *prior.latent_shape)
            modes.sizes[name] = np.bincount(clusters.labels[clusters.labels >= 0], minlength=count).tolist()
            modes.nearest[name] = [ids[row] for row in np.asarray(nearest(centers, rows)[1])[:, 0]]
            bar.update()
    return modes


def largest_first(rows: npt.NDArray[np.float32], count: int, seed: int) -> Clusters:
    """Cluster latents (N, D) by k-means from one start; the largest cluster comes first."""
    result = k_means(rows, count, seed=seed)
    order = np.argsort(-np.bincount(result.labels, minlength=count), kind="stable")
    return Clusters(result.cluster_centers, result.labels).in_order(order)


@dataclass(frozen=True, kw_only=True)
class ModeTerm(DeltaTerm):
    """The pull of each slot towards its mode: the change m − x̂_0 times a factor.

    Attributes:
        modes: m, (B, C, h, w).
        factor: The factor of m − x̂_0; None stands for σ_t, or for −√(1 − ᾱ_t) at "eps".
    """

    modes: Tensor
    factor: float | None = None

    def delta(self, state: StepState) -> Tensor:
        """Return the change, (B, C, h, w)."""
        default = -state.sigma if self.at == "eps" else state.std
        return (self.modes - state.x0) * (default if self.factor is None else self.factor)
