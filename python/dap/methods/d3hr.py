"""d3hr: the group of noised latents whose mean and deviation are nearest to those of the class, denoised.

Zhao et al., "Taming Diffusion for Dataset Distillation with High Representativeness", ICML 2025,
https://arxiv.org/abs/2505.18399, code at https://github.com/lin-zhao-resoLve/D3HR. The run's n steps are counted from
the least noise, t_0 < t_1 < …. The latents x of the real images of a class are taken to noise level t_k by DDIM's
equation,

    x ← α_i (x − σ_{i−1} ε) / α_{i−1} + σ_i ε,    ε = ε_θ(x, t_i) after classifier-free guidance,    i = 1 … k,

and the class is the Gaussian N(µ, diag(s²)) of what comes. From this Gaussian ``groups`` groups are drawn, each with as
many points as images are wanted. The group with the smallest value of

    ‖m − µ‖ + ‖d − s‖ + 0.1 ‖b‖,    b_j = D / ((D − 1)(D − 2)) Σ ((y_j − m) / d)³

is kept, where m and d are the mean and the deviation of the group in each of the D dimensions, and b_j is the skewness
of point y_j over its dimensions. The kept points are denoised by DDIM from step t_{k+1}.

Published constants: n = 50, guidance of 4 on all channels, k = 30, 100,000 groups, all images of the class. They are
the defaults and the preset "paper", but for n and the guidance, which are options of the run.

The points are at level t_k and are denoised from t_{k+1}. The released code counts its steps in this way. Differences
from it: it draws a hundred million groups, where the paper and its own option say 100,000; it inverts samples of the
VAE's posterior, here its mean; its last step ends at the noise level of t = 1, here at none. For one image a class the
score is ‖m − µ‖ alone, since one point has no deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dap import rng
from dap.config import check_number, check_whole
from dap.errors import DivergedError, OptionError
from dap.methods.base import Context, Couples, Method, Presets, Record, Remakes, Unit
from dap.methods.common.class_gaussians import ClassGaussian, class_gaussians, gaussians_bytes
from dap.priors import Demand
from dap.priors.noise_levels import Level, level
from dap.sampling import denoise_in_parts
from dap.sampling.schedule import ddim_of

__all__ = ["D3HR", "group_scores"]

NUMBERS = 2**23  # drawn together: 32 MiB


@dataclass(frozen=True)
class D3HR(Method[dict[str, ClassGaussian]]):
    """Representative groups of inverted latents.

    Attributes:
        noise_level: k / n, the share of the schedule to which real latents are taken back, above 0 and below 1.
        groups: Groups that are drawn for each class, at least 1.
        references: Real images of each class that are inverted, at least 2; None: all.
        skewness: The weight of ‖b‖, at least 0.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="d3hr:fashion", out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "d3hr"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Zhao et al., ICML 2025, arXiv 2505.18399"
    year: ClassVar[int | None] = 2025
    couples: ClassVar[Couples] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Presets] = {
        "paper": {"noise_level": 0.6, "groups": 100_000},
        "fashion": {"noise_level": 0.6, "groups": 10_000, "references": 100},
    }

    noise_level: float = 0.6
    groups: int = 100_000
    references: int | None = None
    skewness: float = 0.1

    def __post_init__(self) -> None:
        check_number("noise_level", self.noise_level, above=0, most=1)
        check_whole("groups", self.groups)
        if self.references is not None:
            check_whole("references", self.references, 2)
        check_number("skewness", self.skewness, 0)

    def inverted_steps(self, context: Context) -> int:
        """Return k.

        Raises:
            OptionError: The run has too few steps.
        """
        steps = context.settings.num_inference_steps
        inverted = max(1, round(self.noise_level * steps))
        if inverted > steps - 2:
            raise OptionError(
                f"noise_level: {self.noise_level:g} of {steps} steps leaves no step above it; lower it, or raise "
                "num_inference_steps"
            )
        return inverted

    def prepare(self, context: Context) -> dict[str, ClassGaussian]:
        """Invert the latents of the real images and return the Gaussian of each class, or find them in the cache.

        Raises:
            OptionError: The run has too few steps, or a class has fewer than two images.
        """
        return class_gaussians(context, self.inverted_steps(context), self.references)

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return that noise estimates are all that is needed."""
        return (Demand(),)

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, and of the Gaussians."""
        return gaussians_bytes(context)

    def steps_per_slot(self, context: Context) -> int:
        """Return the steps from the noise level on."""
        return self.inverted_steps(context) + 2

    def ignored(self) -> tuple[str, ...]:
        """Return that all steps are DDIM's, whatever the sampler of the run is."""
        return ("scheduler", "eta")

    def remakes(self) -> Remakes:
        """Return that a class is made as a whole: its points are a group."""
        return "class"

    @torch.no_grad()
    def make(self, context: Context, unit: Unit, artefact: dict[str, ClassGaussian]) -> Tensor:
        """Return latents of the unit's slots."""
        prior, steps = context.prior, context.settings.num_inference_steps
        x = torch.empty(len(unit.slots), *prior.latent_shape)
        for index, places in context.classes_of(unit):
            name, again = context.classes[index].name, unit.slots[int(places[0])].again
            seed = (context.seed, self.name, name, again) if again else (context.seed, self.name, name)
            group = self._best_group(artefact[name], context.ipc_of(index), seed)
            numbers = [unit.slots[place].number for place in places.tolist()]
            x[places] = group[numbers].view(-1, *prior.latent_shape)
        x, labels = x.to(prior.device), context.labels(unit).to(prior.device)
        scheduler = ddim_of(prior, context.settings)
        for step in range(steps - 2 - self.inverted_steps(context), steps):
            t, now = scheduler.timesteps[step], level(scheduler, step)
            prediction = denoise_in_parts(
                prior, x, t, labels, pass_size=context.pass_size, guidance_scale=context.settings.guidance_scale
            )
            eps, x0 = prediction.eps, prediction.x0
            if x0 is None:
                x0 = (x - now.sigma * eps) / now.alpha
            after = level(scheduler, step + 1) if step + 1 < steps else Level(1.0, 0.0, 1.0, 1.0)
            x = after.alpha * x0 + after.sigma * eps
            if context.callback_on_step_end is not None:
                x = context.callback_on_step_end(prior, step, int(t), {"latents": x}).get("latents", x)
        if not torch.isfinite(x).all():
            raise DivergedError("sampling left the finite numbers: lower the guidance scale or noise_level")
        return x

    def record(self, context: Context, artefact: dict[str, ClassGaussian]) -> Record:
        """Return k."""
        return {"inverted_steps": self.inverted_steps(context)}

    def _best_group(self, gaussian: ClassGaussian, count: int, seed: tuple[int | str, ...]) -> Tensor:
        """Return the group with the least score of all that are drawn, float32 (count, D)."""
        size = len(gaussian.mean)
        together = max(1, NUMBERS // (count * size))
        best, least = torch.empty(count, size), math.inf
        for number, start in enumerate(range(0, self.groups, together)):
            draws = min(together, self.groups - start)
            noise = torch.randn((draws, count, size), generator=rng.generator(*seed, number))
            groups = gaussian.mean + gaussian.deviation * noise
            scores = group_scores(groups, gaussian, self.skewness)
            place = int(scores.argmin())
            if float(scores[place]) < least:
                best, least = groups[place].clone(), float(scores[place])
        return best


def group_scores(groups: Tensor, gaussian: ClassGaussian, skewness: float) -> Tensor:
    """Return how far the moments of groups are from those of a Gaussian, (G,).

    Args:
        groups: (G, n, D).
        gaussian: The Gaussian.
        skewness: The weight of the skewness.

    Example:
        >>> gaussian = ClassGaussian(torch.zeros(4), torch.ones(4))
        >>> group_scores(torch.ones(2, 1, 4), gaussian, 0.1)
        tensor([2., 2.])
    """
    mean = groups.mean(1)
    scores: Tensor = torch.linalg.vector_norm(mean - gaussian.mean, dim=1)
    if groups.shape[1] == 1:
        return scores
    deviation = groups.std(1)
    scores = scores + torch.linalg.vector_norm(deviation - gaussian.deviation, dim=1)
    size = groups.shape[2]
    cubes = ((groups - mean[:, None]) / deviation[:, None]) ** 3
    skew = cubes.sum(2) * (size / ((size - 1) * (size - 2)))
    scores = scores + skewness * torch.linalg.vector_norm(skew, dim=1)
    return scores
