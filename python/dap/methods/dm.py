"""dm: images optimised until, in each class, their mean features in random networks equal those of the real images.

Zhao and Bilen, "Dataset Condensation with Distribution Matching" (DM), WACV 2023, https://arxiv.org/abs/2110.04181,
code at https://github.com/VICO-UoE/DatasetCondensation. Each iteration draws a new ConvNet θ, real images of each
class, and one augmentation A for all images of a class (DSA, :mod:`dap.methods.common.siamese`), and takes a step of
SGD on

    L = Σ_classes ‖ mean ψ_θ(A x_real) − mean ψ_θ(A x) ‖²,     ψ_θ all layers of the network but the last.

It is the baseline of optimised sets, with and without a prior:

    space="pixels"   x are the pixels. No prior is needed, and images have the size of the source or of the option
                     ``size`` of the run.
    space="latent"   x = decoder(z), and z is optimised. The decoder is that of the run's prior, whose denoiser is not
                     used.

x starts at real images, those that method "random" chooses with the same seed; z starts at their latents.

Published constants, which are the defaults and the preset "paper": 20,000 iterations, a learning rate of 1 in units of
pixels that are normalised for the network, momentum 0.5, 256 real images of each class, a ConvNet-3 of width 128.

Differences from the released code:

- Pixels are clamped to [0, 1] after each step and rounded at the end, since images are stored as PNG. Its images are
  tensors, whose values may leave the range.
- Pixels are normalised by ImageNet's mean and deviation, for grey images the mean of both; there by those of the data
  set.
- ``space="latent"`` is ours, with learning rates of its own: those of latents have no published value.

The presets "fashion" (pixels) and "fashion_latent" are for small grey images; ``docs/guidance.md`` says how they were
chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dap.config import check_choice, check_number, check_whole
from dap.errors import DivergedError
from dap.features import encode_images
from dap.methods.base import Context, Couples, Method, Presets, Record, Slot, Unit
from dap.methods.common.class_matching import ClassMatching
from dap.methods.common.held_images import held_bytes, images_by_index
from dap.methods.common.matching_losses import LOSSES
from dap.methods.common.network_memory import network_bytes
from dap.methods.common.real_images import rows_of_classes
from dap.methods.common.siamese import normalised, siamese_augmentation
from dap.nets import list_nets, normal_values
from dap.priors import Demand
from dap.selection import permutation

__all__ = ["DM"]


class RealSource(NamedTuple):
    """The real images of a run.

    Attributes:
        order: The source indices of each class, int64 (n,), in the order in which the slots start at them.
        images: Returns images by their indices, uint8 (n, channels, size, size).
    """

    order: Sequence[np.ndarray]
    images: Callable[[Tensor | np.ndarray], Tensor]

    def start(self, context: Context, slot: Slot) -> int:
        """Return the index of the image at which a slot starts: another one if it is made again."""
        order = self.order[slot.class_index]
        return int(order[(slot.number + slot.again * context.ipc_of(slot.class_index)) % len(order)])


@dataclass(frozen=True)
class DM(Method[RealSource]):
    """Pixels or latents, optimised until their class means in random networks are those of real images.

    Attributes:
        space: "pixels" or "latent".
        steps: Number of iterations, at least 1.
        learning_rate: The learning rate of SGD, at least 0.
        momentum: Its momentum, in [0, 1).
        batch: Number of real images of each class in an iteration; a class with fewer images gives all it has.
        network: One of :func:`dap.nets.list_nets`; the paper has "convnet3" up to 32 pixels, and a block more for each
            doubling of the side.
        width: Its number of channels.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="dm:fashion", out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "dm"
    paper: ClassVar[str] = "Zhao and Bilen, WACV 2023, arXiv 2110.04181"
    year: ClassVar[int | None] = 2023
    couples: ClassVar[Couples] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Presets] = {
        "paper": {"space": "pixels", "steps": 20_000, "learning_rate": 1.0, "momentum": 0.5, "batch": 256},
        "fashion": {"steps": 100, "learning_rate": 10.0, "batch": 64, "width": 32},
        "fashion_latent": {"space": "latent", "steps": 100, "learning_rate": 10.0, "batch": 64, "width": 32},
        "tiny": {"steps": 2, "batch": 4, "width": 8},
    }

    space: str = "pixels"
    steps: int = 20_000
    learning_rate: float = 1.0
    momentum: float = 0.5
    batch: int = 256
    network: str = "convnet3"
    width: int = 128

    def __post_init__(self) -> None:
        check_choice("space", self.space, ("pixels", "latent"))
        check_choice("network", self.network, list_nets())
        for option in ("steps", "batch", "width"):
            check_whole(option, getattr(self, option))
        check_number("learning_rate", self.learning_rate, 0)
        check_number("momentum", self.momentum, 0, below=1)

    def uses_prior(self) -> bool:
        """Return whether latents are decoded."""
        return self.space == "latent"

    def ignored(self) -> tuple[str, ...]:
        """Return that latents are decoded and not denoised."""
        return ("sampling", "num_inference_steps", "guidance_scale", "scheduler", "timestep_spacing", "eta")

    def prepare(self, context: Context) -> RealSource:
        """Return the real images, and at which of them the slots start.

        Raises:
            OptionError: A class has fewer images than are wanted.
            FormatError: An image cannot be decoded.
        """
        order = [
            rows[permutation(len(rows), context.seed, entry.name)]
            for entry, rows in zip(context.classes, rows_of_classes(context), strict=True)
        ]
        return RealSource(order, images_by_index(context))

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return what an iteration needs: the graph of a network and, for latents, of the decoder."""
        return (Demand(decoder=self.uses_prior(), own=network_bytes(context, self.network, self.width)),)

    def preparation_bytes(self, context: Context) -> int:
        """Return the memory of the real images, while they are held."""
        return held_bytes(context)

    def make(self, context: Context, unit: Unit, artefact: RealSource) -> Tensor:
        """Return the optimised slots of a unit: uint8 images, or latents."""
        prior, latent = context.prior, self.uses_prior()
        images = artefact.images(np.array([artefact.start(context, slot) for slot in unit.slots]))
        x = encode_images(prior, images) if latent else images.float() / 127.5 - 1
        x = x.to(prior.device).requires_grad_()
        # Of pixels p = x / 2 + ½ the network takes (p − mean) / std. A step in those units, whose gradient is 2 std
        # times that of x, moves x by 2 std times its length.
        std = torch.tensor(normal_values(context.channels)[1], device=prior.device)[:, None, None]
        rate = 1.0 if latent else (2 * std).square()
        optimizer = torch.optim.SGD([x], lr=self.learning_rate, momentum=self.momentum)
        for iteration in range(self.steps):
            with torch.enable_grad():
                made = self._decoded(context, x) if latent else x
                loss = self._loss(context, unit, made, iteration, artefact)
                (gradient,) = torch.autograd.grad(loss, x)
            x.grad = gradient * rate
            optimizer.step()
            if not torch.isfinite(loss):
                raise DivergedError("the loss left the finite numbers: lower learning_rate")
            if not latent:
                x.data.clamp_(-1, 1)
            if context.callback_on_step_end is not None:
                context.callback_on_step_end(prior, iteration, 0, {"latents": x.detach()})
        x = x.detach()
        return x if latent else (x * 127.5 + 127.5).round().to(torch.uint8).cpu()

    def _decoded(self, context: Context, latents: Tensor) -> Tensor:
        try:
            return context.prior.decode_with_graph(latents)
        except DivergedError as error:
            raise DivergedError("the latents left the range of the decoder: lower learning_rate") from error

    def steps_per_slot(self, context: Context) -> int:
        """Return the number of iterations."""
        return self.steps

    def record(self, context: Context, artefact: RealSource) -> Record:
        """Return the source id of the real image at which each slot starts, by class."""
        ids = context.source.ids
        return {
            "started": {
                entry.name: [ids[artefact.start(context, Slot(index, n))] for n in range(context.ipc_of(index))]
                for index, entry in enumerate(context.classes)
            }
        }

    def _loss(self, context: Context, unit: Unit, images: Tensor, iteration: int, real: RealSource) -> Tensor:
        """Return the loss of an iteration, summed over the unit's classes."""
        matching = ClassMatching(
            self.name, LOSSES["distribution"], self.network, self.width, self.batch, siamese_augmentation,
            units=partial(normalised, clamp=self.uses_prior()),
        )  # fmt: skip
        return matching.of(context, unit, images, iteration, real.images)
