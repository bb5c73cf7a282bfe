"""What guides by features has in common: options, the references of each class, and the order of finished slots.

The features of the references are read from a feature index: the one that is given, at those of the guided steps that
it has, or else one of the references alone, float32 and with every guided step, which is made or found in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dap.errors import OptionError
from dap.features import (
    DEFAULT_POOLING,
    ChosenRows,
    ReferenceFeatures,
    Tap,
    block_number,
    check_block,
    check_prior,
    check_references,
    encode_images,
    noised_features,
    reference_index,
    schedule,
)
from dap.kernels.base import as_kernel
from dap.methods.guided import Guide
from dap.registry import unknown_name_error
from dap.rng import derive_seed
from dap.sampling import Window
from dap.selection import Selector, herding, k_medoids, order_towards, permutation, random_per_class, thinning

if TYPE_CHECKING:
    from torch import Tensor

    from dap.index import Index
    from dap.methods.base import Context

__all__ = ["FeatureGuide", "GuidedSteps", "References"]

SELECTORS: dict[str, Selector] = {
    "herding": herding, "weighted_herding": partial(herding, weighted=True), "thinning": thinning,
    "k_medoids": k_medoids,
}  # fmt: skip


@dataclass(frozen=True)
class FeatureGuide(Guide):
    """Options of a guide that compares the prior's features of slots with those of references.

    Attributes:
        scale: The γ of the Boltzmann factor exp(−γE); 0 leaves the prior's own samples.
        kernel: A name such as "linear" or "rbf", a dict such as {"name": "rbf", "bandwidth": 3.0}, or a kernel object.
        block: The denoiser's block at which φ is taken, from 1, or its name, such as a U-Net's "mid"; None takes the
            prior's recommendation, or the block at a third of its depth (the paper: blocks 4 to 12 of 28).
        pooling: "sketch1024", "mean" over tokens, "flat" or "grid4"; see :mod:`dap.features.pooling`.
        references: Number N of real images of each class; a class with fewer gives all it has.
        selection: Which ones: "random", the same at every step; or, among the rows of a given index, those that stand
            for all at each step by themselves: "herding", "weighted_herding" (means over references become Σ w with
            weights that sum to 1), "thinning", "k_medoids". See :mod:`dap.selection`.
        noise: "own" noise for each reference and step, or "shared" by all references of a step.
        start: Share of the steps after which guidance starts.
        stop: Share of the steps after which it stops (the paper's early stop).
        at: "eps" (into the score) or "sample" (the paper's Algorithm 1).
    """

    scale: float = 0.3
    kernel: Any = "linear"
    block: int | str | None = None
    pooling: str = DEFAULT_POOLING
    references: int = 64
    selection: str = "random"
    noise: str = "own"
    start: float = 0.0
    stop: float = 1.0
    at: str = "eps"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", as_kernel(self.kernel))
        if not 0 <= self.scale < math.inf:
            raise OptionError(f"scale: expected 0 or more, got {self.scale}")
        check_block(self.block)
        if self.references < 1:
            raise OptionError(f"references: expected at least 1, got {self.references}")
        choices = (("selection", ("random", *SELECTORS)), ("noise", ("own", "shared")), ("at", ("eps", "sample")))
        for option, allowed in choices:
            if getattr(self, option) not in allowed:
                raise unknown_name_error(option, getattr(self, option), allowed)
        Tap(1, self.pooling)
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> References:
        """Draws the references, and finds or makes their features for every guided step, before the first step."""
        prior = context.require_prior()
        tap = Tap(block_number(prior, self.block), self.pooling)
        window = Window(self.start, self.stop)
        scheduler = prior.scheduler(context.settings.scheduler, context.settings.num_inference_steps)
        steps = schedule(scheduler)
        guided = {step: t for step, t in enumerate(steps) if self.scale and window.contains(step, len(steps))}
        if context.index is not None:
            check_prior(context.index, prior)
            check_references(context.index, tap, scheduler, self.noise)
            return self._of_index(context, context.index, tap, guided, steps)
        if self.selection != "random":
            raise OptionError(
                f"selection: {self.selection!r} chooses among the features of a class, which an index has: make one "
                "(dap index build) and give it as index=, or leave selection at 'random'"
            )
        chosen = random_per_class(context.source, self.references, context.seed)
        indices = {
            entry.name: [int(i) for i in chosen if context.source.labels[i] == class_index]
            for class_index, entry in enumerate(context.classes)
        }
        ids = {name: [context.source.ids[i] for i in own] for name, own in indices.items()}
        if not guided:
            return References(tap, ids, {})
        kept = self._compared(guided) | {len(steps) - 1: steps[-1]}  # the last one orders the finished slots
        index = reference_index(
            context.source, context.classes, prior, indices, tap=tap, scheduler=scheduler,
            timesteps=tuple(dict.fromkeys(kept.values())), noise=self.noise, seed=context.seed,
        )  # fmt: skip
        whole = {
            (step, name): ChosenRows(np.arange(len(own)), None, t)
            for step, t in kept.items()
            for name, own in ids.items()
        }
        return References(tap, ids, ReferenceFeatures(index, context.classes, whole), frozenset(guided), index, whole)

    def _compared(self, guided: dict[int, int]) -> dict[int, int]:
        """Those of the guided steps at which features are compared."""
        return guided

    def _of_index(
        self, context: Context, index: Index, tap: Tap, guided: dict[int, int], steps: list[int]
    ) -> References:
        """References among the rows of the given index: of a whole class, those that the source itself would give."""
        acts = {step: t for step, t in guided.items() if t in index.timesteps or not self._compared({step: t})}
        if guided and not acts:
            raise OptionError(
                f"index {index.path} has the timesteps {', '.join(map(str, index.timesteps))}, and this run is guided "
                f"at {', '.join(map(str, guided.values()))}: widen start and stop, or build another index"
            )
        kept = acts
        if acts:
            last = max(step for step, t in enumerate(steps) if t in index.timesteps)
            kept = self._compared(acts) | {last: steps[last]}
        chosen: dict[tuple[int, str], ChosenRows] = {}
        ids: dict[str, Any] = {}
        for name in (entry.name for entry in context.classes):
            own = index.ids(name)
            drawn = permutation(len(own), context.seed, name)[: self.references]
            for step, t in kept.items():
                chosen[step, name] = ChosenRows(drawn, None, t)
                if self.selection != "random":
                    seed = derive_seed(context.seed, "references", name, t)
                    found = SELECTORS[self.selection](index.features(name, t), len(drawn), seed=seed)
                    chosen[step, name] = ChosenRows(found.indices, found.weights, t)
            ids[name] = [own[row] for row in drawn]
            if self.selection != "random":
                ids[name] = {t: [own[row] for row in chosen[step, name].rows] for step, t in kept.items()}
        features = ReferenceFeatures(index, context.classes, chosen)
        return References(tap, ids, features, frozenset(acts), index, chosen)

    def window(self, references: References) -> GuidedSteps:
        """The steps of the window of which there are references."""
        return GuidedSteps(self.start, self.stop, references.steps)

    def record(self, context: Context, artefact: References) -> dict[str, Any]:
        """The block that was tapped, the source ids of the references by class, and the hash of their index."""
        index = None if artefact.index is None else artefact.index.hash
        return {"block": artefact.tap.block, "references": artefact.ids, "index": index}

    def order(self, context: Context, artefact: References, class_index: int, images: Tensor) -> list[int] | None:
        """Greedily by the energy distance to the references, in features at the last step that they have.

        Each slot's features are those of its finished image, noised to that step by a noise of its own.
        """
        if not artefact.steps:
            return None
        latents = encode_images(context.require_prior(), images)
        made, real, weights = self.finished(context, artefact, class_index, latents)
        return [int(number) for number in order_towards(made, real, weights=weights)]

    def finished(
        self, context: Context, artefact: References, class_index: int, latents: Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Features of finished latents (n, C, h, w) of one class, of its references, and the weights of these."""
        prior, entry = context.require_prior(), context.classes[class_index]
        last = max(step for step, _ in artefact.chosen)
        chosen, label = artefact.chosen[last, entry.name], entry.label
        scheduler = prior.scheduler(context.settings.scheduler, context.settings.num_inference_steps)
        made = noised_features(
            prior, latents, [f"{entry.name} slot {number}" for number in range(len(latents))], label=label,
            tap=artefact.tap, scheduler=scheduler, timestep=chosen.timestep, seed=context.seed,
        )  # fmt: skip
        return made.numpy(), artefact.features[last, label].numpy(), chosen.weights


@dataclass(frozen=True)
class References:
    """Real images of each class, as features at each guided step.

    Attributes:
        tap: Where the features were taken.
        ids: Source ids by class name; where they differ between the timesteps, a dict of them by timestep.
        features: Features (N, D), float32 on the CPU, by (step, prior label), of the guided and the last steps.
        steps: The guided steps.
        index: The index that they are read from; None where no step is guided.
        chosen: Rows of the index and their weights, by (step, class name).
    """

    tap: Tap
    ids: dict[str, Any]
    features: Mapping[tuple[int, int], Tensor]
    steps: frozenset[int] = frozenset()
    index: Index | None = None
    chosen: Mapping[tuple[int, str], ChosenRows] = field(default_factory=dict)

    def weights(self, context: Context) -> dict[tuple[int, int], Tensor]:
        """What each reference stands for, float32 (N,), by (step, prior label); none where the shares are equal."""
        labels = {entry.name: entry.label for entry in context.classes}
        return {
            (step, labels[name]): torch.from_numpy(each.weights).float()
            for (step, name), each in self.chosen.items()
            if each.weights is not None
        }


@dataclass(frozen=True)
class GuidedSteps(Window):
    """Those steps of a window of which there are references."""

    steps: frozenset[int] = frozenset()

    def contains(self, step: int, num_steps: int) -> bool:
        """Whether the term acts in step ``step``."""
        return step in self.steps
