"""dap: pull each slot towards real images of its class, in the prior's own features.

Su, Zhao, Wang et al., "Diffusion Models as Dataset Distillation Priors" (DAP), ICLR 2026,
https://arxiv.org/abs/2510.17421. A slot with latent x_t and class c is compared with N real latents of c, noised to the
same step (Eq. 6 and 7),

    E(x_t) = (1/N) Σ_n D_k( φ(x_t, t), φ(x_t^(n), t) ),    D_k(a, b) = √( k(a,a) + k(b,b) − 2 k(a,b) ).

With the linear kernel D_k is the Euclidean distance, not its square. Each reference then pulls with a unit vector, so
that E is smallest at the geometric median of the references. Where D_k is zero its gradient is taken as zero.

The paper's Algorithm 1 subtracts γ ∇_{x_t} E from x_{t−1}; the preset "paper" does that, with γ = 1 in our reading: the
scale and the normalisation of the paper's features are not known, and γ means something only together with them. By
default the gradient enters the score instead, ε̂ = ε + scale · √(1 − ᾱ_t) · ∇_{x_t} E, and E is divided by its value at
the slot's first guided step, so that one scale serves other priors, samplers and numbers of steps. No code was
published; what the paper leaves open is an option here.

The default scale, 0.3, had the best accuracy in a grid on held-out images, although it hardly changes the images: no
scale helped there, since this energy draws all slots of a class together (``docs/guidance.md``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dap.features import Tap
from dap.kernels import Kernel
from dap.kernels.base import as_kernel
from dap.kernels.torch_pairs import Blocks, mean_distance
from dap.methods.base import Context, Presets, Unit
from dap.methods.common.feature_guide import FeatureGuide
from dap.methods.common.guides import TERMS, SingleGuide
from dap.methods.common.references import References
from dap.sampling import EnergyTerm, Needs, StepState

__all__ = ["DAP", "KernelDistance", "KernelDistanceTerm"]


@TERMS.register("kernel_distance")
@dataclass(frozen=True)
class KernelDistance(FeatureGuide):
    """The options of a term with the paper's energy.

    Attributes:
        scale, kernel, block, pooling, references, selection, noise, start, stop, at: As in
            :class:`dap.methods.common.feature_guide.FeatureGuide`; the paper's kernel is "linear".
        normalise: If true, E is divided by its value at the slot's first guided step.

    Example:
        >>> KernelDistance(scale=0.3, kernel="rbf").kernel.name
        'rbf'
    """

    name: ClassVar[str] = "kernel_distance"

    normalise: bool = True

    def term(self, context: Context, unit: Unit, artefact: References) -> KernelDistanceTerm:
        """Return the term that compares each slot with the references of its class."""
        return KernelDistanceTerm(
            tap=artefact.tap, references=artefact.features, kernel=as_kernel(self.kernel),
            weights=artefact.weights(context), taps=artefact.tap.blocks, window=self.window(artefact),
            scale=self.scale, at=self.at, normalise=self.normalise,
        )  # fmt: skip


@dataclass(frozen=True)
class DAP(KernelDistance, SingleGuide[References]):
    """The paper's method: pull each slot to real images of its class in the prior's features.

    Options as in :class:`KernelDistance`.

    Example:
        >>> DAP(scale=0.3, kernel="rbf").kernel.name
        'rbf'
    """

    name: ClassVar[str] = "dap"
    paper: ClassVar[str] = "Su et al., ICLR 2026, arXiv 2510.17421"
    year: ClassVar[int | None] = 2026
    presets: ClassVar[Presets] = {
        "paper": {"scale": 1.0, "at": "sample", "normalise": False, "stop": 1.0},
    }
    sampled_by: ClassVar[Mapping[str, str]] = {"paper": "dit-repo"}  # that of the methods with which it is compared


@dataclass(frozen=True, kw_only=True)
class KernelDistanceTerm(EnergyTerm):
    """The energy E of the module's docstring.

    Attributes:
        tap: Where the features are taken.
        references: Features of real images, (N, D), by (step, prior label).
        kernel: The kernel k.
        weights: Weights of the references, (N,), by (step, prior label); equal ones where there is no entry.
    """

    tap: Tap
    references: Mapping[tuple[int, int], Tensor]
    kernel: Kernel
    weights: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)
    needs: Needs = "features"

    def energy(self, state: StepState) -> Tensor:
        """Return E of each slot, with shape (B,)."""
        features = self.tap.pool(state.features[self.tap.block])
        energies = features.new_zeros(len(features))
        for label in state.labels.unique().tolist():
            slots = torch.nonzero(state.labels == label).flatten()
            references = self.references[state.step, label].to(features.device)
            kernel = self.kernel.resolve(references)
            weights = self.weights.get((state.step, label))
            energy = mean_distance(Blocks(features[slots], references), kernel, weights)
            energies = energies.index_put((slots,), energy)
        return energies
