"""d4m: from the centres of a class's clusters in latent space, part of the way back to noise, and down again.

Su et al., "D^4M: Dataset Distillation via Disentangled Diffusion Model", CVPR 2024, https://arxiv.org/abs/2407.15138.
The prototypes z of a class are the centres of k-means of the latents of all its real images, as many as images are
wanted. With n steps and a strength s, slot i starts at the step t whose number is n − ⌊s n⌋, from

    x_t = α_t z_i + σ_t ε

and is denoised as any sample is: diffusers' image-to-image with z_i for the image. The released scripts have s = 0.7,
n = 50 (35 steps are taken), a classifier-free scale of 8, the class's name alone for a prompt, and the negative prompt
"cartoon, anime, painting": the first is the default here, the others are options of the run and of the prior
(``StableDiffusionPrior(..., template="{}", negative_prompt="cartoon, anime, painting")``).

What differs from the released code:

- It streams minibatches through scikit-learn's ``MiniBatchKMeans`` and drops what does not fill one, up to ten images
  for each that is wanted; here k-means sees all latents of a class, which are kept on disk and read class by class.
- It clusters samples of the VAE's posterior, of images that are stretched to a square; here means, of centre crops.
- It has no seeds; here the start of k-means and each slot's noise follow the run's.
- Its prototypes come in any order; here the largest cluster is the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from dap.errors import OptionError
from dap.methods.base import Context, Unit
from dap.methods.mgd3 import Modes, find_modes, largest_first
from dap.sampling import SamplingSettings, sample

__all__ = ["D4M"]


@dataclass(frozen=True)
class D4M:
    """Image-to-image from the prototypes of each class.

    Attributes:
        strength: Share of the steps that are taken, above 0: 1 begins at pure noise, nearly, and small values give the
            decoded prototypes.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="d4m", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "d4m"
    paper: ClassVar[str] = "Su et al., CVPR 2024, arXiv 2407.15138"
    year: ClassVar[int | None] = 2024
    couples: ClassVar[Literal["slot", "class"]] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels")
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"strength": 0.7}}

    strength: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise OptionError(f"strength: expected a share of the steps above 0 and up to 1, got {self.strength}")

    def steps_per_slot(self, settings: SamplingSettings) -> int:
        """The steps that are taken from the noised prototype."""
        return max(1, int(settings.num_inference_steps * self.strength))

    def prepare(self, context: Context) -> Modes:
        """The prototypes of each class; the largest cluster is the first."""
        return find_modes(context, largest_first)

    def make(self, context: Context, unit: Unit, artefact: Modes) -> Tensor:
        """Latents of the unit's slots."""
        return sample(
            context.require_prior(), context.labels(unit), context.generators(unit), settings=context.settings,
            init=artefact.of(context, unit), strength=self.strength,
            callback_on_step_end=context.callback_on_step_end,
        )  # fmt: skip

    def record(self, context: Context, artefact: Modes) -> dict[str, Any]:
        """Sizes of the clusters and the source id nearest to each prototype, by class."""
        return artefact.record()
