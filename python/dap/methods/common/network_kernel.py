"""The term that matches slots with real images in the features of random networks.

It is defined and explained in :mod:`dap.methods.dap_networks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dap import rng
from dap.kernels import Distance
from dap.methods.common.matching_losses import real_features
from dap.methods.common.set_energy import set_energies
from dap.methods.common.siamese import AUGMENTATIONS
from dap.nets import Network
from dap.priors import Prior
from dap.sampling import DeltaTerm, Place, StepState

__all__ = ["ClassTarget", "Matching", "NetworkKernelTerm", "mismatch"]


@dataclass(frozen=True)
class ClassTarget:
    """The slots of one class in a unit, and the real images that they are matched with.

    Attributes:
        name: The class, which seeds its draws.
        places: Positions of the slots in the unit, int64 (m,).
        real: Real images as floats in [−1, 1], or latents, (N, C, H, W) on the CPU; uint8 images are converted.
    """

    name: str
    places: Tensor
    real: Tensor


@dataclass(frozen=True)
class Matching:
    """How a step matches; options as in :class:`dap.methods.dap_networks.NetworkKernel`.

    Attributes:
        seed: The root seed of the run.
        network: Returns the network of a step and a draw, with weights of its own.
        draws: Networks in a step.
        batch: Real images of each class for a network.
        kernel: "linear" or "distance".
        augmentation: A name of ``AUGMENTATIONS``, or "none".
    """

    seed: int
    network: Callable[[int, int], Network]
    draws: int
    batch: int
    kernel: str
    augmentation: str


def mismatch(generated: Tensor, real: Tensor, kernel: str) -> Tensor:
    """Return how far two sets of features are apart.

    Args:
        generated: (m, D).
        real: (N, D).
        kernel: "linear": ‖mean − mean‖², the MMD² of the linear kernel; "distance": the energy distance of the two
            sets but for a constant of ``real``.

    Returns:
        A scalar, differentiable with respect to ``generated``.

    Example:
        >>> mismatch(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0]]), "linear")
        tensor(4.)
    """
    if kernel == "linear":
        return (generated.mean(0) - real.mean(0)).square().sum()
    shares = real.new_full((len(real),), 1 / len(real))
    return set_energies(generated, real, Distance(), shares).mean()


@dataclass(frozen=True, kw_only=True)
class NetworkKernelTerm(DeltaTerm):
    """The change −σ_t √D g / ‖g‖ of x̂_0 of each class's slots together.

    Attributes:
        prior: The prior, whose decoder makes images of x̂_0.
        targets: The classes of the unit.
        matching: The networks, and how they compare.
        decoded: Whether images are compared; otherwise latents.
        every: The term acts in each ``every``-th step of its window.
    """

    prior: Prior
    targets: tuple[ClassTarget, ...]
    matching: Matching
    decoded: bool = True
    every: int = 1
    at: Place = "x0"

    def delta(self, state: StepState) -> Tensor:
        """Return the change, with shape (B, C, h, w)."""
        first = math.ceil(self.window.start * state.num_steps)
        if (state.step - first) % self.every:
            return torch.zeros_like(state.x0)
        with torch.enable_grad():
            x0 = state.x0.detach().requires_grad_()
            shown = self.prior.decode_with_graph(x0) if self.decoded else x0
            leaf = shown.detach().requires_grad_()  # cuts the graph, so that memory holds one network at a time
            slope = torch.zeros_like(leaf)
            for draw in range(self.matching.draws):
                slope = slope + self._unit_length(self._gradient(leaf, state.step, draw))
            gradient = torch.autograd.grad(shown, x0, slope)[0] if self.decoded else slope
        return -state.std * self._unit_length(gradient)

    def _gradient(self, shown: Tensor, step: int, draw: int) -> Tensor:
        """Return the gradient of the mismatches of all classes with one network."""
        matching = self.matching
        net = matching.network(step, draw).to(shown.device)
        total = shown.new_zeros(())
        for target in self.targets:
            key = (matching.seed, "dap_networks", target.name, step, draw)
            rows = torch.randperm(len(target.real), generator=rng.generator(*key))[: matching.batch]
            real = _as_float(target.real[rows]).to(shown.device)
            generated = shown[target.places.to(shown.device)]
            if matching.augmentation != "none":
                change = AUGMENTATIONS[matching.augmentation]
                real, generated = (change(images, rng.generator(*key, "augment")) for images in (real, generated))
            total = total + mismatch(net.features(generated), real_features(net, real), matching.kernel)
        return torch.autograd.grad(total, shown)[0]

    def _unit_length(self, gradient: Tensor) -> Tensor:
        """Return √D g / ‖g‖ for each class, D the numbers of its slots together; 0 where g is 0."""
        scaled = torch.zeros_like(gradient)
        for target in self.targets:
            part = gradient[target.places.to(gradient.device)]
            norm = part.norm()
            scaled[target.places.to(gradient.device)] = part * (part.numel() ** 0.5 / torch.where(norm > 0, norm, 1))
        return scaled


def _as_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
