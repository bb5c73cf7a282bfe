"""The term that matches slots with real images in the features of networks.

It is defined and explained in :mod:`dap.methods.dap_networks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dap import rng
from dap.kernels import Distance
from dap.methods.common.set_energy import set_energies
from dap.methods.common.siamese import AUGMENTATIONS
from dap.nets import Network, images_at_once
from dap.priors import Prior
from dap.sampling import DeltaTerm, Place, StepState, Window

__all__ = ["ClassTarget", "Matching", "NetworkKernelTerm", "guided_steps", "mismatch"]


@dataclass(frozen=True)
class ClassTarget:
    """The slots of one class in a unit, and the real images that they are matched with.

    Attributes:
        name: The class, which seeds its draws.
        label: Its number, for networks that were trained.
        places: Positions of the slots in the unit, int64 (m,).
        count: N, the number of real images.
        real: Returns the real images of some numbers below N, int64 (n,): latents, or images as uint8 or as floats in
            [−1, 1], (n, C, H, W) on the CPU.
    """

    name: str
    label: int
    places: Tensor
    count: int
    real: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Matching:
    """How a step matches; options as in :class:`dap.methods.common.network_guide.NetworkKernel`.

    Attributes:
        seed: The root seed of the run.
        network: Returns the network of a turn, a step and a draw. The kind depends on the turn, which counts the steps
            of guidance; the weights depend on the other two.
        judge: The same for the network whose cross-entropy counts; it is not called without ``verdict``.
        draws: Networks in a step.
        batch: Real images of each class for a network.
        kernel: "linear" or "distance".
        augmentation: A name of ``AUGMENTATIONS``, or "none".
        verdict: The weight of the cross-entropy.
    """

    seed: int
    network: Callable[[int, int, int], Network]
    judge: Callable[[int, int, int], Network]
    draws: int
    batch: int
    kernel: str
    augmentation: str
    verdict: float = 0.0


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


def guided_steps(window: Window, every: int, num_steps: int) -> range:
    """Return the steps in which guidance acts: each ``every``-th of a window.

    Example:
        >>> guided_steps(Window(0.25, 1.0), 3, 10)
        range(3, 10, 3)
    """
    return range(math.ceil(window.start * num_steps), math.ceil(window.stop * num_steps), every)


@dataclass(frozen=True, kw_only=True)
class NetworkKernelTerm(DeltaTerm):
    """The change −σ_t √D h / ‖h‖ of x̂_0 of each class's slots together.

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
        steps = guided_steps(self.window, self.every, state.num_steps)
        if state.step not in steps:
            return torch.zeros_like(state.x0)
        turn = steps.index(state.step)
        with torch.enable_grad():
            x0 = state.x0.detach().requires_grad_()
            shown = self.prior.decode_with_graph(x0) if self.decoded else x0
            leaf = shown.detach().requires_grad_()  # cuts the graph, so that memory holds one network at a time
            slope = torch.zeros_like(leaf)
            for draw in range(self.matching.draws):
                slope = slope + self._unit_length(self._gradient(leaf, turn, state.step, draw))
                if self.matching.verdict:
                    surprise = self._unit_length(self._surprise(leaf, turn, state.step, draw))
                    slope = slope + self.matching.verdict * surprise
            gradient = torch.autograd.grad(shown, x0, slope)[0] if self.decoded else slope
        return -state.std * self._unit_length(gradient)

    def _gradient(self, shown: Tensor, turn: int, step: int, draw: int) -> Tensor:
        """Return the gradient of the mismatches of all classes with one network."""
        matching = self.matching
        net = matching.network(turn, step, draw).to(shown.device)
        total = shown.new_zeros(())
        for target in self.targets:
            generated = self._augmented(shown[target.places.to(shown.device)], target, step, draw)
            real = self._real(net, target, step, draw, shown)
            power = _power_to_one(real)  # changes a class's gradient by a factor, and its length is not used
            total = total + mismatch(net.features(generated) * power, real * power, matching.kernel)
        return torch.autograd.grad(total, shown)[0]

    def _surprise(self, shown: Tensor, turn: int, step: int, draw: int) -> Tensor:
        """Return the gradient of the cross-entropy of a trained network, summed over the slots."""
        net, total = self.matching.judge(turn, step, draw).to(shown.device), shown.new_zeros(())
        for target in self.targets:
            generated = self._augmented(shown[target.places.to(shown.device)], target, step, draw)
            labels = torch.full((len(generated),), target.label, device=shown.device)
            total = total + functional.cross_entropy(net(generated), labels, reduction="sum")
        return torch.autograd.grad(total, shown)[0]

    @torch.no_grad()
    def _real(self, net: Network, target: ClassTarget, step: int, draw: int, shown: Tensor) -> Tensor:
        """Return ψ of the real images of a step, (N, D), which are of the shape and on the device of `shown`."""
        draws = rng.generator(*self._key(target, step, draw))
        rows = torch.randperm(target.count, generator=draws)[: self.matching.batch]
        channels, height, width = shown.shape[1:]
        parts = rows.split(images_at_once(net, (channels, height, width)))  # so that few are held as floats
        images = (_as_float(target.real(part)).to(shown.device) for part in parts)
        return torch.cat([net.features(self._augmented(part, target, step, draw)) for part in images])

    def _augmented(self, images: Tensor, target: ClassTarget, step: int, draw: int) -> Tensor:
        """Return the images (N, C, H, W) of a class, changed as those of its other side are."""
        name = self.matching.augmentation
        if name == "none":
            return images
        return AUGMENTATIONS[name](images, rng.generator(*self._key(target, step, draw), "augment"))

    def _key(self, target: ClassTarget, step: int, draw: int) -> tuple[int, str, str, int, int]:
        return self.matching.seed, "dap_networks", target.name, step, draw

    def _unit_length(self, gradient: Tensor) -> Tensor:
        """Return √D g / ‖g‖ for each class, D the numbers of its slots together; 0 where g is 0."""
        scaled = torch.zeros_like(gradient)
        for target in self.targets:
            part = gradient[target.places.to(gradient.device)]
            part = part * _power_to_one(part)
            norm = part.norm()
            scaled[target.places.to(gradient.device)] = part * (part.numel() ** 0.5 / torch.where(norm > 0, norm, 1))
        return scaled


def _power_to_one(values: Tensor) -> Tensor:
    """Return the power of two that takes the largest magnitude to between 1/2 and 1; at least 2^−125, at most 2^125.

    Deep networks with random weights can have features and gradients of 1e-24, whose squares are 0 in float32. If all
    values are 0, or one is not finite, the power is 1.
    """
    exponent = torch.frexp(values.detach().abs().amax()).exponent.clamp(-125, 125)
    return torch.ldexp(values.new_ones(()), -exponent)


def _as_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
