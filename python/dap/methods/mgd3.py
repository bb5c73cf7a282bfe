"""mgd3: pull each slot towards a mode of its class, one mode a slot, and let go half way.

Chan-Santiago et al., "MGD3: Mode-Guided Dataset Distillation using Diffusion Models", ICML 2025,
https://arxiv.org/abs/2505.18963. The modes m of a class are the centres of k-means of the latents of all its real
images, with as many clusters as images are wanted. With x̂_0 the estimate at step t, g = m − x̂_0 and λ the ``scale``,

    at="sample"   x_{t−1} = step(x_t, ε) + λ · σ_t · g       (the released code; σ_t = the ancestral step's noise)
    at="eps"      ε̂ = ε − λ · √(1 − ᾱ_t) · g                 (the paper, for DDIM)
    at="x0"       x̂_0 = x̂_0 + λ · σ_t · g                    (in neither; the form of which there was a probe)

The preset "paper" is the released code with the options of its scripts: λ = 0.1, and guidance while the step's number,
which counts down from 49, is above 25: these are the first 24 of 50 steps, a ``stop`` of 0.48. The default is the form
"x0" over half of the steps with λ = 1, the best of a grid on held-out images with the built-in prior (points of
accuracy relative to no guidance, ``examples/compare_methods.py modes``, seeds 1000 to 1003, n = 4): λ = 0.1 / 0.3 / 1
/ 3 gave −0.31 / −0.48 / +1.20 / +0.63, and −0.64 at 1 over all steps.

What differs from the released code:

- It clusters latents of images that it flips at random; here they are as they are.
- It starts k-means from random state 0 whatever the seed; here the start follows the run's seed. Both start once.
- Its clusters come in any order; here the largest is the first, so that the first few images stand for the most.
- It samples one image at a time and draws noise for both halves of classifier-free guidance from one global stream;
  here slots share a batch, and each has its own generator.
- It guides three of the four latent channels by the classifier-free scale and learns the variance, by which σ_t is that
  of each latent value: options of the prior here (``guided_channels``, ``learned_variance``), not of the method.
- Its DDIM takes the same guided DDPM step; here "sample" adds to what the run's scheduler gives.
- It finds a class's label by its place in a list; here the class map does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dap.errors import OptionError
from dap.features.latents import real_latents
from dap.kernels import nearest
from dap.methods.base import Context, Unit
from dap.methods.guided import TERMS, Guide, SingleGuide
from dap.registry import unknown_name_error
from dap.rng import derive_seed
from dap.sampling import StepState, Window
from dap.selection import k_means

__all__ = ["MGD3", "Clusters", "Mode", "ModeTerm", "Modes", "find_modes", "largest_first"]


@dataclass(frozen=True)
class Clusters:
    """The clusters of a class, in the order of its slots: centres (ipc, D), and the cluster of each row, int64 (N,).

    The cluster of a row that is in none is −1.
    """

    centers: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    def in_order(self, order: npt.NDArray[np.int64]) -> Clusters:
        """The same with cluster ``order[i]`` as number i."""
        return Clusters(self.centers[order], np.append(np.argsort(order), -1)[self.labels])


@dataclass(frozen=True)
class Modes:
    """The modes of each class, by its name.

    Attributes:
        latents: Mode number i is that of slot i; float32 (ipc, C, h, w) on the CPU.
        sizes: Real images in the cluster of each mode.
        nearest: Source id of the real image nearest to each mode.
    """

    latents: dict[str, Tensor]
    sizes: dict[str, list[int]]
    nearest: dict[str, list[str]]

    def of(self, context: Context, unit: Unit) -> Tensor:
        """The mode of each slot, (B, C, h, w) on the prior's device."""
        modes = [self.latents[context.classes[slot.class_index].name][slot.number] for slot in unit.slots]
        return torch.stack(modes).to(context.require_prior().device)

    def record(self) -> dict[str, Any]:
        """Sizes of the clusters and the nearest real images, by class and in slot order."""
        return {"sizes": self.sizes, "nearest": self.nearest}


