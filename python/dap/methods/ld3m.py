"""ld3m: the start and the condition of a short sampling chain, optimised so that its images teach as real ones do.

Moser, Raue, Palacio, Frolov and Dengel, "Latent Dataset Distillation with Diffusion Models" (LD3M), 2024,
https://arxiv.org/abs/2403.03881. Each slot has a latent z, at first that of a real image of its class, and a condition
c, at first the prior's own for the class. Its image is x(z, c) = decoder(x_0) at the end of a DDIM chain (η = 0) of n
steps, i = n − 1 … 0, from x_T = α_T z + σ_T ε:

    x̂_0 = (x − σ_i ε̂) / α_i,   ε̂ = ε_θ(x, t_i, c) after classifier-free guidance,
    x̂_0 ← (1 − r) x̂_0 + r z,   r = i / (n − 1),      x ← α_{i−1} x̂_0 + σ_{i−1} ε̂.

The residual path r carries the gradient past the denoiser to z, and is gone in the last step. z and c go down

    "distribution"  ‖ mean ψ(A x_real) − mean ψ(A x(z, c)) ‖²                (Zhao and Bilen, WACV 2023)
    "gradient"      Σ_rows 1 − cos(∇_θ ℓ(A x_real), ∇_θ ℓ(A x(z, c)))        (Zhao, Mopuri and Bilen, ICLR 2021)

summed over classes, with a new random ConvNet in each iteration (ψ its last hidden layer, θ its weights, a row for each
output) and one augmentation A, a shift and perhaps a flip, for all images of a class. Denoiser calls are checkpointed:
memory holds one of them at a time, whatever n is.

Published: n = 10, a classifier-free scale of 3 (an option of the run here), SGD with momentum 0.5, a learning rate of
1 for z and c alike under distribution matching. That i counts down in r, from all of z to none, is inferred; whether ε
is drawn once or in each iteration is not known: here it stays a slot's own, so that a slot ends as the image that was
optimised. What differs from the released code: its LDM has a codebook, and r leads to the quantised z; trajectory
matching is left out; the network is not trained on the synthetic images in between; A is not all of DSA; the condition
of a DiT has a row for each block, of Stable Diffusion one for each token.

The preset "fashion" was chosen on held-out images with the built-in prior (``examples/compare_methods.py ld3m``, seed
1000, n = 1, points of accuracy relative to no guidance): 15 / 60 iterations at a rate of 10 for z and 1 for c gave +4.4
/ +3.7, 15 at 3 and 1 gave +3.5, 15 of "gradient" −6.1. The other options were not varied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dap import rng
from dap.errors import DivergedError, OptionError
from dap.features import RealLatents, real_latents
from dap.methods.base import Context, Unit
from dap.methods.common.matching_losses import distribution_loss, gradient_loss
from dap.nets import create_net, list_nets, shift_flip
from dap.priors import Prior
from dap.priors.schedulers import clip_range, level
from dap.registry import unknown_name_error
from dap.sampling import SamplingSettings
from dap.selection import permutation

__all__ = ["LD3M", "residual_chain"]

MATCHING = ("distribution", "gradient")


@dataclass(frozen=True)
class LD3M:
    """Latents and conditions, optimised through a short chain.

    Attributes:
        matching: "distribution" or "gradient".
        steps: Iterations, at least 1.
        chain: n, at least 2.
        learning_rate: Of z, at least 0.
        condition_rate: Of c, at least 0.
        momentum: SGD's, in [0, 1).
        batch: Real images of each class an iteration; a class with fewer gives all it has.
        network: One of :func:`dap.nets.list_nets`.
        width: Its channels.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="ld3m:fashion", out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "ld3m"
    paper: ClassVar[str] = "Moser et al., arXiv 2403.03881"
    year: ClassVar[int | None] = 2024
    couples: ClassVar[Literal["slot", "class"]] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"learning_rate": 1.0, "condition_rate": 1.0},
        "fashion": {"steps": 15, "chain": 5, "learning_rate": 10.0, "batch": 64, "width": 32},
        "tiny": {"steps": 2, "chain": 2, "batch": 4, "width": 8},
    }

    matching: str = "distribution"
    steps: int = 1000
    chain: int = 10
    learning_rate: float = 1.0
    condition_rate: float = 1.0
    momentum: float = 0.5
    batch: int = 256
    network: str = "convnet3"
    width: int = 128

    def __post_init__(self) -> None:
        if self.matching not in MATCHING:
            raise unknown_name_error("matching", self.matching, MATCHING)
        if self.network not in list_nets():
            raise unknown_name_error("network", self.network, list_nets())
        for option, least in (("steps", 1), ("chain", 2), ("batch", 1), ("width", 1)):
            if type(value := getattr(self, option)) is not int or value < least:
                raise OptionError(f"{option}: expected a whole number of at least {least}, got {value!r}")
        for option in ("learning_rate", "condition_rate"):
            if not 0 <= getattr(self, option) < math.inf:
                raise OptionError(f"{option}: expected 0 or more, got {getattr(self, option)}")
        if not 0 <= self.momentum < 1:
            raise OptionError(f"momentum: expected 0 to below 1, got {self.momentum}")

    def prepare(self, context: Context) -> RealLatents:
        """The latents of all real images; they are encoded when the first is asked for."""
        return real_latents(context.source, context.classes, context.require_prior(), index=context.index)

    def make(self, context: Context, unit: Unit, artefact: RealLatents) -> Tensor:
        """Latents of the unit's slots at the end of their chains."""
        prior, labels = context.require_prior(), context.labels(unit)
        labels = labels.to(prior.device)
        own = context.generators(unit)
        noise = torch.stack([torch.randn(prior.latent_shape, generator=each) for each in own]).to(prior.device)
        z = self._start(context, unit, artefact).to(prior.device).requires_grad_()
        groups = [{"params": [z], "lr": self.learning_rate}]
        condition = None
        if prior.condition_shape is not None:
            condition = prior.condition(labels).detach().clone().requires_grad_()
            groups.append({"params": [condition], "lr": self.condition_rate})
        optimizer = torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.momentum)
        for iteration in range(self.steps):
            optimizer.zero_grad()
            with torch.enable_grad():
                ends = residual_chain(prior, z, noise, labels, condition, steps=self.chain, settings=context.settings)
                loss = self._loss(context, unit, prior.decode_pixels(ends), iteration)
                loss.backward()
            optimizer.step()
            if not torch.isfinite(loss):
                raise DivergedError("the loss left the finite numbers: lower learning_rate or condition_rate")
            if context.callback_on_step_end is not None:
                context.callback_on_step_end(prior, iteration, 0, {"latents": z.detach()})
        with torch.no_grad():
            return residual_chain(prior, z, noise, labels, condition, steps=self.chain, settings=context.settings)

    def steps_per_slot(self, settings: SamplingSettings) -> int:
        """Iterations."""
        return self.steps

    def record(self, context: Context, artefact: RealLatents) -> dict[str, Any]:
        """Source id of the real image at which each slot began, by class."""
        return {
            "started": {
                name: [ids[row] for row in _rows(context, name, len(ids), range(context.ipc))]
                for name, ids in artefact.ids.items()
            }
        }

    def _start(self, context: Context, unit: Unit, artefact: RealLatents) -> Tensor:
        found = torch.empty(len(unit.slots), *context.require_prior().latent_shape)
        for index, places in context.classes_of(unit):
            name = context.classes[index].name
            numbers = [unit.slots[place].number for place in places.tolist()]
            found[places] = artefact.of_class(name)[_rows(context, name, len(artefact.ids[name]), numbers)]
        return found

    def _loss(self, context: Context, unit: Unit, images: Tensor, iteration: int) -> Tensor:
        """The sum over the unit's classes."""
        net = create_net(
            self.network, width=self.width, channels=context.channels, classes=len(context.classes), size=context.size,
            generator=rng.generator(context.seed, "ld3m", "net", iteration),
        ).to(images.device)  # fmt: skip
        total = torch.zeros((), device=images.device)
        for index, places in context.classes_of(unit):
            name = context.classes[index].name
            rows = context.source.of_class(index)
            draw = rng.generator(context.seed, "ld3m", name, iteration)
            chosen = rows[torch.randperm(len(rows), generator=draw)[: self.batch].numpy()]
            real = context.images(chosen).to(images.device).float() / 127.5 - 1
            seeds = [rng.generator(context.seed, "ld3m", "augment", name, iteration) for _ in range(2)]
            pair = [
                _as_one(each, seed) for each, seed in zip((real, images[places.to(images.device)]), seeds, strict=True)
            ]
            if self.matching == "distribution":
                total = total + distribution_loss(net, *pair)
            else:
                total = total + gradient_loss(net, *pair, target=index)
        return total


