"""dap_set: pull the slots of a class, as a set, towards the distribution of its real images, and push them apart.

The paper's energy (``dap``) looks at one slot at a time, so its minimum is the same for all slots of a class. Here the
energy is the kernel distance between two distributions. Take slots x_1 … x_m of a class, references r_n with weights
w_n that sum to 1, and the kernel's distance D(a, b)² = k(a,a) + k(b,b) − 2 k(a,b). The energy of slot i is

    e_i = ½ Σ_n w_n D(x_i, r_n)²  −  ¼ Σ_{j≠i} D(x_i, x_j)² / (m − 1),

    Σ_i e_i = (m / 2) · MMD²(x, r) + a constant of the references     (unbiased in x; Gretton et al., JMLR 2012, Eq. 3).

The first part attracts the slot, the second keeps the slots apart. The kernel "distance" has D² = 2 ‖a − b‖, which
gives the energy distance (Székely and Rizzo 2013): each reference pulls a slot and each other slot pushes it, with unit
vectors. A single slot (m = 1) is only attracted.

e is divided by its size, ½ E D(r, r')² over pairs of references of the class at the first guided step, so that one
``scale`` serves other priors, kernels, samplers and numbers of steps. In the features it enters the score as the
paper's energy does. In the latent it moves x̂_0 as mode guidance does, by

    −scale · σ_t · ½ E ‖z − z'‖² · ∇_{x̂_0} e,    σ_t the ancestral sampler's noise, z the references' latents,

without a gradient through the denoiser. For the linear kernel and one reference this is scale · σ_t · (z − x̂_0).

This method is dap's own. Its default scale had the best accuracy in a grid on held-out images; other kernels and
numbers of references were not better by more than the noise between seeds (``docs/guidance.md``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dap.config import check_choice, check_whole
from dap.errors import OptionError
from dap.features import Tap
from dap.kernels.base import KernelLike, as_kernel
from dap.kernels.linear import LINEAR
from dap.methods.base import Context, Couples, Presets, Remakes, Slot, Unit
from dap.methods.common.feature_guide import FeatureGuide
from dap.methods.common.guides import TERMS, SingleGuide
from dap.methods.common.references import References
from dap.methods.common.set_energy import ClassSet, LatentSetEnergyTerm, SetEnergyTerm, Sets, set_size
from dap.priors import Demand
from dap.rng import derive_seed
from dap.sampling import Window, check_settings
from dap.selection import k_means, medoids_towards

__all__ = ["DAPSet", "SetEnergy"]


@TERMS.register("set_energy")
@dataclass(frozen=True)
class SetEnergy(FeatureGuide):
    """The options of a term with the set energy.

    Attributes:
        scale, block, pooling, references, selection, noise, start, stop, at: As in
            :class:`dap.methods.common.feature_guide.FeatureGuide`; ``at`` only matters in the features.
        kernel: Name, dict or object of a kernel; "distance" gives the energy distance. A bandwidth rule is applied to
            the references.
        space: "latent", which acts on x̂_0, or "features" of the prior, which needs a scale of about 100. For both, add
            two terms.
        paired: If true, each slot is only attracted by one cluster of the references. The clusters come from k-means of
            the references' latents, one for each slot; slot 0 gets the largest.

    Example:
        >>> SetEnergy(kernel="rbf").space
        'latent'
    """

    name: ClassVar[str] = "set_energy"

    scale: float = 1.0
    kernel: KernelLike = "distance"
    references: int = 256
    space: str = "latent"
    paired: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("space", self.space, ("features", "latent"))
        if self.paired and self.selection != "random":
            raise OptionError("paired: needs the same references at every step: leave selection at 'random'")

    def demand(self, context: Context) -> Demand:
        """Return that a graph leads to the tapped block, or none in the latent space."""
        return super().demand(context) if self.space == "features" else Demand()

    def _steps_with_features(self, guided: dict[int, int]) -> dict[int, int]:
        return guided if self.space == "features" else {}

    def term(self, context: Context, unit: Unit, artefact: References) -> SetEnergyTerm | LatentSetEnergyTerm:
        """Return the term with the set energy of each class in a unit."""
        window, kernel = self.window(artefact), as_kernel(self.kernel)
        if not artefact.steps:
            return self._feature_term(artefact.tap, Sets((), {}, {}, kernel), window)
        unit_classes = context.classes_of(unit)
        labels = {index: context.classes[index].label for index, _ in unit_classes}
        references, weights = artefact.features, artefact.weights(context)
        if self.space == "latent":  # latents without noise, the same at every step
            latents = {label: _latents(artefact, context.classes[index].name) for index, label in labels.items()}
            references = {(step, label): latents[label] for step in artefact.steps for label in latents}
            weights = {(step, label): weight for (_, label), weight in weights.items() for step in artefact.steps}
        first = min(artefact.steps)
        classes = tuple(
            ClassSet(
                labels[index],
                places,
                set_size(references[first, labels[index]], kernel),
                self._pairs(context, artefact, index, [unit.slots[i].number for i in places]) if self.paired else None,
            )
            for index, places in unit_classes
        )
        sets = Sets(classes, references, weights, kernel)
        if self.space == "features":
            return self._feature_term(artefact.tap, sets, window)
        spreads = {label: set_size(references[first, label], LINEAR) for label in labels.values()}
        return LatentSetEnergyTerm(sets=sets, spreads=spreads, window=window, scale=self.scale)

    def _feature_term(self, tap: Tap, sets: Sets, window: Window) -> SetEnergyTerm:
        return SetEnergyTerm(tap=tap, sets=sets, taps=tap.blocks, window=window, scale=self.scale, at=self.at)

    def _pairs(self, context: Context, artefact: References, index: int, numbers: list[int]) -> Tensor:
        """Return weights (m, N): equal shares for the references in a slot's cluster, 0 for the others."""
        name = context.classes[index].name
        latents = _latents(artefact, name).numpy()
        count = min(context.ipc_of(index), len(latents))
        labels = k_means(latents, count, n_init=4, seed=derive_seed(context.seed, "pairs", name)).labels
        by_size = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
        members = labels[None] == by_size[np.array(numbers) % count][:, None]
        return torch.from_numpy(members / members.sum(1, keepdims=True)).float()