def find_modes(context: Context, cluster: Callable[[npt.NDArray[np.float32], int, int], Clusters]) -> Modes:
    """Clusters the latents of all real images of each class.

    Args:
        context: The run; an index that it has gives the latents.
        cluster: From latents (N, D), the number of clusters and a seed to clusters in the order of the slots.

    Raises:
        OptionError: A class has fewer images than are wanted.
    """
    prior, modes = context.require_prior(), Modes({}, {}, {})
    real = real_latents(context.source, context.classes, prior, index=context.index)
    for name, ids in real.ids.items():
        if len(ids) < context.ipc:
            raise OptionError(
                f"class {name!r} has {len(ids)} images, fewer than the modes that ipc={context.ipc} needs: lower ipc"
            )
    for name, ids in real.ids.items():
        rows = real.of_class(name).flatten(1).numpy()
        found = cluster(rows, context.ipc, derive_seed(context.seed, "modes", name))
        centers = found.centers.astype(np.float32)
        modes.latents[name] = torch.from_numpy(centers).reshape(-1, *prior.latent_shape)
        modes.sizes[name] = np.bincount(found.labels[found.labels >= 0], minlength=context.ipc).tolist()
        modes.nearest[name] = [ids[row] for row in np.asarray(nearest(centers, rows)[1])[:, 0]]
    return modes


@TERMS.register("mode")
@dataclass(frozen=True)
class Mode(Guide):
    """The pull to the modes as a term.

    Attributes:
        scale: λ; 0 leaves the prior's own samples.
        start: Share of the steps after which guidance starts.
        stop: Share of the steps after which it stops.
        at: "x0", "sample" or "eps"; see :mod:`dap.methods.mgd3`.

    Example:
        >>> Mode(at="sample", stop=0.48).scale
        1.0
    """

    name: ClassVar[str] = "mode"

    scale: float = 1.0
    start: float = 0.0
    stop: float = 0.5
    at: str = "x0"

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise OptionError(f"scale: expected 0 or more, got {self.scale}")
        if self.at not in ("x0", "sample", "eps"):
            raise unknown_name_error("at", self.at, ("x0", "sample", "eps"))
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> Modes:
        """The modes of each class, by k-means; the largest cluster is the first."""
        return find_modes(context, largest_first)

    def term(self, context: Context, unit: Unit, artefact: Modes) -> ModeTerm:
        """The pull of each slot to its mode."""
        return ModeTerm(artefact.of(context, unit), Window(self.start, self.stop), self.scale, self.at)

    def record(self, context: Context, artefact: Modes) -> dict[str, Any]:
        """Sizes of the clusters and the source id nearest to each mode, by class."""
        return artefact.record()


def largest_first(rows: npt.NDArray[np.float32], count: int, seed: int) -> Clusters:
    """k-means of latents (N, D), started once; the largest cluster is the first."""
    found = k_means(rows, count, seed=seed)
    order = np.argsort(-np.bincount(found.labels, minlength=count), kind="stable")
    return Clusters(found.cluster_centers, found.labels).in_order(order)


@dataclass(frozen=True)
class ModeTerm:
    """The change that pulls each slot to its mode, (B, C, h, w); the loop multiplies it by the scale.

    Attributes:
        modes: (B, C, h, w).
        window: The steps in which it acts.
        scale: λ.
        at: Where it acts.
        factor: Of g in a step; None: σ_t, or −√(1 − ᾱ_t) at "eps".
    """

    modes: Tensor
    window: Window
    scale: float
    at: Any
    factor: float | None = None
    needs: Literal["nothing"] = "nothing"
    taps: frozenset[int] = frozenset()

    def delta(self, state: StepState) -> Tensor:
        """The change, g times its factor."""
        own = -state.sigma if self.at == "eps" else state.std
        return (self.modes - state.x0) * (own if self.factor is None else self.factor)


@dataclass(frozen=True)
class MGD3(SingleGuide, Mode):
    """Mode guidance; options as in :class:`Mode`.

    The modes depend on how many images are wanted, so the images of a class belong together, and a run cannot grow.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="mgd3", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "mgd3"
    paper: ClassVar[str] = "Chan-Santiago et al., ICML 2025, arXiv 2505.18963"
    year: ClassVar[int | None] = 2025
    couples: ClassVar[Literal["slot", "class"]] = "class"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"scale": 0.1, "start": 0.0, "stop": 0.48, "at": "sample"},
        "fashion": {"scale": 1.0, "start": 0.0, "stop": 0.5, "at": "x0"},
    }
