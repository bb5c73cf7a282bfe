"""The constraints c(η, class) of :mod:`dap.methods.plug_and_play`, which are lowered together with the prior's loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap.features.latents import RealLatents, real_latents
from dap.kernels import Kernel
from dap.kernels.torch_pairs import TorchPairs
from dap.methods.common.set_energy import set_size
from dap.rng import generator

if TYPE_CHECKING:
    from dap.methods.base import Context, Record, Unit

__all__ = ["ClassifierConstraint", "Constraint", "KernelConstraint"]


class Constraint(ABC):
    """A function of the estimate η that is lowered together with the prior's loss."""

    @abstractmethod
    def of(self, context: Context, unit: Unit) -> Callable[[Tensor], Tensor]:
        """Return c for the slots of a unit: it takes η, float32 (B, C, h, w), and returns (B,), differentiable."""

    @abstractmethod
    def record(self) -> Record:
        """Return what the manifest says about the constraint."""


@dataclass(frozen=True)
class ClassifierConstraint(Constraint):
    """The cross-entropy of the slot's class, or the probability of all other classes.

    Attributes:
        net: The frozen classifier, which maps float images in [-1, 1] to logits.
        epochs: The number of epochs that it was trained.
        probability: Whether c is 1 − p in place of −log p.
    """

    net: nn.Module
    epochs: int
    probability: bool = False

    def of(self, context: Context, unit: Unit) -> Callable[[Tensor], Tensor]:
        """See :class:`Constraint`."""
        prior = context.prior
        targets = torch.tensor([slot.class_index for slot in unit.slots], device=prior.device)

        def values(latents: Tensor) -> Tensor:
            logits = self.net(prior.decode_with_graph(latents).clamp(-1, 1))
            surprise = functional.cross_entropy(logits, targets, reduction="none")
            return -torch.expm1(-surprise) if self.probability else surprise

        return values

    def record(self) -> Record:
        """Return the number of epochs that the classifier was trained."""
        return {"epochs": self.epochs}


@dataclass(frozen=True)
class KernelConstraint(Constraint):
    """The squared distance to the kernel mean of the class's real latents.

    It is computed from differences, so that no digits cancel.

    Attributes:
        kernel: The kernel; a bandwidth rule is applied to the references.
        real: The latents of all real images.
        rows: The rows of ``real`` that are references, by class name, int64 (N,).
    """

    kernel: Kernel
    real: RealLatents
    rows: Mapping[str, Tensor]

    @classmethod
    def prepare(cls, context: Context, kernel: Kernel, references: int) -> KernelConstraint:
        """Encode the real images, or find their latents in the cache, and draw the references of each class."""
        real = real_latents(
            context.source, context.classes, context.prior, index=context.index, bars=context.bars,
            dtype=context.latent_dtype,
        )  # fmt: skip
        real.prepare()  # so that a corrupt file fails before anything is written
        rows = {}
        for name, ids in real.ids.items():
            order = torch.randperm(len(ids), generator=generator(context.seed, "kernel mean", name))
            rows[name] = order[:references].sort().values
        return cls(kernel, real, rows)

    def of(self, context: Context, unit: Unit) -> Callable[[Tensor], Tensor]:
        """See :class:`Constraint`. The function holds the references of the unit's classes in memory."""
        device, classes = context.prior.device, []
        for index, places in context.classes_of(unit):
            name = context.classes[index].name
            references = self.real.of_class(name)[self.rows[name]].flatten(1)
            kernel, size = self.kernel.resolve(references), 2 * set_size(references, self.kernel)
            classes.append((places.to(device), references.to(device), kernel, size))

        def values(latents: Tensor) -> Tensor:
            rows = latents.flatten(1)
            distances = rows.new_zeros(len(rows))
            for places, references, kernel, size in classes:
                class_distances = kernel.squared_distance(TorchPairs(rows[places], references)).mean(1)
                distances = distances.index_put((places,), class_distances / size)
            return distances

        return values

    def record(self) -> Record:
        """Return the source ids of the references, by class."""
        ids = self.real.ids
        return {"references": {name: [ids[name][row] for row in rows.tolist()] for name, rows in self.rows.items()}}
