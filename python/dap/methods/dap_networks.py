"""dap_networks: guide the slots of a class, as a set, to the mean features of its real images in random networks.

``dap_set`` compares the slots of a class with its real images by a distance of latents. Here the kernel is

    k(x, y) = E_θ ⟨ψ_θ(x), ψ_θ(y)⟩,

with ψ_θ all but the last layer of a network with random weights θ: the feature map of distribution matching (Zhao and
Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, https://arxiv.org/abs/2110.04181). Its MMD² between
slots x_1 … x_m of a class and real images r_1 … r_N is E_θ ‖mean ψ_θ(x) − mean ψ_θ(r)‖². Each step draws θ anew,
decodes x̂_0, and shifts and mirrors both sets alike. It takes the gradient g of this mismatch with respect to x̂_0 of
all slots of the class together, D numbers, and changes them by

    −scale · σ_t · √D · g / ‖g‖,    σ_t the ancestral sampler's noise,

without a gradient through the denoiser. The networks of a run are the same for all its classes.

This method is dap's own. Near to it are the guidances of a set by optimal transport to clusters (DMGD), and by the mean
of a class with a repulsion (RSM + CGS). Its defaults were chosen on held-out images (``docs/guidance.md``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dap import rng
from dap.config import check_choice, check_number, check_whole
from dap.features import RealLatents, latents_bytes, real_latents
from dap.methods.base import Context, Couples, Presets, Record, Unit
from dap.methods.common.guides import TERMS, Guide, SingleGuide
from dap.methods.common.modes import Clusters, Modes, find_modes, largest_first, modes_bytes
from dap.methods.common.network_kernel import ClassTarget, Matching, NetworkKernelTerm
from dap.methods.common.network_memory import features_bytes
from dap.methods.common.siamese import AUGMENTATIONS
from dap.nets import Network, check_network, create_net
from dap.priors import Demand
from dap.sampling import Window
from dap.selection.k_means import nearest_rows

__all__ = ["DAPNetworks", "NetworkKernel"]


@dataclass(frozen=True)
class Prepared:
    """What the source gives.

    Attributes:
        latents: The latents of the real images; None if images are compared.
        starts: The medoids at which the slots start; None if they start from noise.
    """

    latents: RealLatents | None = None
    starts: Modes | None = None


@TERMS.register("network_kernel")
@dataclass(frozen=True)
class NetworkKernel(Guide[Prepared]):
    """The options of a term with the kernel of random networks.

    Attributes:
        scale: The length of a change of x̂_0 as a multiple of σ_t, at least 0.
        networks: One name of :func:`dap.list_networks` or several, which take turns from step to step. If left out, a
            ConvNet with as many blocks as leave 4 × 4 pixels, from three to six.
        width: Channels of the blocks of a ConvNet, at least 1; other networks have their own.
        draws: Networks in a step, at least 1.
        references: Real images of each class that are drawn for the run, at least 1; a class with fewer gives all.
        batch: How many of them a network sees in a step, drawn anew, at least 1; with fewer references all.
        kernel: "linear", which matches means, or "distance", the energy distance of the features.
        augmentation: "shift_flip", "dsa" or "none". None: "shift_flip" for pixels, "none" for latents.
        space: "pixels", or "latent": networks of x̂_0 itself, without the decoder.
        start: Share of the steps after which guidance starts, from 0 to 1.
        stop: Share of the steps after which it stops, from ``start`` to 1.
        every: Guidance acts in each ``every``-th of these steps, at least 1.

    Example:
        >>> NetworkKernel(networks="small_vit").networks
        ('small_vit',)
    """

    name: ClassVar[str] = "network_kernel"

    scale: float = 1.0
    networks: str | tuple[str, ...] = ()
    width: int = 32
    draws: int = 1
    references: int = 64
    batch: int = 64
    kernel: str = "linear"
    augmentation: str | None = None
    space: str = "pixels"
    start: float = 0.0
    stop: float = 1.0
    every: int = 2

    def __post_init__(self) -> None:
        check_number("scale", self.scale, 0)
        networks = (self.networks,) if isinstance(self.networks, str) else tuple(self.networks)
        for network in networks:
            check_network(network)
        object.__setattr__(self, "networks", networks)
        for option in ("width", "draws", "references", "batch", "every"):
            check_whole(option, getattr(self, option))
        check_choice("kernel", self.kernel, ("linear", "distance"))
        check_choice("space", self.space, ("pixels", "latent"))
        if self.augmentation is not None:
            check_choice("augmentation", self.augmentation, (*AUGMENTATIONS, "none"))
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> Prepared:
        """Check the networks against the size of the images; in the latent space, encode the real images."""
        for step in range(len(self.kinds(context))):
            self.network(context, step, 0)
        if self.space == "pixels":
            context.images([0])  # raises now, and not while images are made, if the source has none
            return Prepared()
        real = real_latents(
            context.source, context.classes, context.prior, index=context.index, bars=context.bars,
            dtype=context.latent_dtype,
        )  # fmt: skip
        real.prepare()
        return Prepared(real)

    def demand(self, context: Context) -> Demand:
        """Return that a graph leads through the decoder, if images are compared, and through a network."""
        own = max(
            features_bytes(self.network(context, step, 0), self.shape(context))
            for step in range(len(self.kinds(context)))
        )
        return Demand(decoder=self.space == "pixels", own=own) if self.scale else Demand()

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, if they are compared."""
        return 0 if self.space == "pixels" else latents_bytes(context.source, context.prior, index=context.index)

    def term(self, context: Context, unit: Unit, artefact: Prepared) -> NetworkKernelTerm:
        """Return the term for the slots of a unit."""
        targets = []
        for index, places in context.classes_of(unit):
            name, rows = context.classes[index].name, context.source.of_class(index)
            draw = rng.generator(context.seed, "dap_networks", "references", name)
            chosen = torch.randperm(len(rows), generator=draw)[: self.references].sort().values
            latents = artefact.latents
            real = context.images(rows[chosen.numpy()]) if latents is None else latents.of_class(name)[chosen]
            targets.append(ClassTarget(name, places, real))
        matching = Matching(
            context.seed, lambda step, draw: self.network(context, step, draw), self.draws, self.batch, self.kernel,
            self.augmentation or ("shift_flip" if self.space == "pixels" else "none"),
        )  # fmt: skip
        return NetworkKernelTerm(
            prior=context.prior, targets=tuple(targets), matching=matching, decoded=self.space == "pixels",
            every=self.every, window=Window(self.start, self.stop), scale=self.scale,
        )  # fmt: skip

    def record(self, context: Context, artefact: Prepared) -> Record:
        """Return nothing: the images that a step sees follow from the seed."""
        return {}

    def shape(self, context: Context) -> tuple[int, int, int]:
        """Return the shape of what is compared: of an image, or of a latent."""
        pixels = (context.channels, context.size, context.size)
        return pixels if self.space == "pixels" else context.prior.latent_shape

    def kinds(self, context: Context) -> tuple[str, ...]:
        """Return the names of the networks that take turns."""
        blocks = int(math.log2(self.shape(context)[1])) - 2
        return tuple(self.networks) or (f"convnet{min(max(blocks, 3), 6)}",)

    def network(self, context: Context, step: int, draw: int) -> Network:
        """Return the network of a step, in the mode of evaluation: without dropout, and each image by itself."""
        channels, size, _ = self.shape(context)
        kinds = self.kinds(context)
        net = create_net(
            kinds[step % len(kinds)], width=self.width, channels=channels, classes=1, size=size,
            generator=rng.generator(context.seed, "dap_networks", "network", step, draw),
        )  # fmt: skip
        return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class DAPNetworks(NetworkKernel, SingleGuide[Prepared]):
    """Guide the slots of a class, as a set, to the mean features of its real images in random networks.

    Options as in :class:`NetworkKernel`, and one for where the slots start.

    Attributes:
        strength: Share of the steps that are taken, above 0 and at most 1. Below 1 each slot starts at a real image of
            its class, a medoid of k-means of the latents with noise, as image-to-image sampling does.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="dap_networks", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "dap_networks"
    paper: ClassVar[str] = "dap's own"
    year: ClassVar[int | None] = None
    couples: ClassVar[Couples] = "class"
    presets: ClassVar[Presets] = {}

    strength: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("strength", self.strength, above=0, most=1)

    def steps_per_slot(self, context: Context) -> int:
        """Return the steps that are taken."""
        return context.num_steps(self.strength)

    def prepare(self, context: Context) -> Prepared:
        """Prepare the term, and find the medoids at which the slots start."""
        prepared = super().prepare(context)
        starts = find_modes(context, medoids, "k-medoids, all different") if self.strength < 1 else None
        return replace(prepared, starts=starts)

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images and of the medoids, if they are used."""
        return super().disk(context) if self.strength == 1 else modes_bytes(context)

    def make(self, context: Context, unit: Unit, artefact: Prepared) -> Tensor:
        """Return guided latents of the unit's slots."""
        terms = [self.term(context, unit, artefact)]
        if artefact.starts is None:
            return context.sample(unit, terms)
        return context.sample(unit, terms, init=artefact.starts.of(context, unit), strength=self.strength)

    def record(self, context: Context, artefact: Prepared) -> Record:
        """Return the source ids of the medoids, by class and in slot order."""
        return {} if artefact.starts is None else {"started": artefact.starts.nearest}


def medoids(rows: npt.NDArray[np.float32], count: int, seed: int) -> Clusters:
    """Cluster latents (N, D) by k-means and take a row near each centre, all different; the largest cluster first."""
    clusters = largest_first(rows, count, seed)
    return Clusters(rows[nearest_rows(rows, clusters.centers)].astype(np.float64), clusters.labels)
