"""ld3m: optimise the start and condition of a short sampling chain so that its images train networks like real ones.

Moser, Raue, Palacio, Frolov and Dengel, "Latent Dataset Distillation with Diffusion Models" (LD3M), 2024,
https://arxiv.org/abs/2403.03881. Each slot has a latent z, which starts as that of a real image of its class, and a
condition c, which starts as the prior's own for the class. Its image is x(z, c) = decoder(x_0), where x_0 is the end of
a DDIM chain (η = 0) of n steps, i = n − 1 … 0, from x_T = α_T z + σ_T ε:

    x̂_0 = (x − σ_i ε̂) / α_i,   ε̂ = ε_θ(x, t_i, c) after classifier-free guidance,
    x̂_0 ← (1 − r) x̂_0 + r z,   r = i / (n − 1),      x ← α_{i−1} x̂_0 + σ_{i−1} ε̂.

The residual path with weight r carries the gradient past the denoiser to z; in the last step r is 0. z and c descend

    "distribution"  ‖ mean ψ(A x_real) − mean ψ(A x(z, c)) ‖²                (Zhao and Bilen, WACV 2023)
    "gradient"      Σ_rows 1 − cos(∇_θ ℓ(A x_real), ∇_θ ℓ(A x(z, c)))        (Zhao, Mopuri and Bilen, ICLR 2021)

summed over classes. Each iteration has a new random ConvNet (ψ its last hidden layer, θ its weights, with a row for
each output) and one augmentation A for all images of a class. Calls of the denoiser are checkpointed, so memory holds
one call at a time, whatever n is.

Published constants: n = 10, a classifier-free scale of 3 (an option of the run here), SGD with momentum 0.5, and under
distribution matching a learning rate of 1 for both z and c; 1,000 iterations in the scripts, 10,000 by default. The
preset "paper" has them, and what the released code does otherwise than this file does by default:

    noise="fresh"         ε is drawn anew in each iteration; by default each slot keeps its ε, so that its final image
                          is the one that was optimised
    normalise=True        images are clamped and normalised before ψ; by default they are x(z, c) as it is
    augmentation="dsa"    A is all of DSA (:mod:`dap.methods.common.siamese`); by default a shift and a flip

Its network has five blocks at 128 pixels and six at 256 (``network="convnet5"``, "convnet6").

Differences from the released code: its LDM has a codebook, and r leads to the quantised z; it draws ε anew even between
a call of the denoiser and its repetition for the gradient, which is not copied; trajectory matching is left out; the
network is not trained on the synthetic images in between; the condition of a DiT has a row for each block, that of
Stable Diffusion a row for each token.

The preset "fashion" had the best accuracy of a few trials on held-out images (``docs/guidance.md``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from dap.config import check_choice, check_number, check_whole
from dap.errors import DivergedError
from dap.features import RealLatents, latents_bytes, real_latents
from dap.methods.base import Context, Couples, Method, Presets, Record, Unit
from dap.methods.common.class_matching import ClassMatching
from dap.methods.common.matching_losses import LOSSES
from dap.methods.common.network_memory import network_bytes
from dap.methods.common.residual_chain import residual_chain
from dap.methods.common.siamese import AUGMENTATIONS, normalised
from dap.nets import list_nets
from dap.priors import Demand
from dap.selection import permutation

__all__ = ["LD3M"]


@dataclass(frozen=True)
class LD3M(Method[RealLatents]):
    """Latents and conditions, optimised through a short chain.

    Attributes:
        matching: "distribution" or "gradient".
        steps: Number of iterations, at least 1.
        chain: n, at least 2.
        learning_rate: The learning rate of z, at least 0.
        condition_rate: The learning rate of c, at least 0.
        momentum: The momentum of SGD, in [0, 1).
        batch: Number of real images of each class in an iteration; a class with fewer images gives all it has.
        network: One of :func:`dap.nets.list_nets`.
        width: Its number of channels.
        noise: "kept" or "fresh"; see :mod:`dap.methods.ld3m`, as for the next two.
        normalise: Whether the images are clamped and normalised for the network.
        augmentation: "shift_flip" (:func:`dap.nets.shift_flip`) or "dsa".

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="ld3m:fashion", out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "ld3m"
    version: ClassVar[int] = 3
    paper: ClassVar[str] = "Moser et al., arXiv 2403.03881"
    year: ClassVar[int | None] = 2024
    couples: ClassVar[Couples] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Presets] = {
        "paper": {
            "learning_rate": 1.0, "condition_rate": 1.0, "noise": "fresh", "normalise": True, "augmentation": "dsa",
        },
        "fashion": {"steps": 15, "chain": 5, "learning_rate": 10.0, "batch": 64, "width": 32},
        "tiny": {"steps": 2, "chain": 2, "batch": 4, "width": 8},
    }  # fmt: skip

    matching: str = "distribution"
    steps: int = 1000
    chain: int = 10
    learning_rate: float = 1.0
    condition_rate: float = 1.0
    momentum: float = 0.5
    batch: int = 256
    network: str = "convnet3"
    width: int = 128
    noise: str = "kept"
    normalise: bool = False
    augmentation: str = "shift_flip"

    def __post_init__(self) -> None:
        check_choice("matching", self.matching, LOSSES)
        check_choice("noise", self.noise, ("kept", "fresh"))
        check_choice("augmentation", self.augmentation, AUGMENTATIONS)
        check_choice("network", self.network, list_nets())
        for option, least in (("steps", 1), ("chain", 2), ("batch", 1), ("width", 1)):
            check_whole(option, getattr(self, option), least)
        for option in ("learning_rate", "condition_rate"):
            check_number(option, getattr(self, option), 0)
        check_number("momentum", self.momentum, 0, below=1)

    def prepare(self, context: Context) -> RealLatents:
        """Return the latents of all real images, which are encoded or found in the cache."""
        context.images([0])  # raises now, and not while images are made, if the source has none
        real = real_latents(
            context.source, context.classes, context.prior, index=context.index, bars=context.bars,
            dtype=context.latent_dtype,
        )  # fmt: skip
        real.prepare()
        return real

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return the two stages of an iteration: the loss of the decoded images, and one call of the denoiser."""
        own = network_bytes(context, self.network, self.width)
        return Demand(decoder=True, own=own), Demand(denoiser=True)

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images."""
        return latents_bytes(context.source, context.prior, index=context.index)

    def make(self, context: Context, unit: Unit, artefact: RealLatents) -> Tensor:
        """Return latents of the unit's slots at the end of their optimised chains."""
        prior, labels = context.prior, context.labels(unit)
        labels = labels.to(prior.device)
        generators = context.generators(unit)

        def draw() -> Tensor:
            draws = [torch.randn(prior.latent_shape, generator=generator) for generator in generators]
            return torch.stack(draws).to(prior.device)

        noise, fresh = draw(), self.noise == "fresh"
        z = self._start(context, unit, artefact).to(prior.device).requires_grad_()
        groups = [{"params": [z], "lr": self.learning_rate}]
        condition = None
        if prior.condition_shape is not None:
            condition = prior.condition(labels).detach().clone().requires_grad_()
            groups.append({"params": [condition], "lr": self.condition_rate})
        chain = partial(residual_chain, steps=self.chain, settings=context.settings, pass_size=context.pass_size)
        optimizer = torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)
        for iteration in range(self.steps):
            optimizer.zero_grad()
            with torch.enable_grad():
                ends = chain(prior, z, noise, labels, condition)
                loss = self._loss(context, unit, prior.decode_with_graph(ends), iteration)
                loss.backward()
            optimizer.step()
            noise = draw() if fresh else noise
            if not torch.isfinite(loss):
                raise DivergedError("the loss left the finite numbers: lower learning_rate or condition_rate")
            if context.callback_on_step_end is not None:
                context.callback_on_step_end(prior, iteration, 0, {"latents": z.detach()})
        with torch.no_grad():
            return chain(prior, z, noise, labels, condition)

    def shared(self) -> str | None:
        """Return that gradients of networks depend on their number of outputs; features do not."""
        return "the outputs of the networks whose gradients it matches" if self.matching == "gradient" else None

    def ignored(self) -> tuple[str, ...]:
        """Return that the chain is DDIM's, with its own number of steps."""
        return ("num_inference_steps", "scheduler", "eta")

    def steps_per_slot(self, context: Context) -> int:
        """Return the number of iterations."""
        return self.steps

    def record(self, context: Context, artefact: RealLatents) -> Record:
        """Return the source id of the real image at which each slot starts, by class."""
        return {
            "started": {
                name: [ids[row] for row in _rows(context, name, len(ids), range(context.ipc_of(index)))]
                for index, (name, ids) in enumerate(artefact.ids.items())
            }
        }

    def _start(self, context: Context, unit: Unit, artefact: RealLatents) -> Tensor:
        latents = torch.empty(len(unit.slots), *context.prior.latent_shape)
        for index, places in context.classes_of(unit):
            name = context.classes[index].name
            numbers = [unit.slots[place].number for place in places.tolist()]
            latents[places] = artefact.of_class(name)[_rows(context, name, len(artefact.ids[name]), numbers)]
        return latents

    def _loss(self, context: Context, unit: Unit, images: Tensor, iteration: int) -> Tensor:
        """Return the loss of an iteration, summed over the unit's classes."""
        matching = ClassMatching(
            self.name, LOSSES[self.matching], self.network, self.width, self.batch, AUGMENTATIONS[self.augmentation],
            units=normalised if self.normalise else None,
        )  # fmt: skip
        return matching.of(context, unit, images, iteration, lambda indices: context.images(indices.tolist()))


def _rows(context: Context, name: str, count: int, numbers: Iterable[int]) -> list[int]:
    """Return the rows, in a class of ``count`` images, at which the slots with these numbers start."""
    order = permutation(count, context.seed, name)
    return [int(order[number % count]) for number in numbers]
