"""manifold_gd: mode guidance, and a push back towards the noised neighbourhood of the mode across its tangent space.

Roy et al., "ManifoldGD: Training-Free Hierarchical Manifold Guidance for Diffusion-Based Dataset Distillation", CVPR
2026, https://arxiv.org/abs/2602.23295. Modes m are the leaves of a bisecting k-means of a class's latents. In step t,

    x_{t−1} = step(x_t, ε) + scale · [ σ_t · (m − x̂_0) + tanh(min_j ‖x_t − y_j‖ / bandwidth) · n / ‖n‖ ],

where the first part is the gradient of the log of the Gaussian kernel exp(−‖x̂_0 − m‖² / 2), which is MGD3's pull, σ_t
is the ancestral step's noise, and n leads from x_t to the manifold of mode and step, estimated locally:

    y_j = √ᾱ_t · (m + r_j · u_j) + √(1 − ᾱ_t) · ε_j,    300 random points around m, noised to step t,
    n   = −(I − U Uᵀ)(x_t − μ),    μ = the mean of the 12 points y that are nearest to x_t, U = their 3 main directions.

The u_j are unit vectors. Half of the r_j lie evenly between 0.1 and r, half are uniform in [0, r]; r is twice the
``radius`` in the first step and falls to it over five steps as (exp(p) − 1) / (e − 1), with p from 1 to 0 (over fewer
in the code where fewer are guided). U comes from an SVD of the 12 neighbours; the released code diagonalises a D × D
covariance of the same rank.

The paper states another correction, the mode pull without its normal part, g − P_N g; this is the code that was
released with it. Constants are those of its scripts, as is guidance in the first 24 of 50 steps (``stop`` 0.48; see
:mod:`dap.methods.mgd3`). Its defaults differ from its scripts, and 300, 12 and 0.1 are fixed in it.

Levels: the code grows the tree to as many leaves as images are wanted, takes one leaf from each level, from the start
level (1 is the root) down, then the rest from the deepest level up. So it takes all of them whatever the start level,
which decides their order, and with it the slot and the noise that each mode gets. That is what ``start_level`` is.

What differs from the released code beside what :mod:`dap.methods.mgd3` lists: leaves of one level come by their size,
not at random; the points u, r and ε are drawn once for each slot, not in each step, which leaves their law in a step
as it is but has a slot see one neighbourhood all the way; without a scale of its own, the correction shares the mode
pull's (both are 0.1 in all scripts). Its DDIM form, both parts added to x̂_0 and without σ_t, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dap import rng
from dap.errors import OptionError
from dap.methods.base import Context, Unit
from dap.methods.guided import TERMS, Guide, SingleGuide
from dap.methods.mgd3 import Clusters, Modes, find_modes
from dap.sampling import StepState, Window
from dap.selection.bisecting import bisecting_k_means

__all__ = ["Cloud", "ManifoldGD", "ManifoldMode", "ManifoldModeTerm", "by_level"]

POINTS, NEIGHBOURS, TANGENT_DIM = 300, 12, 3
LEAST_RADIUS, WARM_UP_STEPS, WARM_UP_FACTOR = 0.1, 5, 2.0


def by_level(levels: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], start_level: int) -> list[int]:
    """The order in which clusters are taken: one of each level from the start level down, then the deepest first.

    Args:
        levels: Splits that led to each cluster, (k,).
        sizes: Rows of each cluster, (k,): of one level, the largest comes first.
        start_level: From 1, the root; one below the deepest level is the deepest.

    Example:
        >>> by_level(np.array([1, 3, 3, 2]), np.array([5, 1, 4, 2]), 2)
        [0, 3, 2, 1]
    """
    left = sorted(range(len(levels)), key=lambda cluster: -sizes[cluster])
    order: list[int] = []
    for level in range(min(start_level - 1, max(levels)), max(levels) + 1):
        order += [cluster for cluster in left if levels[cluster] == level][:1]
    return order + sorted((each for each in left if each not in order), key=lambda cluster: -levels[cluster])


@TERMS.register("manifold_mode")
@dataclass(frozen=True)
class ManifoldMode(Guide):
    """The pull to the modes with its correction as a term.

    Attributes:
        scale: Of both parts; 0 leaves the prior's own samples.
        radius: r of the points around a mode, in units of the latents.
        bandwidth: Distance from the nearest point at which the correction fades, in units of the latents.
        start_level: Level of the tree, from 1, with which the slots begin.
        start: Share of the steps after which guidance starts.
        stop: Share of the steps after which it stops.

    Example:
        >>> ManifoldMode(radius=0.1).bandwidth
        0.2
    """

    name: ClassVar[str] = "manifold_mode"

    scale: float = 0.1
    radius: float = 0.05
    bandwidth: float = 0.2
    start_level: int = 6
    start: float = 0.0
    stop: float = 0.48

    def __post_init__(self) -> None:
        if not 0 <= self.scale < math.inf:
            raise OptionError(f"scale: expected 0 or more, got {self.scale}")
        for option in ("radius", "bandwidth"):
            if not 0 < getattr(self, option) < math.inf:
                raise OptionError(f"{option}: expected more than 0, got {getattr(self, option)}")
        if type(self.start_level) is not int or self.start_level < 1:
            raise OptionError(f"start_level: expected a whole number of at least 1, got {self.start_level!r}")
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> Modes:
        """The modes of each class: the leaves of bisecting k-means, level by level."""
        return find_modes(context, self._leaves)

    def _leaves(self, rows: npt.NDArray[np.float32], count: int, seed: int) -> Clusters:
        found = bisecting_k_means(rows, count, seed=seed)
        order = by_level(found.levels, np.bincount(found.labels, minlength=count), self.start_level)
        return Clusters(found.cluster_centers, found.labels).in_order(np.array(order))

    def term(self, context: Context, unit: Unit, artefact: Modes) -> ManifoldModeTerm:
        """The guidance of each slot, with points of its own."""
        names = [(context.classes[slot.class_index].name, slot.number) for slot in unit.slots]
        modes = artefact.of(context, unit)
        generators = [rng.generator(context.seed, "manifold", *each) for each in names]
        cloud = Cloud.draw(modes[0].numel(), generators, modes.device)
        return ManifoldModeTerm(
            modes, cloud, self.radius, self.bandwidth, Window(self.start, self.stop), self.scale
        )  # fmt: skip

    def record(self, context: Context, artefact: Modes) -> dict[str, Any]:
        """Sizes of the clusters and the source id nearest to each mode, by class."""
        return artefact.record()


@dataclass(frozen=True)
class Cloud:
    """What is random about the points around each slot's mode: unit vectors u, shares of the radius, and noise ε.

    Attributes:
        directions: (B, 300, D).
        shares: Of the radius, in [0, 1), for the second half of the points, (B, 150).
        noise: (B, 300, D).
        products: u · ε, (B, 300).
        squares: ‖ε‖², (B, 300).
    """

    directions: Tensor
    shares: Tensor
    noise: Tensor
    products: Tensor
    squares: Tensor

    @classmethod
    def draw(cls, columns: int, generators: list[torch.Generator], device: torch.device) -> Cloud:
        """One cloud of each CPU generator, for D columns."""
        draws = [
            (
                torch.randn(POINTS, columns, generator=generator),
                torch.rand(POINTS // 2, generator=generator),
                torch.randn(POINTS, columns, generator=generator),
            )
            for generator in generators
        ]
        directions, shares, noise = (torch.stack(parts).to(device) for parts in zip(*draws, strict=True))
        directions /= directions.norm(dim=2, keepdim=True)
        return cls(directions, shares, noise, (directions * noise).sum(2), (noise * noise).sum(2))

    def neighbours(self, x: Tensor, radius: float, alpha: float, sigma: float) -> Tensor:
        """The 12 points y that are nearest to each slot, (B, 12, D); both are relative to √ᾱ_t · m, x with (B, D).

        Squared distances, less ‖x‖², are sums of products: of 300 points of a slot, 12 are then made.
        """
        even = torch.linspace(LEAST_RADIUS, radius, POINTS // 2, device=x.device)
        lengths = alpha * torch.cat([even.expand(len(x), -1), radius * self.shares], 1)
        along, across = ((vectors @ x.unsqueeze(2)).squeeze(2) for vectors in (self.directions, self.noise))
        squared = lengths * (lengths + 2 * sigma * self.products - 2 * along)
        squared += sigma * (sigma * self.squares - 2 * across)
        which = squared.topk(NEIGHBOURS, largest=False).indices.unsqueeze(2)
        near = lengths.unsqueeze(2).take_along_dim(which, 1) * self.directions.take_along_dim(which, 1)
        return near + sigma * self.noise.take_along_dim(which, 1)


@dataclass(frozen=True)
class ManifoldModeTerm:
    """The change of each slot, (B, C, h, w), as the module's docstring has it; ``modes`` have that shape too."""

    modes: Tensor
    cloud: Cloud
    radius: float
    bandwidth: float
    window: Window
    scale: float
    at: Literal["sample"] = "sample"
    needs: Literal["nothing"] = "nothing"
    taps: frozenset[int] = frozenset()

    def delta(self, state: StepState) -> Tensor:
        """The pull to the mode and the correction, not yet times the scale."""
        share = max(0.0, 1 - state.step / WARM_UP_STEPS)
        radius = self.radius * (1 + (WARM_UP_FACTOR - 1) * math.expm1(share) / math.expm1(1))
        x = (state.sample.detach() - state.alpha * self.modes).flatten(1)
        neighbours = self.cloud.neighbours(x, radius, state.alpha, state.sigma)
        mean = neighbours.mean(1, keepdim=True)
        tangent = torch.linalg.svd(neighbours - mean, full_matrices=False).Vh[:, :TANGENT_DIM]
        offset = x.unsqueeze(1) - mean
        normal = (offset - offset @ tangent.mT @ tangent).squeeze(1)
        nearest = (x.unsqueeze(1) - neighbours).norm(dim=2).amin(1, keepdim=True)
        weight: Tensor = torch.tanh(nearest / self.bandwidth) / (normal.norm(dim=1, keepdim=True) + 1e-8)
        pull: Tensor = (self.modes - state.x0) * state.std
        correction: Tensor = -weight * normal
        return pull + correction.view_as(pull)


