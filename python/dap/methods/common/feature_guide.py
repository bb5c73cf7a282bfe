"""The base of guides that compare the prior's features of slots with those of real images, their references.

The features of the references are read from a feature index. If the user gave an index, guidance acts only at those
steps whose timesteps are in the index. Otherwise the cache holds an index of the references alone, in float32 and with
every guided step; it is made if it is not there yet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dap.config import check_choice, check_number, check_whole
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
    feature_width,
    noised_features,
    reference_index,
    schedule,
)
from dap.kernels.base import KernelLike, as_kernel
from dap.methods.common.guides import Guide
from dap.methods.common.references import GuidedSteps, References
from dap.priors import Demand
from dap.rng import derive_seed
from dap.sampling import Place, Window, scheduler_of
from dap.selection import Selector, herding, k_medoids, order_towards, permutation, random_of_each_class, thinning

if TYPE_CHECKING:
    from torch import Tensor

    from dap.index import Index
    from dap.methods.base import Context, Record

__all__ = ["FeatureGuide"]

SELECTORS: dict[str, Selector] = {
    "herding": herding, "weighted_herding": partial(herding, weighted=True), "thinning": thinning,
    "k_medoids": k_medoids,
}  # fmt: skip


@dataclass(frozen=True)
class FeatureGuide(Guide[References]):
    """The options of a guide that compares the prior's features of slots with those of references.

    Attributes:
        scale: The γ of the Boltzmann factor exp(−γE), at least 0; 0 switches guidance off.
        kernel: A name such as "linear" or "rbf", a dict such as {"name": "rbf", "bandwidth": 3.0}, or a kernel object.
        block: The denoiser's block whose output gives the features φ: a number from 1 or a name, such as a U-Net's
            "mid". None takes the prior's recommendation, or else the block at a third of its depth (the paper: blocks 4
            to 12 of 28).
        pooling: "sketch1024", "mean" over tokens, "flat" or "grid4"; see :mod:`dap.features.pooling`.
        references: Number N of real images of each class; a class with fewer images gives all it has.
        selection: How references are chosen. "random" gives the same ones at every step. With an index, "herding",
            "weighted_herding" (the references then have weights w that sum to 1), "thinning" and "k_medoids" choose, at
            each step, rows that represent all rows of the class. See :mod:`dap.selection`.
        noise: "own": each reference is noised by its own draw at each step; "shared": all references of a step share
            one draw.
        start: Share of the steps after which guidance starts, from 0 to 1.
        stop: Share of the steps after which it stops, from ``start`` to 1 (the paper's early stop).
        at: "eps" (into the score) or "sample" (the paper's Algorithm 1).
    """

    scale: float = 0.3
    kernel: KernelLike = "linear"
    block: int | str | None = None
    pooling: str = DEFAULT_POOLING
    references: int = 64
    selection: str = "random"
    noise: str = "own"
    start: float = 0.0
    stop: float = 1.0
    at: Place = "eps"

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernel", as_kernel(self.kernel))
        check_number("scale", self.scale, 0)
        check_block(self.block)
        check_whole("references", self.references)
        check_choice("selection", self.selection, ("random", *SELECTORS))
        check_choice("noise", self.noise, ("own", "shared"))
        check_choice("at", self.at, ("eps", "sample"))
        Tap(1, self.pooling)
        Window(self.start, self.stop)

    def demand(self, context: Context) -> Demand:
        """Return that a graph leads to the tapped block."""
        return Demand(frozenset({block_number(context.prior, self.block)})) if self.scale else Demand()

    def disk(self, context: Context) -> int:
        """Return the bytes of the references' features and latents."""
        prior, tap = context.prior, Tap(block_number(context.prior, self.block), self.pooling)
        steps = schedule(scheduler_of(prior, context.settings))
        guided = self._guided(steps)
        if context.index is not None or not guided:
            return 0
        timesteps = set((self._steps_with_features(guided) | {len(steps) - 1: steps[-1]}).values())
        width = feature_width(prior.without_data(), tap, context.classes[0].label)
        counts = np.bincount(context.source.labels, minlength=len(context.classes))
        rows = int(np.minimum(counts, self.references).sum())
        return 4 * rows * (len(timesteps) * width + math.prod(prior.latent_shape))

    def _guided(self, steps: Sequence[int]) -> dict[int, int]:
        """Return the steps of a schedule in which the term acts, with their timesteps."""
        window = Window(self.start, self.stop)
        return {step: t for step, t in enumerate(steps) if self.scale and window.contains(step, len(steps))}

    def prepare(self, context: Context) -> References:
        """Choose the references; make the features for every guided step, or find them in the index or the cache.

        Raises:
            OptionError: The index does not fit the prior or these options, or a selection needs an index.
        """
        prior = context.prior
        tap = Tap(block_number(prior, self.block), self.pooling)
        scheduler = scheduler_of(prior, context.settings)
        steps = schedule(scheduler)
        guided = self._guided(steps)
        if context.index is not None:
            check_prior(context.index, prior)
            check_references(context.index, tap, scheduler, self.noise)
            return self._from_index(context, context.index, tap, guided, steps)
        if self.selection != "random":
            raise OptionError(
                f"selection: {self.selection!r} chooses among the features of a class, which an index has: make one "
                "(dap index build) and give it as index=, or leave selection at 'random'"
            )
        drawn = random_of_each_class(context.source, self.references, context.seed)
        indices = {name: class_indices.tolist() for name, class_indices in drawn.items()}
        ids = {name: [context.source.ids[i] for i in class_indices] for name, class_indices in indices.items()}
        if not guided:
            return References(tap, ids, {})
        timesteps = self._steps_with_features(guided) | {len(steps) - 1: steps[-1]}  # the last step orders the slots
        index = reference_index(
            context.source, context.classes, prior, indices, tap=tap, scheduler=scheduler,
            timesteps=tuple(dict.fromkeys(timesteps.values())), noise=self.noise, seed=context.seed,
            bars=context.bars,
        )  # fmt: skip
        chosen = {
            (step, name): ChosenRows(np.arange(len(class_ids)), None, t)
            for step, t in timesteps.items()
            for name, class_ids in ids.items()
        }
        return References(tap, ids, ReferenceFeatures(index, context.classes, chosen), frozenset(guided), index, chosen)

    def _steps_with_features(self, guided: dict[int, int]) -> dict[int, int]:
        """Return the guided steps, with their timesteps, at which the term reads features of the references."""
        return guided

    def _from_index(
        self, context: Context, index: Index, tap: Tap, guided: dict[int, int], steps: list[int]
    ) -> References:
        """Choose references among the rows of an index: with whole classes, those that the source would give."""
        acts = {
            step: t for step, t in guided.items() if t in index.timesteps or not self._steps_with_features({step: t})
        }
        if guided and not acts:
            raise OptionError(
                f"index {index.path} has the timesteps {', '.join(map(str, index.timesteps))}, and this run is guided "
                f"at {', '.join(map(str, guided.values()))}: widen start and stop, or build another index"
            )
        timesteps = acts
        if acts:
            last = max(step for step, t in enumerate(steps) if t in index.timesteps)
            timesteps = self._steps_with_features(acts) | {last: steps[last]}
        chosen: dict[tuple[int, str], ChosenRows] = {}
        ids: dict[str, list[str] | dict[int, list[str]]] = {}
        for name in (entry.name for entry in context.classes):
            class_ids = index.ids(name)
            drawn = permutation(len(class_ids), context.seed, name)[: self.references]
            for step, t in timesteps.items():
                chosen[step, name] = ChosenRows(drawn, None, t)
                if self.selection != "random":
                    seed = derive_seed(context.seed, "references", name, t)
                    selection = SELECTORS[self.selection](index.features(name, t), len(drawn), seed=seed)
                    chosen[step, name] = ChosenRows(selection.indices, selection.weights, t)
            ids[name] = [class_ids[row] for row in drawn]
            if self.selection != "random":
                ids[name] = {t: [class_ids[row] for row in chosen[step, name].rows] for step, t in timesteps.items()}
        features = ReferenceFeatures(index, context.classes, chosen)
        return References(tap, ids, features, frozenset(acts), index, chosen)

    def window(self, references: References) -> GuidedSteps:
        """Return the guided steps: those of the window that have references."""
        return GuidedSteps(self.start, self.stop, references.steps)

    def record(self, context: Context, artefact: References) -> Record:
        """Return the number of the block, the source ids of the references by class, and the hash of their index."""
        index = None if artefact.index is None else artefact.index.hash
        return {"block": artefact.tap.block, "references": artefact.ids, "index": index}

    def order(self, context: Context, artefact: References, class_index: int, images: Tensor) -> list[int] | None:
        """Return the slots in greedy order: each slot is the one that brings the set nearest to the references.

        The distance is the energy distance between features at the last step for which the references have features. A
        slot's features are those of its finished image, noised to that step by its own draw.
        """
        if not artefact.steps:
            return None
        latents = encode_images(context.prior, images)
        slots, real, weights = self.finished(context, artefact, class_index, latents)
        return [int(number) for number in order_towards(slots, real, weights=weights)]

    def finished(
        self, context: Context, artefact: References, class_index: int, latents: Tensor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return features of finished latents (n, C, h, w) of a class and of its references, and their weights."""
        prior, entry = context.prior, context.classes[class_index]
        last = max(step for step, _ in artefact.chosen)
        chosen, label = artefact.chosen[last, entry.name], entry.label
        scheduler = scheduler_of(prior, context.settings)
        features = noised_features(
            prior, latents, [f"{entry.name} slot {number}" for number in range(len(latents))], label=label,
            tap=artefact.tap, scheduler=scheduler, timestep=chosen.timestep, seed=context.seed,
        )  # fmt: skip
        return features.numpy(), artefact.features[last, label].numpy(), chosen.weights
