"""d4m: start from the cluster centres of a class in latent space, add noise, and denoise.

Su et al., "D^4M: Dataset Distillation via Disentangled Diffusion Model", CVPR 2024, https://arxiv.org/abs/2407.15138.
The prototypes z of a class are the centres of k-means of the latents of all its real images, with as many clusters as
images are wanted. With n steps and a strength s, slot i skips the first n − ⌊s n⌋ steps and starts at the next, from

    x_t = α_t z_i + σ_t ε.

From there it is denoised like any sample. This is diffusers' image-to-image with z_i as the image. The released scripts
have s = 0.7, n = 50 (so 35 steps are taken), a classifier-free scale of 8, the class's name as the whole prompt, and
the negative prompt "cartoon, anime, painting". The strength is the default here; the others are options of the run and
of the prior (``StableDiffusionPrior(..., template="{}", negative_prompt="cartoon, anime, painting")``).

Differences from the released code:

- It streams minibatches through scikit-learn's ``MiniBatchKMeans`` and drops the last, incomplete one, which is up to
  ten images for each image that is wanted; here k-means sees all latents of a class, which are kept on disk and read
  class by class.
- It clusters samples of the VAE's posterior of images that are stretched to a square; here it clusters the posterior's
  means of centre crops.
- It has no seeds; here the start of k-means and the noise of each slot follow the run's seed.
- The order of its prototypes is arbitrary; here the largest cluster comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dap.config import check_number
from dap.methods.base import Context, Couples, Method, Presets, Record, Unit
from dap.methods.common.modes import Modes, find_modes, largest_first, modes_bytes
from dap.priors import Demand

__all__ = ["D4M"]


@dataclass(frozen=True)
class D4M(Method[Modes]):
    """Image-to-image from the prototypes of each class.

    Attributes:
        strength: Share of the steps that are taken, above 0 and at most 1. With 1 a slot starts at nearly pure noise;
            with a small value the images are close to the decoded prototypes.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="d4m", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "d4m"
    paper: ClassVar[str] = "Su et al., CVPR 2024, arXiv 2407.15138"
    year: ClassVar[int | None] = 2024
    couples: ClassVar[Couples] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Presets] = {"paper": {"strength": 0.7}}

    strength: float = 0.7

    def __post_init__(self) -> None:
        check_number("strength", self.strength, above=0, most=1)

    def steps_per_slot(self, context: Context) -> int:
        """Return the steps that are taken from the noised prototype."""
        return context.num_steps(self.strength)

    def prepare(self, context: Context) -> Modes:
        """Return the prototypes of each class; the largest cluster comes first."""
        return find_modes(context, largest_first, "k-means, largest first")

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return that noise estimates are all that is needed."""
        return (Demand(),)

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, and of the modes."""
        return modes_bytes(context)

    def make(self, context: Context, unit: Unit, artefact: Modes) -> Tensor:
        """Return latents of the unit's slots."""
        return context.sample(unit, init=artefact.of(context, unit), strength=self.strength)

    def record(self, context: Context, artefact: Modes) -> Record:
        """Return the sizes of the clusters and the source id nearest to each prototype, by class."""
        return artefact.record()