@dataclass(frozen=True)
class ManifoldGD(SingleGuide, ManifoldMode):
    """Mode guidance with its correction; options as in :class:`ManifoldMode`.

    Presets: "nette" (also the defaults), "woof" and "imagenet" (of 100 and of 1,000 classes) are those of the released
    scripts. Their radius and bandwidth are a hundredth of the distance between latents or less, there and in the
    built-in prior: the neighbourhood is the noise alone, and the weight is 1. "fashion" scales both to the built-in
    prior, in which an image is about 11 from its mode (median, 10 modes of a class). Its scale is the best of a grid on
    held-out images (``examples/compare_methods.py manifold``, seeds from 1000, n = 2, points of accuracy relative to no
    guidance): 0.03 / 0.1 / 0.3 / 1 gave −0.1 / −1.8 / −2.3 / −2.6 to half of the steps and −1.0 / −3.0 / −4.7 / −6.6 to
    the end. No scale was better than none.

    The modes depend on how many images are wanted, so the images of a class belong together, and a run cannot grow.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="manifold_gd:fashion", out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "manifold_gd"
    paper: ClassVar[str] = "Roy et al., CVPR 2026, arXiv 2602.23295"
    year: ClassVar[int | None] = 2026
    couples: ClassVar[Literal["slot", "class"]] = "class"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nette": {"radius": 0.05, "bandwidth": 0.2, "start_level": 6},
        "woof": {"radius": 0.1, "bandwidth": 0.2, "start_level": 6},
        "imagenet": {"radius": 0.1, "bandwidth": 0.1, "start_level": 1},
        "fashion": {"scale": 0.03, "radius": 5.0, "bandwidth": 11.0, "start_level": 1, "stop": 0.5},
    }
