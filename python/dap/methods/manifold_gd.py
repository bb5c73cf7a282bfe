"""manifold_gd: mode guidance with a correction that moves x_t back to the data manifold around its mode.

Roy et al., "ManifoldGD: Training-Free Hierarchical Manifold Guidance for Diffusion-Based Dataset Distillation", CVPR
2026, https://arxiv.org/abs/2602.23295. The modes m are the leaves of a bisecting k-means of a class's latents. In step
t,

    x_{t−1} = step(x_t, ε) + scale · [ σ_t · (m − x̂_0) + tanh(min_j ‖x_t − y_j‖ / bandwidth) · n / ‖n‖ ].

The first part is MGD3's pull, the gradient of the log of the Gaussian kernel exp(−‖x̂_0 − m‖² / 2). σ_t is the noise of
the ancestral step. n points from x_t to the manifold around the mode at this step, which is estimated from points y_j:

    y_j = √ᾱ_t · (m + r_j · u_j) + √(1 − ᾱ_t) · ε_j,    300 random points around m, noised to step t,
    n   = −(I − U Uᵀ)(x_t − μ),    μ = the mean of the 12 points y that are nearest to x_t, U = their 3 main directions.

The u_j are unit vectors. Half of the r_j are spaced evenly between 0.1 and r, half are uniform in [0, r]. r is twice
the ``radius`` in the first step and falls to it over five steps as (exp(p) − 1) / (e − 1), with p from 1 to 0. (In the
code it falls over fewer steps if fewer are guided.) U comes from an SVD of the 12 neighbours; the released code
diagonalises a D × D covariance of the same rank.

The paper states another correction, the mode pull without its normal part, g − P_N g; this file follows the code that
was released with it. The constants are those of its scripts, as is guidance in the first 24 of 50 steps (``stop`` 0.48;
see :mod:`dap.methods.mgd3`). The defaults of the code differ from those of its scripts, and 300, 12 and 0.1 are fixed.

Levels: the code grows the tree to as many leaves as images are wanted. It takes one leaf from each level, from the
start level (1 is the root) down, then the rest from the deepest level up. So it takes all leaves whatever the start
level is. The start level decides their order, and with it which slot and which noise each mode gets; ``start_level``
does the same here.

Differences from the released code, beside those that :mod:`dap.methods.mgd3` lists:

- Leaves of one level are ordered by size, not at random.
- The points u, r and ε are drawn once for each slot, not in each step. Their distribution in a step is the same, but a
  slot sees one neighbourhood in all steps.
- The correction has no scale of its own; it shares that of the mode pull (both are 0.1 in all scripts).
- The code's DDIM form, which adds both parts to x̂_0 without σ_t, is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dap import rng
from dap.config import check_number, check_whole
from dap.methods.base import Context, Couples, Presets, Record, Unit
from dap.methods.common.guides import TERMS, Guide, SingleGuide
from dap.methods.common.modes import Clusters, Modes, find_modes, modes_bytes
from dap.priors import Demand
from dap.sampling import DeltaTerm, Place, StepState, Window
from dap.selection.bisecting import bisecting_k_means

__all__ = ["Cloud", "ManifoldGD", "ManifoldMode", "ManifoldModeTerm", "by_level"]

POINTS, NEIGHBOURS, TANGENT_DIM = 300, 12, 3
LEAST_RADIUS, WARM_UP_STEPS, WARM_UP_FACTOR = 0.1, 5, 2.0


def by_level(levels: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], start_level: int) -> list[int]:
    """Return the clusters in order: one of each level from the start level down, then the rest, the deepest first.

    Args:
        levels: Number of splits that led to each cluster, (k,).
        sizes: Number of rows in each cluster, (k,); within a level the largest cluster comes first.
        start_level: Level from 1, the root; a number beyond the deepest level stands for the deepest.

    Example:
        >>> by_level(np.array([1, 3, 3, 2]), np.array([5, 1, 4, 2]), 2)
        [0, 3, 2, 1]
    """
    by_size = sorted(range(len(levels)), key=lambda cluster: -sizes[cluster])
    order: list[int] = []
    for level in range(min(start_level - 1, max(levels)), max(levels) + 1):
        order += [cluster for cluster in by_size if levels[cluster] == level][:1]
    rest = [cluster for cluster in by_size if cluster not in order]
    return order + sorted(rest, key=lambda cluster: -levels[cluster])


@TERMS.register("manifold_mode")
@dataclass(frozen=True)
class ManifoldMode(Guide[Modes]):
    """The options of a term with the pull to the modes and its correction.

    Attributes:
        scale: The scale of both parts, at least 0; 0 switches guidance off.
        radius: The radius r of the points around a mode, above 0, in units of the latents.
        bandwidth: Distance to the nearest point below which the correction fades, above 0, in units of the latents.
        start_level: Level of the tree, from 1, from which the first slot takes its mode.
        start: Share of the steps after which guidance starts, from 0 to 1.
        stop: Share of the steps after which it stops, from ``start`` to 1.

    Example:
        >>> ManifoldMode(radius=0.1).bandwidth
        0.2
    """

    name: ClassVar[str] = "manifold_mode"
    version: ClassVar[int] = 2

    scale: float = 0.1
    radius: float = 0.05
    bandwidth: float = 0.2
    start_level: int = 6
    start: float = 0.0
    stop: float = 0.48

    def __post_init__(self) -> None:
        check_number("scale", self.scale, 0)
        for option in ("radius", "bandwidth"):
            check_number(option, getattr(self, option), above=0)
        check_whole("start_level", self.start_level)
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> Modes:
        """Return the modes of each class, the leaves of bisecting k-means, in the order of :func:`by_level`."""
        return find_modes(context, self._leaves, ["bisecting k-means", self.start_level])

    def _leaves(self, rows: npt.NDArray[np.float32], count: int, seed: int) -> Clusters:
        tree = bisecting_k_means(rows, count, seed=seed)
        order = by_level(tree.levels, np.bincount(tree.labels, minlength=count), self.start_level)
        return Clusters(tree.cluster_centers, tree.labels).in_order(np.array(order))

    def term(self, context: Context, unit: Unit, artefact: Modes) -> ManifoldModeTerm:
        """Return the term that guides each slot, with random points for each slot."""
        keys = [(context.classes[slot.class_index].name, slot.key) for slot in unit.slots]
        modes = artefact.of(context, unit)
        generators = [rng.generator(context.seed, "manifold", name, *key) for name, key in keys]
        return ManifoldModeTerm(
            modes=modes, cloud=Cloud.draw(modes[0].numel(), generators, modes.device), radius=self.radius,
            bandwidth=self.bandwidth, window=Window(self.start, self.stop), scale=self.scale,
        )  # fmt: skip

    def demand(self, context: Context) -> Demand:
        """Return that the random points of a slot are held beside its noise estimate."""
        values = math.prod(context.prior.latent_shape)
        return Demand(own=4 * values * (2 * POINTS + 4 * NEIGHBOURS))

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, and of the modes."""
        return modes_bytes(context)

    def record(self, context: Context, artefact: Modes) -> Record:
        """Return the sizes of the clusters and the source id nearest to each mode, by class."""
        return artefact.record()


