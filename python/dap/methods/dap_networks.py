"""dap_networks: guide the slots of a class, as a set, to the mean features of its real images in networks.

``dap_set`` compares the slots of a class with its real images by a distance of latents. Here the kernel is

    k(x, y) = E_θ ⟨ψ_θ(x), ψ_θ(y)⟩,

with ψ_θ all but the last layer of a network with random weights θ: the feature map of distribution matching (Zhao and
Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, https://arxiv.org/abs/2110.04181). Its MMD² between
slots x_1 … x_m of a class c and real images r_1 … r_N is E_θ ‖mean ψ_θ(x) − mean ψ_θ(r)‖². A step draws θ, decodes
x̂_0, and shifts and mirrors both sets alike. With g the gradient of this mismatch with respect to the images of the
slots, it changes x̂_0 of all slots of the class together, D numbers, by

    −scale · σ_t · √D · h / ‖h‖,    h = (∂ images / ∂ x̂_0)ᵀ (g / ‖g‖ + w v / ‖v‖),

σ_t the ancestral sampler's noise, without a gradient through the denoiser. θ may also be a state of a training on the
real images, and then v is the gradient of Σ_i ℓ(f(x_i), c), the cross-entropy of a trained network f. Both are of
"Improved Distribution Matching" (Zhao, Li, Qin and Yu, CVPR 2023, https://arxiv.org/abs/2307.09742), which optimises
pixels. The networks of a run are the same for all its classes.

This method is dap's own. Near to it are the guidances of a set by optimal transport to clusters (DMGD, and OT-DD for
IGD's), and by the mean of a class with a repulsion (RSM + CGS); DDOQ (arXiv 2501.07681) weights images by the shares of
their clusters instead. Its defaults were chosen on held-out images (``docs/guidance.md``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dap import rng
from dap.config import check_choice, check_number, check_whole
from dap.errors import OptionError
from dap.features import RealLatents, latents_bytes, real_latents
from dap.methods.base import Context, Couples, Presets, Record, Unit
from dap.methods.common.cached_networks import TrainedStates
from dap.methods.common.drawn_networks import NetworkOptions
from dap.methods.common.guides import TERMS, Guide, SingleGuide
from dap.methods.common.held_images import can_hold, images_by_number
from dap.methods.common.modes import Clusters, Modes, find_modes, largest_first, modes_bytes
from dap.methods.common.network_kernel import ClassTarget, Matching, NetworkKernelTerm, guided_steps
from dap.methods.common.siamese import AUGMENTATIONS
from dap.priors import Demand
from dap.sampling import Window
from dap.selection.k_means import nearest_rows

__all__ = ["DAPNetworks", "NetworkKernel"]

logger = logging.getLogger(__name__)

TRAINED = {"epochs": 5, "verdict": 1.0}
TRAINED_IPC50 = TRAINED | {
    "verdict": 0.3, "scale": 2.0, "references": 1000, "batch": 500, "kernel": "distance", "every": 1, "strength": 0.4,
}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """What the source gives.

    Attributes:
        latents: The latents of the real images; None if images are compared.
        trained: The states of the networks of each kind; empty if their weights are random.
        starts: The medoids at which the slots start; None if they start from noise.
    """

    latents: RealLatents | None = None
    trained: tuple[TrainedStates, ...] = ()
    starts: Modes | None = None


@TERMS.register("network_kernel")
@dataclass(frozen=True)
class NetworkKernel(NetworkOptions, Guide[Prepared]):
    """The options of a term with the kernel of random networks, or of networks that are trained on the real images.

    Attributes:
        scale: The length of a change of x̂_0 as a multiple of σ_t, at least 0.
        networks: One name of :func:`dap.list_networks` or several, which take turns from step to step. If left out, a
            ConvNet with as many blocks as leave 4 × 4 pixels, from three to six. A network with batch norm sees each
            image by itself, under the statistics with which it begins (mean 0, variance 1).
        width: Channels of the blocks of a ConvNet, or of the first stage of "resnet_ap10", at least 1; other networks
            have their own.
        epochs: Passes over the real images in which networks are trained, at least 2. Networks with batch norm or
            dropout cannot be trained. A step takes a network as it was before a training or after one of its epochs.
            0: the weights are random.
        trainings: Trainings of each kind of network, from different weights, at least 1.
        verdict: Weight of the cross-entropy of trained networks on the slots (w above), at least 0.
        draws: Networks in a step, at least 1.
        references: Real images of each class that are drawn for the run, at least 1; a class with fewer gives all.
        batch: How many of them a network sees in a step, drawn anew, at least 1; with fewer references all.
        kernel: "linear", which matches means, or "distance", the energy distance of the features.
        augmentation: "shift_flip", "dsa" or "none". None: "shift_flip" for pixels, "none" for latents.
        space: "pixels", or "latent": networks of x̂_0 itself, without the decoder.
        start: Share of the steps after which guidance starts, from 0 to 1; steps that are not taken count too.
        stop: Share of the steps after which it stops, from ``start`` to 1.
        every: Guidance acts in each ``every``-th of these steps, at least 1.

    Example:
        >>> NetworkKernel(networks="small_vit").networks
        ('small_vit',)
    """

    name: ClassVar[str] = "network_kernel"
    version: ClassVar[int] = 3

    scale: float = 1.0
    verdict: float = 0.0
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
        super().__post_init__()
        check_number("scale", self.scale, 0)
        for option in ("draws", "references", "batch", "every"):
            check_whole(option, getattr(self, option))
        check_choice("kernel", self.kernel, ("linear", "distance"))
        check_choice("space", self.space, ("pixels", "latent"))
        if self.epochs and self.space == "latent":
            raise OptionError("epochs: networks are trained on images; give space='pixels', or epochs=0 and verdict=0")
        check_number("verdict", self.verdict, 0)
        if self.verdict and not self.epochs:
            raise OptionError("verdict: only trained networks have one; give epochs= too, or verdict=0")
        if self.augmentation is not None:
            check_choice("augmentation", self.augmentation, (*AUGMENTATIONS, "none"))
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> Prepared:
        """Check the networks and the source; then train networks, or encode the real images, if either is needed."""
        self.check(context)
        return self.compared(context)

    def check(self, context: Context) -> None:
        """Raise OptionError if networks do not fit the run, or the source has no images and they are compared."""
        self.check_networks(context, self.shape(context))
        if self.space == "pixels":
            context.images([0])

    def compared(self, context: Context) -> Prepared:
        """Train the networks that compare images, if they are trained; in the latent space, encode the real images."""
        if self.space == "pixels":
            return Prepared(trained=self.trained(context))
        real = real_latents(
            context.source, context.classes, context.prior, index=context.index, bars=context.bars,
            dtype=context.latent_dtype,
        )  # fmt: skip
        real.prepare()
        return Prepared(real)

    def demand(self, context: Context) -> Demand:
        """Return that a graph leads through the decoder, if images are compared, and through a network."""
        if not self.scale:
            return Demand()
        own = self.features_bytes(context, self.shape(context))
        if self.space == "pixels" and context.prior.device.type == "cpu":  # else real images take none of its memory
            own += self.real_bytes(context)
        return Demand(decoder=self.space == "pixels", own=own)

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, if they are compared, or of the trained networks."""
        if self.space == "pixels":
            return self.states_bytes(context)
        return latents_bytes(context.source, context.prior, index=context.index)

    def term(self, context: Context, unit: Unit, artefact: Prepared) -> NetworkKernelTerm:
        """Return the term for the slots of a unit."""
        targets, classes = [], context.classes_of(unit)
        hold = can_hold(context, sum(min(self.references, len(context.source.of_class(each))) for each, _ in classes))
        for index, places in classes:
            name, rows = context.classes[index].name, context.source.of_class(index)
            draw = rng.generator(context.seed, "dap_networks", "references", name)
            chosen = torch.randperm(len(rows), generator=draw)[: self.references].sort().values
            if artefact.latents is None:
                real = images_by_number(context, rows[chosen.numpy()], hold=hold)
            else:
                real = artefact.latents.of_class(name)[chosen].__getitem__
            targets.append(ClassTarget(name, index, places, len(chosen), real))
        matching = Matching(
            context.seed, partial(self.drawn, context, self.shape(context), artefact.trained),
            partial(self.judge, context, artefact.trained), self.draws, self.batch, self.kernel,
            self.augmentation or ("shift_flip" if self.space == "pixels" else "none"), self.verdict,
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

    def real_bytes(self, context: Context) -> int:
        """Return the bytes of the real images of a class by its number of slots, of the class where they are most.

        They are 0 if the images of one class are too many to hold: then each step decodes its own.
        """
        pixels, classes = context.channels * context.size**2, range(len(context.classes))
        images = [min(self.references, len(context.source.of_class(index))) for index in classes]
        shares = (pixels * count // max(1, context.ipc_of(index)) for index, count in zip(classes, images, strict=True))
        return max(shares) if can_hold(context, max(images)) else 0

    def preparation_bytes(self, context: Context) -> int:
        """Return the memory of encoding real images, or of training networks on them."""
        return max(context.prior.encoding_bytes, self.training_bytes(context))

    def shared(self) -> str | None:
        """Return the networks that the run trains on all classes."""
        return "networks that are trained on the images of all classes" if self.epochs else None


@dataclass(frozen=True)
class DAPNetworks(NetworkKernel, SingleGuide[Prepared]):
    """Guide the slots of a class, as a set, to the mean features of its real images in networks.

    Options as in :class:`NetworkKernel`, and one for where the slots start. The preset "trained" has networks that are
    trained on the real images, and their verdict; it costs a training, which the cache keeps. "trained_ipc50" is for
    about 50 images a class: its images stay nearer to those at which they start, and each step compares them with more
    real ones, by the energy distance. The preset "mixed" has random networks of four kinds, which take turns; they are
    for images of 28 to 64 pixels.

    Attributes:
        strength: Share of the steps that are taken, above 0 and at most 1. Below 1 each slot starts at a real image of
            its class, a medoid of k-means of the latents with noise, as image-to-image sampling does.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="dap_networks:trained", ipc=10, out="o")  # doctest: +SKIP
    """

    name: ClassVar[str] = "dap_networks"
    paper: ClassVar[str] = "dap's own"
    year: ClassVar[int | None] = None
    couples: ClassVar[Couples] = "class"
    presets: ClassVar[Presets] = {
        "trained": TRAINED,
        "trained_ipc50": TRAINED_IPC50,
        "mixed": {"networks": ("convnet3", "small_resnet_ap10", "small_vit", "small_mlp")},
    }

    strength: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("strength", self.strength, above=0, most=1)

    def check(self, context: Context) -> None:
        """Check as :class:`NetworkKernel` does, and warn if guidance acts in none of the steps that are taken."""
        super().check(context)
        steps = context.num_steps()
        first = steps - context.num_steps(self.strength)
        guided = guided_steps(Window(self.start, self.stop), self.every, steps)
        if self.scale and not any(step >= first for step in guided):
            logger.warning(
                "%s does not guide: start=%g, stop=%g and every=%d name none of the steps %d to %d of %d, which are "
                "taken with strength=%g; give a later stop, a smaller every or strength=1",
                self.name, self.start, self.stop, self.every, first + 1, steps, steps, self.strength,
            )  # fmt: skip

    def steps_per_slot(self, context: Context) -> int:
        """Return the steps that are taken."""
        return context.num_steps(self.strength)

    def prepare(self, context: Context) -> Prepared:
        """Find the medoids at which the slots start, and prepare the term; a training comes after all other errors."""
        self.check(context)
        starts = find_modes(context, medoids, "k-medoids, all different") if self.strength < 1 else None
        return replace(self.compared(context), starts=starts)

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images and of the medoids, if used, and of trained networks."""
        return super().disk(context) if self.strength == 1 else modes_bytes(context) + self.states_bytes(context)

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