def residual_chain(
    prior: Prior,
    z: Tensor,
    noise: Tensor,
    labels: Tensor,
    condition: Tensor | None,
    *,
    steps: int,
    settings: SamplingSettings,
) -> Tensor:
    """x_0 at the end of the chain, float32 (B, C, h, w), with the graph to z and the condition.

    Args:
        prior: The diffusion model.
        z: (B, C, h, w).
        noise: ε, of the same shape.
        labels: The prior's labels, int64 (B,).
        condition: c, (B, *condition_shape); None where the prior has none.
        steps: n.
        settings: Of which the classifier-free scale is taken.
    """
    scheduler = prior.scheduler("ddim", steps)
    clip, last = clip_range(scheduler), len(scheduler.timesteps) - 1
    first = level(scheduler, 0)
    x = first.alpha * z + first.sigma * noise

    def estimate(x: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        return prior.denoise(
            x, t, labels, guidance_scale=settings.guidance_scale, through=True, condition=condition
        ).eps  # fmt: skip

    for step, t in enumerate(scheduler.timesteps):
        now = level(scheduler, step)
        eps = (
            checkpoint(estimate, x, t, condition, use_reentrant=False, preserve_rng_state=False)
            if torch.is_grad_enabled()
            else estimate(x, t, condition)
        )
        x0 = (x - now.sigma * eps) / now.alpha
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
        share = (last - step) / last
        x0 = (1 - share) * x0 + share * z
        x = now.after**0.5 * x0 + (1 - now.after) ** 0.5 * eps
    return x


def _rows(context: Context, name: str, count: int, numbers: Any) -> list[int]:
    """Of a class of ``count`` images, those at which the slots with these numbers begin."""
    order = permutation(count, context.seed, name)
    return [int(order[number % count]) for number in numbers]


def _as_one(images: Tensor, generator: torch.Generator) -> Tensor:
    """All images shifted and flipped alike, so that real and made ones are."""
    count, channels, height, width = images.shape
    return shift_flip(images.reshape(1, count * channels, height, width), generator).reshape(images.shape)
