"""dap_set: pull the slots of a class, as a set, towards the distribution of its real images, and push them apart.

The paper's energy (``dap``) looks at one slot at a time, so its lowest point is the same for all of them. Here the
energy is the kernel distance between two distributions. With slots x_1 … x_m of a class, references r_n with weights
w_n that sum to 1, and the kernel's distance D(a, b)² = k(a,a) + k(b,b) − 2 k(a,b), slot i has

    e_i = ½ Σ_n w_n D(x_i, r_n)²  −  ¼ Σ_{j≠i} D(x_i, x_j)² / (m − 1),

    Σ_i e_i = (m / 2) · MMD²(x, r) + a constant of the references     (unbiased in x; Gretton et al., JMLR 2012, Eq. 3).

The first part is attraction, the second keeps the slots apart. The kernel "distance" has D² = 2 ‖a − b‖: the energy
distance (Székely and Rizzo 2013), in which a slot is pulled by each reference and pushed by each other slot with unit
vectors. One slot alone (m = 1) is only pulled.

e is divided by its size, ½ E D(r, r')² over pairs of references of the class at the first guided step, so that one
``scale`` serves other priors, kernels, samplers and numbers of steps. In the features it enters the score as the
paper's energy does. In the latent it moves x̂_0 as mode guidance does, by

    −scale · σ_t · ½ E ‖z − z'‖² · ∇_{x̂_0} e,    σ_t the ancestral sampler's noise, z the references' latents,

without a gradient through the denoiser: for the linear kernel and one reference it is scale · σ_t · (z − x̂_0).

This method is dap's own. Its defaults come from a grid on held-out images with the built-in prior
(``examples/compare_methods.py``, groups ``set_latent``, ``set_forms``, ``sums``, ``set``, ``last`` and ``more``, seeds
from 1000; points of accuracy relative to no guidance, n = 2 where not stated). In the latent, over all steps, scale 0.1
/ 0.3 / 1 / 3 / 6 with 64 references gave +0.2 / +1.0 / +1.4 / +1.1 / +0.1, over half of them 0.0 / +0.6 / +1.2 / +1.4;
scale 1 with 256 references +1.40 ± 0.58 (n = 4), with 1,000 +1.58 ± 0.66 (n = 4); the kernels rbf and linear +1.5 and
+0.9; paired +1.0. In the features, mean over tokens, scale 30 / 100 / 300 gave +0.9 / +0.4 / +0.5, sketch1024 at 100 /
300 +0.9 / +0.6. With the modes of ``mgd3`` (scale 1) added it gave +2.24 ± 0.82, at scale 0.1 +2.06 ± 0.41 (n = 4).
With 4 / 8 candidates, chosen by the mean over tokens, it gave +2.6 / +2.2, with 4 at scale 3 +1.9, and with 4 without
classifier-free guidance +0.3 (group ``candidates``, n = 4, where none gave +1.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from dap.errors import OptionError
from dap.kernels.linear import LINEAR
from dap.methods.base import Context, Slot, Unit
from dap.methods.common.feature_guide import FeatureGuide, References
from dap.methods.common.set_energy import ClassSet, LatentSetEnergyTerm, SetEnergyTerm, Sets, set_size
from dap.methods.guided import TERMS, SingleGuide
from dap.registry import unknown_name_error
from dap.rng import derive_seed
from dap.sampling import SamplingSettings, check_settings, sample
from dap.selection import k_means, medoids_towards

__all__ = ["DAPSet", "SetEnergy"]


@TERMS.register("set_energy")
@dataclass(frozen=True)
class SetEnergy(FeatureGuide):
    """The set energy as a term.

    Attributes:
        scale, block, pooling, references, selection, noise, start, stop, at: As in
            :class:`dap.methods.common.feature_guide.FeatureGuide`; ``at`` is for features.
        kernel: Any kernel; "distance" makes it the energy distance. A bandwidth rule looks at the references.
        space: "latent", in x̂_0, or "features" of the prior, which asks for a scale of about 100; for both, add two
            terms.
        paired: Pull each slot towards its own cluster of the references alone (k-means of their latents into as many
            clusters as there are slots; the largest clusters are dealt out first).

    Example:
        >>> SetEnergy(kernel="rbf").space
        'latent'
    """

    name: ClassVar[str] = "set_energy"

    scale: float = 1.0
    kernel: Any = "distance"
    references: int = 256
    space: str = "latent"
    paired: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.space not in ("features", "latent"):
            raise unknown_name_error("space", self.space, ("features", "latent"))
        if self.paired and self.selection != "random":
            raise OptionError("paired: needs the same references at every step: leave selection at 'random'")

    def _compared(self, guided: dict[int, int]) -> dict[int, int]:
        return guided if self.space == "features" else {}

    def term(self, context: Context, unit: Unit, artefact: References) -> SetEnergyTerm | LatentSetEnergyTerm:
        """The set energy of the classes of a unit."""
        window = self.window(artefact)
        if not artefact.steps:
            return SetEnergyTerm(artefact.tap, Sets((), {}, {}, self.kernel), window, self.scale, self.at)
        unit_classes = context.classes_of(unit)
        labels = {index: context.classes[index].label for index, _ in unit_classes}
        references, weights = artefact.features, artefact.weights(context)
        if self.space == "latent":  # the same at every step
            latents = {label: _latents(artefact, context.classes[index].name) for index, label in labels.items()}
            references = {(step, label): latents[label] for step in artefact.steps for label in latents}
            weights = {(step, label): weight for (_, label), weight in weights.items() for step in artefact.steps}
        first = min(artefact.steps)
        classes = tuple(
            ClassSet(
                labels[index],
                places,
                set_size(references[first, labels[index]], self.kernel),
                self._pairs(context, artefact, index, [unit.slots[i].number for i in places]) if self.paired else None,
            )
            for index, places in unit_classes
        )
        sets = Sets(classes, references, weights, self.kernel)
        if self.space == "features":
            return SetEnergyTerm(artefact.tap, sets, window, self.scale, self.at)
        spreads = {label: set_size(references[first, label], LINEAR) for label in labels.values()}
        return LatentSetEnergyTerm(sets, spreads, window, self.scale)

    def _pairs(self, context: Context, artefact: References, index: int, numbers: list[int]) -> Tensor:
        """Weights (m, N): the cluster of each slot, by its number, in equal shares."""
        name = context.classes[index].name
        latents = _latents(artefact, name).numpy()
        count = min(context.ipc, len(latents))
        labels = k_means(latents, count, n_init=4, seed=derive_seed(context.seed, "pairs", name)).labels
        by_size = np.argsort(-np.bincount(labels, minlength=count), kind="stable")
        members = labels[None] == by_size[np.array(numbers) % count][:, None]
        return torch.from_numpy(members / members.sum(1, keepdims=True)).float()


def _latents(references: References, name: str) -> Tensor:
    """Latents of the references of a class, those of the last step, float32 (N, C·h·w)."""
    assert references.index is not None
    step = max(step for step, _ in references.chosen)
    rows = np.asarray(references.index.latents(name))[references.chosen[step, name].rows]
    return torch.from_numpy(rows.reshape(len(rows), -1)).float()


@dataclass(frozen=True)
class DAPSet(SingleGuide, SetEnergy):
    """The slots of a class, as a set, are drawn to the distribution of its real images and kept apart.

    Options as in :class:`SetEnergy`, and two that spend more time at sampling.

    Attributes:
        candidates: Slots to sample for each image that is kept, as one set; kept are the medoids: together they make
            the mean squared distance of a reference to the nearest of them smallest, in the prior's features at the
            last step.
        recurrences: How often each guided step is taken; see :func:`dap.sampling.sample`.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="dap_set", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "dap_set"
    paper: ClassVar[str] = "dap's own"
    year: ClassVar[int | None] = None
    couples: ClassVar[Literal["slot", "class"]] = "class"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "features": {"space": "features", "scale": 100.0, "references": 64},
        "medoids": {"candidates": 4, "pooling": "mean"},
    }

    candidates: int = 1
    recurrences: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("candidates", "recurrences"):
            if type(value := getattr(self, option)) is not int or value < 1:
                raise OptionError(f"{option}: expected a whole number of at least 1, got {value!r}")

    def steps_per_slot(self, settings: SamplingSettings) -> int:
        """Those of all candidates for a slot."""
        return settings.num_inference_steps * self.candidates

    def prepare(self, context: Context) -> References:
        """As every guide by features does, after a look whether the scheduler takes recurrences."""
        check_settings(context.require_prior(), context.settings, self.recurrences)
        return super().prepare(context)

    def make(self, context: Context, unit: Unit, artefact: References) -> Tensor:
        """Guided latents of the unit's slots."""
        if self.candidates == 1 or not artefact.steps:
            return self._sample(context, unit, artefact)
        made: dict[Slot, Tensor] = {}
        for index, _ in context.classes_of(unit):  # each class fills a batch by itself now
            slots = tuple(Slot(index, number) for number in range(context.ipc * self.candidates))
            latents = self._sample(context, Unit(unit.index, slots), artefact)
            samples, real, weights = self.finished(context, artefact, index, latents)
            chosen = medoids_towards(samples, real, context.ipc, weights=weights)
            made |= {Slot(index, number): latents[row] for number, row in enumerate(chosen)}
        return torch.stack([made[slot] for slot in unit.slots])

    def _sample(self, context: Context, unit: Unit, artefact: References) -> Tensor:
        return sample(
            context.require_prior(), context.labels(unit), context.generators(unit), settings=context.settings,
            terms=[self.term(context, unit, artefact)], recurrences=self.recurrences,
            callback_on_step_end=context.callback_on_step_end,
        )  # fmt: skip
