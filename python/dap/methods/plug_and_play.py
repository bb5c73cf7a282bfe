"""plug_and_play: a point estimate of x_0 for each slot, found by gradient descent on the denoiser's own loss.

Graikos, Malkin, Jojic and Samaras, "Diffusion Models as Plug-and-Play Priors", NeurIPS 2022,
https://arxiv.org/abs/2206.09012, code at https://github.com/AlexGraikos/diffusion_priors. The posterior of x under a
diffusion model and a constraint is approximated by one point η. With ε ~ N(0, I) drawn at each step,

    L_t(η) = ‖ε − ε_θ(√ᾱ_t η + √(1 − ᾱ_t) ε, t, class)‖² + D · λ_t · c(η, class),    D the number of values in η,

is lowered by Adam, one step for each t, while t falls from the noisiest level. There is no sampler; a step is one
backward pass through the denoiser. η starts at N(0, I). At step i of n, with r (``refine``) the share of t below which
nothing is optimised and a the ``modulation``,

    t_i = T · [ r + (1 − r) (1 − i/n) (1 + a · cos(20 i/n)) ], kept within 1 … T,      λ_t = λ (1 − i/n).

If r > 0 the run's sampler then takes the last share r of its steps from η, as ``d4m`` does from its prototypes. A point
estimate is as smooth as a mean, and these steps give it the texture of an image. The constraint c is one of

    "none"         no constraint: the class enters through the prior's own condition alone
    "classifier"   −log p(class | decoder(η)) under a classifier of the real images, the image clipped to [−1, 1]
    "not_class"    1 − p(class | decoder(η)) under the same classifier: the probability of "not the class"
    "kernel"       D_k²(η, μ) / E D_k²(z, z'), with μ the mean embedding of latents z of the class's real images:
                   k(η, η) − 2 E k(η, z), over the mean squared distance of two of them, plus a constant

The authors' code: on MNIST (pixels of 32 x 32) 1,000 steps of Adam at 0.01, a = ¼, "not_class" with λ = 0.01; this is
the preset "paper". On faces (256 pixels) 200 steps of Adamax at 1 with t no lower than 0.2 T, between ⅓ and 1 of what
is left, and 200 ancestral steps from there. On the travelling salesman 256 steps of Adam at 1 with β = (0, 0.9), a
falling rate and a = ⅓. In the first two the cosine runs through 20 radians, as here for every n; in the last through 5.

Differences from the released code:

- Its priors have no condition, so only the constraint selects the class. Here the prior knows the class, and ε_θ is
  the estimate after classifier-free guidance, with the gradient through both of its passes.
- η is a latent, unless the prior works in pixels. Its squared error is a mean over values, here it is a sum, and the
  constraint is multiplied by D to match. Adam's steps are the same, and half precision keeps the small gradients.
- On faces its constraint has a step of its own, whose gradient is clipped to a tenth of the loss's; here, as on MNIST,
  there is one step on the sum. The uniform noise of ±50 that it adds to t there is left out: all slots share one t.
- On faces its last steps start at η as it is; here they start at η noised to their level, as image-to-image does.
- Its classifier has a sigmoid for each attribute, and c is the mean of the sigmoids of "not the attribute". Here the
  classifier has a softmax, and 1 − p is the sigmoid of its one-against-rest logit.
- "kernel" and "classifier" are not in the released notebooks.

All constants are those of the released notebooks. Whether the paper's figures were made with them is not known. The
notebook for segmentation was not read.

The defaults, which are also the preset "fashion", were among the best of a few trials on held-out images, but below the
prior's own samples (``docs/guidance.md``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dap.config import check_choice, check_number, check_whole
from dap.errors import DivergedError
from dap.features import latents_bytes
from dap.kernels.base import KernelLike, as_kernel
from dap.methods.base import Context, Couples, Method, Presets, Record, Unit
from dap.methods.common.cached_networks import prepare_classifier
from dap.methods.common.constraints import ClassifierConstraint, Constraint, KernelConstraint
from dap.methods.common.network_memory import network_bytes, training_bytes
from dap.methods.common.surrogate import SurrogateTraining
from dap.priors import Demand
from dap.priors.noise_levels import denoiser_level
from dap.sampling import sample, scheduler_of

__all__ = ["PlugAndPlay", "annealed_timesteps"]

CLASSIFIED = ("classifier", "not_class")
CONSTRAINTS = ("none", "kernel", *CLASSIFIED)
TURN = 20.0  # the radians that the cosine runs through in all steps


def annealed_timesteps(steps: int, levels: int, *, modulation: float = 0.25, lowest: float = 0.0) -> list[int]:
    """Return the timestep of each step, from 0 as in diffusers; it falls, with waves, from the noisiest level.

    Args:
        steps: n, at least 1.
        levels: T, the number of noise levels that the prior was trained on.
        modulation: a, from 0 to 1.
        lowest: r, from 0 to below 1.

    Example:
        >>> annealed_timesteps(5, 1000)
        [999, 668, 577, 483, 151]
    """
    times = []
    for step in range(steps):
        wave = 1 + modulation * math.cos(TURN * step / steps)
        level = lowest + (1 - lowest) * (1 - step / steps) * wave
        times.append(min(max(int(levels * level), 1), levels) - 1)
    return times


@dataclass(frozen=True)
class PlugAndPlay(Method[Constraint | None]):
    """Point estimates under the prior, by gradient descent on its denoising loss.

    Attributes:
        steps: n, the number of Adam's steps. Each costs a forward and a backward pass of the denoiser, or two of each
            with classifier-free guidance.
        learning_rate: Adam's learning rate, above 0; η has to get from N(0, I) to an image in ``steps`` moves of about
            this size.
        modulation: a, from 0 (t falls in a straight line) to 1.
        refine: r, from 0 to below 1, the share of noise levels, and of the run's steps, that is left to the sampler.
            With 0 the sampler takes no step and η is the image; for all steps use method "dit".
        constraint: "none", "kernel", "classifier" or "not_class".
        weight: λ of the constraint, at least 0.
        kernel: The kernel of "kernel": a name, a dict such as {"name": "rbf", "bandwidth": 3.0}, or a kernel object.
        references: The number of real images of each class for "kernel", drawn by the seed; a class with fewer images
            gives all it has.
        network, width, epochs: The classifier of "classifier" and "not_class", which is trained on all real images; see
            :class:`dap.methods.common.surrogate.SurrogateTraining`.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="plug_and_play", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "plug_and_play"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Graikos et al., NeurIPS 2022, arXiv 2206.09012"
    year: ClassVar[int | None] = 2022
    couples: ClassVar[Couples] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Presets] = {
        "paper": {
            "steps": 1000, "learning_rate": 0.01, "modulation": 0.25, "refine": 0.0, "constraint": "not_class",
            "weight": 0.01,
        },
        "fashion": {
            "steps": 50, "learning_rate": 0.3, "modulation": 0.25, "refine": 0.7, "constraint": "kernel",
            "weight": 0.3, "references": 256,
        },
    }  # fmt: skip

    steps: int = 50
    learning_rate: float = 0.3
    modulation: float = 0.25
    refine: float = 0.7
    constraint: str = "kernel"
    weight: float = 0.3
    kernel: KernelLike = "rbf"
    references: int = 256
    network: str = "convnet3"
    width: int = 32
    epochs: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", as_kernel(self.kernel))
        check_choice("constraint", self.constraint, CONSTRAINTS)
        for option in ("steps", "references"):
            check_whole(option, getattr(self, option))
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("modulation", self.modulation, 0, 1)
        check_number("refine", self.refine, 0, below=1)
        check_number("weight", self.weight, 0)
        SurrogateTraining(self.network, self.width, self.epochs)  # raises for values that it does not have

    def shared(self) -> str | None:
        """Return the classifier, if that is the constraint."""
        return "a classifier of all classes" if self.constraint in CLASSIFIED and self.weight else None

    def ignored(self) -> tuple[str, ...]:
        """Return that the sampler is not used where all steps are Adam's."""
        return () if self.refine else ("num_inference_steps", "scheduler", "eta")

    def steps_per_slot(self, context: Context) -> int:
        """Return the number of Adam's steps plus the sampler's steps that follow."""
        return self.steps + (context.num_steps(self.refine) if self.refine else 0)

    def prepare(self, context: Context) -> Constraint | None:
        """Train the classifier or encode the real images, or find either in the cache."""
        if self.constraint == "none" or self.weight == 0:
            return None
        if self.constraint in CLASSIFIED:
            classifier = prepare_classifier(context, self.network, self.width, self.epochs)
            return ClassifierConstraint(classifier, self.epochs, probability=self.constraint == "not_class")
        return KernelConstraint.prepare(context, as_kernel(self.kernel), self.references)

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return that a graph leads through the denoiser, and with a classifier through the decoder."""
        if self.constraint not in CLASSIFIED:
            return (Demand(denoiser=True),)
        return (Demand(denoiser=True, decoder=True, own=network_bytes(context, self.network, self.width)),)

    def preparation_bytes(self, context: Context) -> int:
        """Return the memory of training the classifier, or else of encoding real images."""
        if self.constraint in CLASSIFIED:
            return training_bytes(context, self.network, self.width)
        return super().preparation_bytes(context)

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, if the constraint needs them."""
        return latents_bytes(context.source, context.prior, index=context.index) if self.constraint == "kernel" else 0

    @torch.no_grad()
    def make(self, context: Context, unit: Unit, artefact: Constraint | None) -> Tensor:
        """Return η of the unit's slots, after the sampler's last steps if ``refine`` is above 0."""
        prior, settings, callback = context.prior, context.settings, context.callback_on_step_end
        labels, generators = context.labels(unit).to(prior.device), context.generators(unit)
        constraint = artefact.of(context, unit) if artefact else None
        scheduler = scheduler_of(prior, settings)
        times = annealed_timesteps(
            self.steps, scheduler.config.num_train_timesteps, modulation=self.modulation, lowest=self.refine
        )
        # The scheduler's add_noise is not used: some schedulers only know the timesteps of their own schedule.
        alphas, sigmas = denoiser_level(scheduler, torch.tensor(times))

        def noise() -> Tensor:
            latents = [torch.randn(prior.latent_shape, generator=generator) for generator in generators]
            return torch.stack(latents).to(prior.device)

        eta = noise().requires_grad_()
        adam = torch.optim.Adam([eta], lr=self.learning_rate)
        for step, t in enumerate(times):
            eps = noise()
            with torch.enable_grad():
                x = alphas[step] * eta + sigmas[step] * eps
                prediction = prior.denoise(
                    x, torch.tensor(t), labels, guidance_scale=settings.guidance_scale, through=True
                )
                loss = (eps - prediction.eps).square().sum((1, 2, 3))
                if constraint is not None:
                    loss = loss + eta[0].numel() * self.weight * (1 - step / self.steps) * constraint(eta)
                (eta.grad,) = torch.autograd.grad(loss.sum(), eta)
            adam.step()
            if callback is not None:
                eta.copy_(callback(prior, step, t, {"latents": eta.detach().clone()}).get("latents", eta))
        if not torch.isfinite(eta).all():
            raise DivergedError("the estimates left the finite numbers: lower learning_rate, or the weight")
        if not self.refine:
            return eta.detach()
        return sample(
            prior, labels, generators, settings=settings, init=eta.detach(), strength=self.refine,
            callback_on_step_end=callback,
        )  # fmt: skip

    def record(self, context: Context, artefact: Constraint | None) -> Record:
        """Return the classifier's epochs, or the source ids of the references by class."""
        return artefact.record() if artefact else {}
