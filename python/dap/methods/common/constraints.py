"""What is wanted of an estimate beyond the prior, for :mod:`dap.methods.plug_and_play`: its constraints c(η, class)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import vector_to_parameters

from dap.features.latents import RealLatents, real_latents
from dap.kernels import Kernel
from dap.kernels.torch_pairs import TorchPairs
from dap.methods.common.set_energy import set_size
from dap.methods.common.surrogate import SurrogateTraining, prepare_surrogate
from dap.rng import generator

if TYPE_CHECKING:
    from dap.methods.base import Context, Unit

__all__ = ["ClassifierConstraint", "Constraint", "KernelConstraint"]


class Constraint(Protocol):
    """What is wanted of η beyond the prior."""

    def of(self, context: Context, unit: Unit) -> Callable[[Tensor], Tensor]:
        """The function c of a unit: from η, float32 (B, C, h, w), to (B,), differentiable."""

    def record(self) -> dict[str, Any]:
        """What the manifest says about it."""


@dataclass(frozen=True)
class ClassifierConstraint:
    """The cross-entropy of the slot's class.

    Attributes:
        net: Maps float images in [-1, 1] to logits; frozen.
        epochs: How long it was trained.
    """

    net: nn.Module
    epochs: int

    @classmethod
    def prepare(cls, context: Context, network: str, width: int, epochs: int) -> ClassifierConstraint:
        """Trains a surrogate, or finds it in the cache, and takes the last state that was kept."""
        surrogate = prepare_surrogate(context, last_epoch(network, width, epochs))
        vector_to_parameters(surrogate.weights[-1], surrogate.net.parameters())
        return cls(surrogate.net.eval().requires_grad_(False), surrogate.epochs[-1])

    def of(self, context: Context, unit: Unit) -> Callable[[Tensor], Tensor]:
        """See :class:`Constraint`."""
        prior = context.require_prior()
        targets = torch.tensor([slot.class_index for slot in unit.slots], device=prior.device)

        def values(latents: Tensor) -> Tensor:
            logits = self.net(prior.decode_pixels(latents).clamp(-1, 1))
            return functional.cross_entropy(logits, targets, reduction="none")

        return values

    def record(self) -> dict[str, Any]:
        """After how many epochs the classifier was taken."""
        return {"epochs": self.epochs}


@dataclass(frozen=True)
class KernelConstraint:
    """The squared distance to the kernel mean of the class's real latents, from differences and so without cancelling.

    Attributes:
        kernel: Any kernel; a bandwidth rule looks at the references.
        real: The latents of all real images.
        rows: Which of them are the references, by class name, int64 (N,).
    """

    kernel: Kernel
    real: RealLatents
    rows: Mapping[str, Tensor]

    @classmethod
    def prepare(cls, context: Context, kernel: Kernel, references: int) -> KernelConstraint:
        """Encodes the real images, or finds their latents, and draws so many of each class."""
        real = real_latents(context.source, context.classes, context.require_prior(), index=context.index)
        real.of_class(context.classes[0].name)  # encodes all, before anything is written: a corrupt file stops here
        rows = {}
        for name, ids in real.ids.items():
            order = torch.randperm(len(ids), generator=generator(context.seed, "kernel mean", name))
            rows[name] = order[:references].sort().values
        return cls(kernel, real, rows)

    def of(self, context: Context, unit: Unit) -> Callable[[Tensor], Tensor]:
        """See :class:`Constraint`. The references of the unit's classes are in memory as long as the function is."""
        device, classes = context.require_prior().device, []
        for index, places in context.classes_of(unit):
            name = context.classes[index].name
            references = self.real.of_class(name)[self.rows[name]].flatten(1)
            kernel, size = self.kernel.resolve(references), 2 * set_size(references, self.kernel)
            classes.append((places.to(device), references.to(device), kernel, size))

        def values(latents: Tensor) -> Tensor:
            rows = latents.flatten(1)
            found = rows.new_zeros(len(rows))
            for places, references, kernel, size in classes:
                own = kernel.squared_distance(TorchPairs(rows[places], references)).mean(1)
                found = found.index_put((places,), own / size)
            return found

        return values

    def record(self) -> dict[str, Any]:
        """The source ids of the references, by class."""
        ids = self.real.ids
        return {"references": {name: [ids[name][row] for row in rows.tolist()] for name, rows in self.rows.items()}}


def last_epoch(network: str, width: int, epochs: int) -> SurrogateTraining:
    """A training whose every epoch is kept while the gradients still move, so that its end is; they are of one image.

    Raises:
        OptionError: An unknown network, or numbers that are too small.
    """
    return SurrogateTraining(network, width, epochs, checkpoints=epochs, similarity=1.0, references=1)
