"""A loss between generated and real images of each class under a new random network in each iteration: ld3m and dm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dap import rng
from dap.nets import create_net

if TYPE_CHECKING:
    import numpy as np

    from dap.methods.base import Context, Unit
    from dap.methods.common.matching_losses import ClassLoss

__all__ = ["ClassMatching"]


@dataclass(frozen=True)
class ClassMatching:
    """How the images of a unit are compared with real ones of their classes.

    Attributes:
        stream: The method's name, of its own random numbers.
        loss: Compares the images of a class: one of :data:`dap.methods.common.matching_losses.LOSSES`.
        network: One of :func:`dap.nets.list_nets`.
        width: Its number of channels.
        batch: Number of real images of each class; a class with fewer images gives all it has.
        augment: Changes images (B, C, H, W) under a generator; generators of one seed change two batches alike.
        units: Maps images in [-1, 1] to those that the network takes.
    """

    stream: str
    loss: ClassLoss
    network: str
    width: int
    batch: int
    augment: Callable[[Tensor, torch.Generator], Tensor]
    units: Callable[[Tensor], Tensor] | None = None

    def of(
        self, context: Context, unit: Unit, images: Tensor, iteration: int, real_images: Callable[[np.ndarray], Tensor]
    ) -> Tensor:
        """Return the loss of an iteration, summed over the unit's classes.

        Args:
            context: The run.
            unit: The slots.
            images: Their images, float (B, channels, H, W) in [-1, 1], with a graph.
            iteration: Its number, which the random numbers depend on.
            real_images: Returns real images of the source by their indices, uint8.
        """
        net = create_net(
            self.network, width=self.width, channels=context.channels, classes=len(context.classes), size=context.size,
            generator=rng.generator(context.seed, self.stream, "net", iteration),
        ).to(images.device)  # fmt: skip
        total = torch.zeros((), device=images.device)
        for index, places in context.classes_of(unit):
            name = context.classes[index].name
            rows = context.source.of_class(index)
            draw = rng.generator(context.seed, self.stream, name, iteration)
            chosen = rows[torch.randperm(len(rows), generator=draw)[: self.batch].numpy()]
            real = real_images(chosen).to(images.device).float() / 127.5 - 1
            generated = images[places.to(images.device)]
            real, generated = (  # generators with one seed, so that both batches are augmented alike
                self.augment(
                    self.units(batch) if self.units else batch,
                    rng.generator(context.seed, self.stream, "augment", name, iteration),
                )
                for batch in (real, generated)
            )
            total = total + self.loss(net, real, generated, index)
        return total