def _latents(references: References, name: str) -> Tensor:
    """Return the latents of a class's references at the last step, float32 (N, C·h·w)."""
    assert references.index is not None
    step = max(step for step, _ in references.chosen)
    rows = np.asarray(references.index.latents(name))[references.chosen[step, name].rows]
    return torch.from_numpy(rows.reshape(len(rows), -1)).float()


@dataclass(frozen=True)
class DAPSet(SetEnergy, SingleGuide[References]):
    """Pull the slots of a class, as a set, to the distribution of its real images, and keep them apart.

    Options as in :class:`SetEnergy`, and two that spend more time at sampling.

    Attributes:
        candidates: Number of slots to sample for each image that is kept, at least 1. The candidates of a class are one
            set. The medoids are kept: the choice with the smallest mean squared distance of a reference to the nearest
            of them, in the prior's features at the last step.
        recurrences: How often each guided step is taken, at least 1; see :func:`dap.sampling.sample`.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="dap_set", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "dap_set"
    paper: ClassVar[str] = "dap's own"
    year: ClassVar[int | None] = None
    couples: ClassVar[Couples] = "class"
    presets: ClassVar[Presets] = {
        "features": {"space": "features", "scale": 100.0, "references": 64},
        "medoids": {"candidates": 4, "pooling": "mean"},
    }

    candidates: int = 1
    recurrences: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("candidates", "recurrences"):
            check_whole(option, getattr(self, option))

    def remakes(self) -> Remakes:
        """Return that with candidates the images of a class are chosen together."""
        return "slot" if self.candidates == 1 else "class"

    def slots_at_once(self, ipc: int) -> int:
        """Return the number of candidates of a class."""
        return ipc * self.candidates

    def steps_per_slot(self, context: Context) -> int:
        """Return the steps of all candidates for a slot."""
        return context.num_steps() * self.candidates

    def prepare(self, context: Context) -> References:
        """Check that the scheduler can repeat steps, then prepare the references."""
        check_settings(context.prior, context.settings, self.recurrences)
        return super().prepare(context)

    def make(self, context: Context, unit: Unit, artefact: References) -> Tensor:
        """Return guided latents of the unit's slots."""
        if self.candidates == 1 or not artefact.steps:
            return self._sample(context, unit, artefact)
        medoids: dict[Slot, Tensor] = {}
        for index, places in context.classes_of(unit):  # one class at a time, since its candidates fill the batch
            ipc, again = context.ipc_of(index), unit.slots[int(places[0])].again  # a class is made again as a whole
            slots = tuple(Slot(index, number, again) for number in range(ipc * self.candidates))
            latents = self._sample(context, Unit(unit.index, slots), artefact)
            samples, real, weights = self.finished(context, artefact, index, latents)
            chosen = medoids_towards(samples, real, ipc, weights=weights)
            medoids |= {slots[number]: latents[row] for number, row in enumerate(chosen)}
        return torch.stack([medoids[slot] for slot in unit.slots])

    def _sample(self, context: Context, unit: Unit, artefact: References) -> Tensor:
        return context.sample(unit, [self.term(context, unit, artefact)], recurrences=self.recurrences)
