"""dap: pull each slot towards real images of its class, in the prior's own features.

Su, Zhao, Wang et al., "Diffusion Models as Dataset Distillation Priors" (DAP), ICLR 2026,
https://arxiv.org/abs/2510.17421. For a slot with latent x_t, class c, and N real latents of c noised to the same step
(Eq. 6 and 7),

    E(x_t) = (1/N) Σ_n D_k( φ(x_t, t), φ(x_t^(n), t) ),    D_k(a, b) = √( k(a,a) + k(b,b) − 2 k(a,b) ).

With the linear kernel D_k is the Euclidean distance, not its square: each reference pulls with a unit vector, towards
the class's geometric median. Where D_k is zero its gradient is taken as zero.

The paper's Algorithm 1 subtracts γ ∇_{x_t} E from x_{t−1}; the preset "paper" does that, with γ = 1. By default the
gradient enters the score instead, ε̂ = ε + scale · √(1 − ᾱ_t) · ∇_{x_t} E, with E divided by its value at the slot's
first guided step, so that one scale serves other priors, samplers and numbers of steps. No code was published; what
the paper leaves open is an option here.

The defaults come from a grid on held-out images with the built-in prior (``examples/compare_methods.py scale``, seeds
1000 to 1003, points of accuracy relative to no guidance): scale 0.1 / 0.3 gave +0.03 / +0.05 (n = 4), 1 / 3 gave
−0.16 / −0.12 (n = 2), so 0.3 is the best positive value, and the one-sided pull does not help there at any scale.
Early stop at half (−0.03 / −0.18 / −0.28 at 0.3 / 1 / 3, n = 2) and flat tokens (−0.05 at 1, n = 2) were no better,
so guidance acts in all steps, and on the mean over tokens, which is many times smaller. The paper's form lost 0.2 /
0.4 / 3.0 points at γ = 0.01 / 0.1 / 1 (n = 2). The number of references and the noise rule were not varied.

The features of the references are read from a feature index: the one that is given, at those of the guided steps that
it has, or else one of the references alone, float32 and with every guided step, which is made or found in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from dap.errors import OptionError
from dap.features import (
    Chosen,
    IndexedFeatures,
    Tap,
    check_prior,
    check_references,
    default_block,
    reference_index,
    schedule,
)
from dap.index import Index
from dap.kernels import Kernel, by_name, mean_distance
from dap.methods.base import Context, Unit
from dap.registry import unknown_name
from dap.rng import derive_seed
from dap.sampling import StepState, Window, sample
from dap.selection import Selection, herding, k_medoids, permutation, random_per_class, thinning

__all__ = ["DAP", "KernelDistance"]

SELECTORS: dict[str, Callable[[np.ndarray, int, int], Selection]] = {
    "herding": lambda rows, count, seed: herding(rows, count, seed=seed),
    "weighted_herding": lambda rows, count, seed: herding(rows, count, seed=seed, weighted=True),
    "thinning": lambda rows, count, seed: thinning(rows, count, seed=seed),
    "k_medoids": lambda rows, count, seed: k_medoids(rows, count, seed=seed),
}


@dataclass(frozen=True)
class DAP:
    """Kernel-distance guidance (the paper's method).

    Attributes:
        scale: The γ of the Boltzmann factor exp(−γE); 0 leaves the prior's own samples.
        kernel: "linear" (the paper's), "rbf", a dict such as {"name": "rbf", "bandwidth": 3.0}, or a kernel object.
        block: The denoiser's block at which φ is taken, from 1; None takes the prior's recommendation, or the block
            at a third of its depth (the paper: blocks 4 to 12 of 28).
        pooling: "mean" over tokens, "flat", "grid4" or "sketch256"; see :mod:`dap.features.pooling`.
        references: Number N of real images of each class; a class with fewer gives all it has.
        selection: Which ones: "random", the same at every step; or, among the rows of a given index, those that stand
            for all at each step by themselves: "herding", "weighted_herding" (E becomes Σ w D_k with weights that sum
            to 1), "thinning", "k_medoids". See :mod:`dap.selection`.
        noise: "own" noise for each reference and step, or "shared" by all references of a step.
        start: Share of the steps after which guidance starts.
        stop: Share of the steps after which it stops (the paper's early stop).
        at: "eps" (into the score) or "sample" (the paper's Algorithm 1).
        normalise: Divide E by its value at the slot's first guided step.

    Example:
        >>> DAP(scale=0.3, kernel="rbf").kernel.name
        'rbf'
    """

    name: ClassVar[str] = "dap"
    couples: ClassVar[Literal["slot", "class"]] = "slot"
    needs_prior: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"scale": 1.0, "at": "sample", "normalise": False, "stop": 1.0},
    }

    scale: float = 0.3
    kernel: Any = "linear"
    block: int | None = None
    pooling: str = "mean"
    references: int = 64
    selection: str = "random"
    noise: str = "own"
    start: float = 0.0
    stop: float = 1.0
    at: str = "eps"
    normalise: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Kernel):
            options = {"name": self.kernel} if isinstance(self.kernel, str) else self.kernel
            if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
                raise OptionError(f'kernel: expected a name, a kernel or {{"name": ..., ...}}, got {self.kernel!r}')
            object.__setattr__(self, "kernel", by_name(**options))
        if not 0 <= self.scale < math.inf:
            raise OptionError(f"scale: expected 0 or more, got {self.scale}")
        if self.block is not None and (type(self.block) is not int or self.block < 1):
            raise OptionError(f"block: expected a whole number of at least 1, got {self.block!r}")
        if self.references < 1:
            raise OptionError(f"references: expected at least 1, got {self.references}")
        choices = (("selection", ("random", *SELECTORS)), ("noise", ("own", "shared")), ("at", ("eps", "sample")))
        for option, allowed in choices:
            if getattr(self, option) not in allowed:
                raise unknown_name(option, getattr(self, option), allowed)
        Tap(1, self.pooling)
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> References:
        """Draws the references, and finds or makes their features for every guided step, before the first step."""
        prior = context.require_prior()
        tap = Tap(default_block(prior) if self.block is None else self.block, self.pooling)
        window = Window(self.start, self.stop)
        scheduler = prior.scheduler(context.settings.scheduler, context.settings.num_inference_steps)
        steps = schedule(scheduler)
        guided = {step: t for step, t in enumerate(steps) if self.scale and window.contains(step, len(steps))}
        if context.index is not None:
            check_prior(context.index, prior)
            check_references(context.index, tap, scheduler, self.noise)
            return self._of_index(context, context.index, tap, guided)
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
        index = reference_index(
            context.source, context.classes, prior, indices, tap=tap, scheduler=scheduler,
            timesteps=tuple(dict.fromkeys(guided.values())), noise=self.noise, seed=context.seed,
        )  # fmt: skip
        whole = {
            (step, name): Chosen(np.arange(len(own)), None, t)
            for step, t in guided.items()
            for name, own in ids.items()
        }
        return References(tap, ids, IndexedFeatures(index, context.classes, whole), index)

    def _of_index(self, context: Context, index: Index, tap: Tap, guided: dict[int, int]) -> References:
        """References among the rows of the given index: of a whole class, those that the source itself would give."""
        kept = {step: t for step, t in guided.items() if t in index.timesteps}
        if guided and not kept:
            raise OptionError(
                f"index {index.path} has the timesteps {', '.join(map(str, index.timesteps))}, and this run is guided "
                f"at {', '.join(map(str, guided.values()))}: widen start and stop, or build another index"
            )
        chosen: dict[tuple[int, str], Chosen] = {}
        ids: dict[str, Any] = {}
        for name in (entry.name for entry in context.classes):
            own = index.ids(name)
            drawn = permutation(len(own), context.seed, name)[: self.references]
            for step, t in kept.items():
                chosen[step, name] = Chosen(drawn, None, t)
                if self.selection != "random":
                    seed = derive_seed(context.seed, "references", name, t)
                    found = SELECTORS[self.selection](index.features(name, t), len(drawn), seed)
                    chosen[step, name] = Chosen(found.indices, found.weights, t)
            ids[name] = [own[row] for row in drawn]
            if self.selection != "random":
                ids[name] = {t: [own[row] for row in chosen[step, name].rows] for step, t in kept.items()}
        labels = {entry.name: int(entry.prior_label or 0) for entry in context.classes}
        weights = {
            (step, labels[name]): torch.from_numpy(each.weights).float()
            for (step, name), each in chosen.items()
            if each.weights is not None
        }
        return References(tap, ids, IndexedFeatures(index, context.classes, chosen), index, weights)

    def term(self, references: References) -> KernelDistance:
        """The guidance term."""
        return KernelDistance(
            references.tap,
            references.features,
            self.kernel,
            GuidedSteps(self.start, self.stop, frozenset(step for step, _ in references.features)),
            self.scale,
            self.at,
            self.normalise,
            references.weights,
        )

    def make(self, context: Context, unit: Unit, artefact: References) -> Tensor:
        """Guided latents of the unit's slots."""
        return sample(
            context.require_prior(), context.labels(unit), context.generators(unit),
            settings=context.settings, terms=[self.term(artefact)], callback_on_step_end=context.callback_on_step_end,
        )  # fmt: skip

    def record(self, context: Context, artefact: References) -> dict[str, Any]:
        """The block that was tapped, the source ids of the references by class, and the hash of their index."""
        index = None if artefact.index is None else artefact.index.hash
        return {"block": artefact.tap.block, "references": artefact.ids, "index": index}


@dataclass(frozen=True)
class References:
    """Real images of each class, as features at each guided step.

    Attributes:
        tap: Where the features were taken.
        ids: Source ids by class name; where they differ between the timesteps, a dict of them by timestep.
        features: Features (N, D), float32 on the CPU, by (step, prior label).
        index: The index that they are read from; None where no step is guided.
        weights: What each stands for, float32 (N,), by (step, prior label); none where the shares are equal.
    """

    tap: Tap
    ids: dict[str, Any]
    features: Mapping[tuple[int, int], Tensor]
    index: Index | None = None
    weights: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class GuidedSteps(Window):
    """Those steps of a window of which there are references."""

    steps: frozenset[int] = frozenset()

    def contains(self, step: int, num_steps: int) -> bool:
        """Whether the term acts in step ``step``."""
        return step in self.steps


@dataclass(frozen=True)
class KernelDistance:
    """The energy term: E of the module's docstring, for each slot against the references of its class.

    References and their weights are by (step, prior label); without weights they have equal shares.
    """

    tap: Tap
    references: Mapping[tuple[int, int], Tensor]
    kernel: Kernel
    window: Window
    scale: float
    at: Any
    normalise: bool
    weights: Mapping[tuple[int, int], Tensor] = field(default_factory=dict)
    needs: Literal["features"] = "features"
    taps: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", frozenset({self.tap.block}))

    def energy(self, state: StepState) -> Tensor:
        """E of each slot, with shape (B,)."""
        features = self.tap.pool(state.features[self.tap.block])
        energies = features.new_zeros(len(features))
        for label in state.labels.unique().tolist():
            own = torch.nonzero(state.labels == label).flatten()
            references = self.references[state.step, label].to(features.device)
            kernel = self.kernel.resolve(references)
            weights = self.weights.get((state.step, label))
            energy = mean_distance(
                features[own], references, kernel, backend="torch",
                weights=None if weights is None else weights.to(features),
            )  # fmt: skip
            energies = energies.index_put((own,), energy)
        return energies
