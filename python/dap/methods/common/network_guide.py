"""The guide of the networks' kernel: its options, and what it prepares. :mod:`dap.methods.dap_networks` explains it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from dap import rng
from dap.config import check_choice, check_number, check_whole
from dap.errors import OptionError
from dap.features import RealLatents, latents_bytes, real_latents
from dap.methods.base import Context, Record, Unit
from dap.methods.common.cached_networks import TrainedStates
from dap.methods.common.drawn_networks import NetworkOptions
from dap.methods.common.guides import TERMS, Guide
from dap.methods.common.held_images import can_hold, images_by_number
from dap.methods.common.modes import Modes
from dap.methods.common.network_kernel import ClassTarget, Matching, NetworkKernelTerm
from dap.methods.common.siamese import AUGMENTATIONS
from dap.priors import Demand
from dap.sampling import Window

__all__ = ["NetworkKernel", "Prepared"]


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
