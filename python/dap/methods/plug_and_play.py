"""plug_and_play: a point estimate of x_0 for each slot, found by gradient descent on the denoiser's own loss.

Graikos, Malkin, Jojic and Samaras, "Diffusion Models as Plug-and-Play Priors", NeurIPS 2022,
https://arxiv.org/abs/2206.09012, code at https://github.com/AlexGraikos/diffusion_priors. The posterior of x under a
diffusion model and a constraint is approximated by one point η, for which, with ε ~ N(0, I) drawn at each step,

    L_t(η) = ‖ε − ε_θ(√ᾱ_t η + √(1 − ᾱ_t) ε, t, class)‖² + D · λ_t · c(η, class),    D the number of values in η,

is lowered by Adam, one step for each t, while t falls from the noisiest level. There is no sampler: a step is one
backward pass through the denoiser. η starts at N(0, I). At step i of n, with the share r of t below which nothing is
optimised (``refine``) and a the ``modulation``,

    t_i = T · [ r + (1 − r) (1 − i/n) (1 + a · cos(20 i/n)) ], kept within 1 … T,      λ_t = λ (1 − i/n).

Where r > 0 the run's sampler then takes the last r of its steps from η, as ``d4m`` does from its prototypes: a point
estimate has the texture of a mean, and these steps give it that of an image. The constraint c is one of

    "none"         the class enters by the prior's own condition alone
    "classifier"   −log p(class | decoder(η)) under a classifier of the real images, the image clipped to [−1, 1]
    "kernel"       D_k²(η, μ) / E D_k²(z, z'), with μ the mean embedding of latents z of the class's real images:
                   k(η, η) − 2 E k(η, z), over the mean squared distance of two of them, plus a constant

The authors' code: on MNIST (pixels of 32 x 32) 1,000 steps of Adam at 0.01, a = ¼, "classifier" with λ = 0.01: the
preset "paper". On faces (256 pixels) 200 steps of Adamax at 1, t no lower than 0.2 T, between ⅓ and 1 of what is left,
and 200 ancestral steps from there. On the travelling salesman 256 steps of Adam at 1 with β = (0, 0.9), a falling rate
and a = ⅓. In the first two the cosine runs through 20 radians, as here for every n; in the last through 5.

What differs from the released code:

- Its priors have no condition, so that the constraint says what is wanted; here the prior knows the class, and ε_θ is
  the estimate after classifier-free guidance, with the gradient through both of its passes.
- η is a latent, unless the prior's are pixels. There the squared error is a mean over values, here a sum, and the
  constraint grows with it: Adam sees no difference, and half precision keeps the small gradients.
- On faces the constraint has a step of its own, whose gradient is clipped to a tenth of the loss's; here, as on MNIST,
  there is one step on the sum. The uniform noise of ±50 that t has there is left out: all slots share one t.
- On faces the last steps start at η as it is; here at η noised to their level, as image-to-image does.
- "kernel" is not in the paper.

All constants are those of the released notebooks; whether the paper's figures were made with them is not known. The
one for segmentation was not read.

The defaults come from held-out images with the built-in prior (``examples/compare_methods.py plug_and_play``, seeds
1000 and 1001, 10 images a class, n = 2): accuracy minus that of ``dit``, whose own two are 1.3 points apart. Without a
constraint, 100 steps at 0.1 and no sampler −14.2; 50 steps at 0.1 / 0.3 with r = 0.5 −13.4 / −10.5, with r = 0.7 −7.7 /
−8.6. At 0.3 and r = 0.7, "classifier" −3.5 / −9.3 at λ = 0.03 / 0.3, and "kernel" −5.8 / −3.3 / −3.1 at λ = 0.03 / 0.3
/ 1. None reached the prior's own samples: a slot goes to where its class is densest, so that the images of a class are
alike (diversity 2.4, of ``dit`` 3.3), and without a constraint, by eye, dark. The published 1,000 steps were not run.
Making 100 images took 2.6 times as long as with ``dit`` at its 50 steps (n = 2, CPU, one thread).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dap.errors import DivergedError, OptionError
from dap.kernels.base import as_kernel
from dap.methods.base import Context, Unit
from dap.methods.common.constraints import ClassifierConstraint, Constraint, KernelConstraint, last_epoch
from dap.priors.schedulers import denoiser_level
from dap.registry import unknown_name_error
from dap.sampling import SamplingSettings, sample

__all__ = ["PlugAndPlay", "annealed_timesteps"]

CONSTRAINTS = ("none", "kernel", "classifier")
TURN = 20.0  # radians of the cosine over all steps


def annealed_timesteps(steps: int, levels: int, *, modulation: float = 0.25, lowest: float = 0.0) -> list[int]:
    """The t of each step, counted from 0 as diffusers does: from the noisiest down, up and down again on the way.

    Args:
        steps: n.
        levels: T, the number of noise levels that the prior was trained on.
        modulation: a.
        lowest: r.

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
class PlugAndPlay:
    """Point estimates under the prior, by gradient descent on its denoising loss.

    Attributes:
        steps: n, of Adam; each costs a forward and a backward pass of the denoiser, two with classifier-free guidance.
        learning_rate: Adam's; η has to come from N(0, I) to an image in ``steps`` moves of about this size.
        modulation: a, from 0 (t falls in a straight line) to 1.
        refine: r, the share of noise levels, and of the run's steps, that is left to the sampler; 0: none, η is the
            image.
        constraint: "none", "kernel" or "classifier".
        weight: λ of the constraint.
        kernel: Of "kernel": a name, a dict such as {"name": "rbf", "bandwidth": 3.0}, or a kernel object.
        references: Of "kernel": real images of each class, drawn by the seed; a class with fewer gives all it has.
        network, width, epochs: Of "classifier", which is trained on all real images; see
            :class:`dap.methods.common.surrogate.SurrogateTraining`.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="plug_and_play", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "plug_and_play"
    paper: ClassVar[str] = "Graikos et al., NeurIPS 2022, arXiv 2206.09012"
    year: ClassVar[int | None] = 2022
    couples: ClassVar[Literal["slot", "class"]] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "steps": 1000, "learning_rate": 0.01, "modulation": 0.25, "refine": 0.0, "constraint": "classifier",
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
    kernel: Any = "rbf"
    references: int = 256
    network: str = "convnet3"
    width: int = 32
    epochs: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", as_kernel(self.kernel))
        if self.constraint not in CONSTRAINTS:
            raise unknown_name_error("constraint", self.constraint, CONSTRAINTS)
        for option in ("steps", "references"):
            if type(value := getattr(self, option)) is not int or value < 1:
                raise OptionError(f"{option}: expected a whole number of at least 1, got {value!r}")
        if not 0 < self.learning_rate < math.inf:
            raise OptionError(f"learning_rate: expected a positive number, got {self.learning_rate}")
        if not 0 <= self.modulation <= 1:
            raise OptionError(f"modulation: expected 0 (none) to 1, got {self.modulation}")
        if not 0 <= self.refine < 1:
            raise OptionError(
                f"refine: expected a share of the steps from 0 to below 1, got {self.refine}; for all take method 'dit'"
            )
        if not 0 <= self.weight < math.inf:
            raise OptionError(f"weight: expected 0 or more, got {self.weight}")
        last_epoch(self.network, self.width, self.epochs)

    def steps_per_slot(self, settings: SamplingSettings) -> int:
        """Adam's steps, and the sampler's that follow."""
        return self.steps + (max(1, int(settings.num_inference_steps * self.refine)) if self.refine else 0)

    def prepare(self, context: Context) -> Constraint | None:
        """Trains the classifier, or encodes the real images, or finds either in the cache."""
        if self.constraint == "none" or self.weight == 0:
            return None
        if self.constraint == "classifier":
            return ClassifierConstraint.prepare(context, self.network, self.width, self.epochs)
        return KernelConstraint.prepare(context, self.kernel, self.references)

    @torch.no_grad()
    def make(self, context: Context, unit: Unit, artefact: Constraint | None) -> Tensor:
        """The η of the unit's slots, or what the sampler makes of them."""
        prior, settings, callback = context.require_prior(), context.settings, context.callback_on_step_end
        labels, generators = context.labels(unit).to(prior.device), context.generators(unit)
        constraint = artefact.of(context, unit) if artefact else None
        scheduler = prior.scheduler(settings.scheduler, settings.num_inference_steps)
        times = annealed_timesteps(
            self.steps, scheduler.config.num_train_timesteps, modulation=self.modulation, lowest=self.refine
        )
        # not the scheduler's add_noise: some look t up among their own steps; this is what the denoiser sees, for all
        alphas, sigmas = denoiser_level(scheduler, torch.tensor(times))

        def noise() -> Tensor:
            drawn = [torch.randn(prior.latent_shape, generator=each) for each in generators]
            return torch.stack(drawn).to(prior.device)

        eta = noise().requires_grad_()
        adam = torch.optim.Adam([eta], lr=self.learning_rate)
        for step, t in enumerate(times):
            eps = noise()
            with torch.enable_grad():
                x = alphas[step] * eta + sigmas[step] * eps
                found = prior.denoise(x, torch.tensor(t), labels, guidance_scale=settings.guidance_scale, through=True)
                loss = (eps - found.eps).square().sum((1, 2, 3))
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

    def record(self, context: Context, artefact: Constraint | None) -> dict[str, Any]:
        """The classifier's epochs, or the source ids of the references by class."""
        return artefact.record() if artefact else {}
