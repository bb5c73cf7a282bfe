"""dap_networks: guide the slots of a class, as a set, to the mean features of its real images in networks.

``dap_set`` compares the slots of a class with its real images by a distance of latents. Here the kernel is

    k(x, y) = E_θ ⟨ψ_θ(x), ψ_θ(y)⟩,

with ψ_θ all but the last layer of a network with random weights θ: the feature map of distribution matching (Zhao and
Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, https://arxiv.org/abs/2110.04181). Its MMD² between
slots x_1 … x_m of a class c and real images r_1 … r_N is E_θ ‖mean ψ_θ(x) − mean ψ_θ(r)‖². A step draws θ, decodes
x̂_0, and shifts and mirrors both sets alike. With g the gradient of this mismatch with respect to the images of the
slots, it changes x̂_0 of all slots of the class together, D numbers, by

    −scale · σ_t · √D · h / ‖h‖,    h = (∂ images / ∂ x̂_0)ᵀ (g / ‖g‖ + w v / ‖v‖),

σ_t the ancestral sampler's noise, without a gradient through the denoiser. θ may also be a state of a training on the
real images, and then v is the gradient of Σ_i ℓ(f(x_i), c), the cross-entropy of a trained network f. Both are of
"Improved Distribution Matching" (Zhao, Li, Qin and Yu, CVPR 2023, https://arxiv.org/abs/2307.09742), which optimises
pixels. The networks of a run are the same for all its classes.

This method is dap's own. Near to it are the guidances of a set by optimal transport to clusters (DMGD, and OT-DD for
IGD's), and by the mean of a class with a repulsion (RSM + CGS); DDOQ (arXiv 2501.07681) weights images by the shares of
their clusters instead. Its defaults were chosen on held-out images (``docs/guidance.md``).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from dap.config import check_number
from dap.methods.base import Context, Couples, Presets, Record, Unit
from dap.methods.common.guides import SingleGuide
from dap.methods.common.modes import Clusters, find_modes, largest_first, modes_bytes
from dap.methods.common.network_guide import NetworkKernel, Prepared
from dap.methods.common.network_kernel import guided_steps
from dap.sampling import Window
from dap.selection.k_means import nearest_rows

__all__ = ["DAPNetworks"]

logger = logging.getLogger(__name__)

TRAINED = {"epochs": 5, "verdict": 1.0}
TRAINED_IPC50 = TRAINED | {
    "verdict": 0.3, "scale": 2.0, "references": 1000, "batch": 500, "kernel": "distance", "every": 1, "strength": 0.4,
}  # fmt: skip


@dataclass(frozen=True)
class DAPNetworks(NetworkKernel, SingleGuide[Prepared]):
    """Guide the slots of a class, as a set, to the mean features of its real images in networks.

    Options as in :class:`NetworkKernel`, and one for where the slots start. The preset "trained" has networks that are
    trained on the real images, and their verdict; it costs a training, which the cache keeps. "trained_ipc50" is for
    about 50 images a class: its images stay nearer to those at which they start, and each step compares them with more
    real ones, by the energy distance. The preset "mixed" has random networks of four kinds, which take turns; they are
    for images of 28 to 64 pixels.

    Attributes:
        strength: Share of the steps that are taken, above 0 and at most 1. Below 1 each slot starts at a real image of
            its class, a medoid of k-means of the latents with noise, as image-to-image sampling does.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="dap_networks:trained", ipc=10, out="o")  # doctest: +SKIP
    """

    name: ClassVar[str] = "dap_networks"
    paper: ClassVar[str] = "dap's own"
    year: ClassVar[int | None] = None
    couples: ClassVar[Couples] = "class"
    presets: ClassVar[Presets] = {
        "trained": TRAINED,
        "trained_ipc50": TRAINED_IPC50,
        "mixed": {"networks": ("convnet3", "small_resnet_ap10", "small_vit", "small_mlp")},
    }

    strength: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("strength", self.strength, above=0, most=1)

    def check(self, context: Context) -> None:
        """Check as :class:`NetworkKernel` does, and warn if guidance acts in none of the steps that are taken."""
        super().check(context)
        steps = context.num_steps()
        first = steps - context.num_steps(self.strength)
        guided = guided_steps(Window(self.start, self.stop), self.every, steps)
        if self.scale and not any(step >= first for step in guided):
            logger.warning(
                "%s does not guide: start=%g, stop=%g and every=%d name none of the steps %d to %d of %d, which are "
                "taken with strength=%g; give a later stop, a smaller every or strength=1",
                self.name, self.start, self.stop, self.every, first + 1, steps, steps, self.strength,
            )  # fmt: skip

    def steps_per_slot(self, context: Context) -> int:
        """Return the steps that are taken."""
        return context.num_steps(self.strength)

    def prepare(self, context: Context) -> Prepared:
        """Find the medoids at which the slots start, and prepare the term; a training comes after all other errors."""
        self.check(context)
        starts = find_modes(context, medoids, "k-medoids, all different") if self.strength < 1 else None
        return replace(self.compared(context), starts=starts)

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images and of the medoids, if used, and of trained networks."""
        return super().disk(context) if self.strength == 1 else modes_bytes(context) + self.states_bytes(context)

    def make(self, context: Context, unit: Unit, artefact: Prepared) -> Tensor:
        """Return guided latents of the unit's slots."""
        terms = [self.term(context, unit, artefact)]
        if artefact.starts is None:
            return context.sample(unit, terms)
        return context.sample(unit, terms, init=artefact.starts.of(context, unit), strength=self.strength)

    def record(self, context: Context, artefact: Prepared) -> Record:
        """Return the source ids of the medoids, by class and in slot order."""
        return {} if artefact.starts is None else {"started": artefact.starts.nearest}


def medoids(rows: npt.NDArray[np.float32], count: int, seed: int) -> Clusters:
    """Cluster latents (N, D) by k-means and take a row near each centre, all different; the largest cluster first."""
    clusters = largest_first(rows, count, seed)
    return Clusters(rows[nearest_rows(rows, clusters.centers)].astype(np.float64), clusters.labels)