@dataclass(frozen=True)
class Cloud:
    """The random draws for the points around each slot's mode.

    Attributes:
        directions: Unit vectors u, (B, 300, D).
        shares: Shares of the radius, in [0, 1), for the second half of the points, (B, 150).
        noise: ε, (B, 300, D).
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
        """Draw the points of each slot, in D columns, from its CPU generator."""
        slots = len(generators)
        shapes = ((slots, POINTS, columns), (slots, POINTS // 2), (slots, POINTS, columns))
        directions, shares, noise = (torch.empty(shape) for shape in shapes)
        for slot, generator in enumerate(generators):  # filled slot by slot: a stack would hold all of it twice
            directions[slot] = torch.randn(POINTS, columns, generator=generator)
            shares[slot] = torch.rand(POINTS // 2, generator=generator)
            noise[slot] = torch.randn(POINTS, columns, generator=generator)
        directions, shares, noise = (values.to(device) for values in (directions, shares, noise))
        directions /= directions.norm(dim=2, keepdim=True)
        return cls(directions, shares, noise, (directions * noise).sum(2), (noise * noise).sum(2))

    def neighbours(self, x: Tensor, radius: float, alpha: float, sigma: float) -> Tensor:
        """Return the 12 points y nearest to each slot, (B, 12, D).

        The slots x, (B, D), and the points are relative to √ᾱ_t · m. The squared distances, less ‖x‖², are computed
        from products, so that only 12 of the 300 points of a slot are built.
        """
        even = torch.linspace(LEAST_RADIUS, radius, POINTS // 2, device=x.device)
        lengths = alpha * torch.cat([even.expand(len(x), -1), radius * self.shares], 1)
        along, across = ((vectors @ x.unsqueeze(2)).squeeze(2) for vectors in (self.directions, self.noise))
        squared = lengths * (lengths + 2 * sigma * self.products - 2 * along)
        squared += sigma * (sigma * self.squares - 2 * across)
        rows = squared.topk(NEIGHBOURS, largest=False).indices.unsqueeze(2)
        clean = lengths.unsqueeze(2).take_along_dim(rows, 1) * self.directions.take_along_dim(rows, 1)
        return clean + sigma * self.noise.take_along_dim(rows, 1)


@dataclass(frozen=True, kw_only=True)
class ManifoldModeTerm(DeltaTerm):
    """The change of x_{t−1} in the module's docstring.

    Attributes:
        modes: m of each slot, (B, C, h, w).
        cloud: The random draws for the points around the modes.
        radius: The radius r after the first five steps.
        bandwidth: Distance to the nearest point below which the correction fades.
    """

    modes: Tensor
    cloud: Cloud
    radius: float
    bandwidth: float
    at: Place = "sample"

    def delta(self, state: StepState) -> Tensor:
        """Return the pull to the mode plus the correction, (B, C, h, w), without the scale."""
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
class ManifoldGD(ManifoldMode, SingleGuide[Modes]):
    """Mode guidance with its correction; options as in :class:`ManifoldMode`.

    Presets: "nette" (also the defaults), "woof" and "imagenet" (of 100 and of 1,000 classes) are those of the released
    scripts. Their radius and bandwidth are at most a hundredth of the distance between latents, both there and with the
    built-in prior. The points then differ by their noise alone, and the tanh is 1. "fashion" scales both to the
    built-in prior, in which the distance of an image from its mode is about 11 (median, 10 modes of a class). Its scale
    had the best accuracy in a grid on held-out images, though no better than without guidance (``docs/guidance.md``).

    The modes depend on the number of images per class, so a finished run cannot be extended to more images.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="manifold_gd:fashion", out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "manifold_gd"
    paper: ClassVar[str] = "Roy et al., CVPR 2026, arXiv 2602.23295"
    year: ClassVar[int | None] = 2026
    couples: ClassVar[Couples] = "class"
    presets: ClassVar[Presets] = {
        "nette": {"radius": 0.05, "bandwidth": 0.2, "start_level": 6},
        "woof": {"radius": 0.1, "bandwidth": 0.2, "start_level": 6},
        "imagenet": {"radius": 0.1, "bandwidth": 0.1, "start_level": 1},
        "fashion": {"scale": 0.03, "radius": 5.0, "bandwidth": 11.0, "start_level": 1, "stop": 0.5},
    }
    sampled_by: ClassVar[Mapping[str, str]] = dict.fromkeys(("nette", "woof", "imagenet"), "dit-repo")
