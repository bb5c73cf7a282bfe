"""dmgd: pull the slots of a class to the centres of its clusters by optimal transport, larger clusters to more slots.

Wang et al., "DMGD: Train-Free Dataset Distillation with Semantic-Distribution Matching in Diffusion Models", CVPR 2026,
https://arxiv.org/abs/2605.03877. Of the paper its distribution matching is known, and not in every detail: the real
latents of a class become k-means centres a_1 … a_n, 10 of them, whose masses q are the shares of their clusters, and
guidance lowers the transport cost between the slots and them. Here that is

    P = argmin Σ_ij P_ij C_ij + ε Σ_ij P_ij log P_ij,    Σ_j P_ij = 1/m,  Σ_i P_ij = q_j,    C_ij = ‖x̂_0i − a_j‖² / 2,

by Sinkhorn's iterations in float64 (Cuturi, "Sinkhorn Distances", NeurIPS 2013), anew in each step. With P held, which
is exact for the minimum's gradient, the slots move by

    x̂_0i = x̂_0i + scale · σ_t · (m Σ_j P_ij a_j − x̂_0i),    σ_t the ancestral sampler's noise,

that is, each towards the mean of the centres by its row of the plan: mode guidance (:mod:`dap.methods.mgd3`) whose
modes follow the slots. ``entropy`` is ε as a share of the mean cost.

Known: the 10 centres with masses, and a window from step 45 to step 30 of 50, counted down from 49, which the preset
"window" has. Not known: the
cost, ε and the scale. Left out are its semantic matching (a label that changes with the steps) and its greedy matching
of one batch after the other, whose formulas could not be read. No code was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dap.config import check_number, check_whole
from dap.methods.base import Context, Couples, Presets, Record, Unit
from dap.methods.common.guides import TERMS, Guide, SingleGuide
from dap.methods.common.modes import Modes, find_modes, largest_first, modes_bytes
from dap.priors import Demand
from dap.sampling import DeltaTerm, Place, StepState, Window

__all__ = ["DMGD", "Transport", "TransportTerm", "transport_plan"]

CLOSE, MOST = 1e-6, 1000  # the largest error of a row's sum, and iterations


@dataclass(frozen=True)
class Atoms:
    """The clusters of a class, and its slots in a unit.

    Attributes:
        places: Positions of the slots in the unit, int64 (m,).
        centers: a, float32 (n, D).
        masses: q, float64 (n,), on the CPU; they sum to 1.
    """

    places: Tensor
    centers: Tensor
    masses: Tensor


def transport_plan(cost: Tensor, masses: Tensor, entropy: float) -> Tensor:
    """Return P, float64 (m, n): the rows have equal sums, the columns sum to the masses.

    Args:
        cost: C, (m, n), at least 0.
        masses: q, (n,), above 0 and with the sum 1.
        entropy: ε as a share of the mean of C, above 0.

    Example:
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> transport_plan(cost, torch.tensor([0.5, 0.5]), 0.01).round(decimals=3)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]], dtype=torch.float64)
    """
    cost, columns = cost.double().cpu(), masses.double().cpu().log()
    rows = torch.full((len(cost),), 1 / len(cost), dtype=torch.float64).log()
    scaled = -cost / (entropy * float(cost.mean()) or 1.0)  # a mean of 0: all costs are 0
    u, v = torch.zeros_like(rows), torch.zeros_like(columns)
    for _ in range(MOST):
        u = rows - (scaled + v).logsumexp(1)
        v = columns - (scaled + u[:, None]).logsumexp(0)
        plan = (scaled + u[:, None] + v).exp()
        if float((plan.sum(1) - rows.exp()).abs().max()) < CLOSE:
            break
    return plan


@dataclass(frozen=True, kw_only=True)
class TransportTerm(DeltaTerm):
    """The move of each slot to the mean of the centres by its row of the transport plan, times σ_t.

    Attributes:
        classes: The clusters of each class.
        entropy: ε as a share of the mean cost.
    """

    classes: tuple[Atoms, ...]
    entropy: float
    at: Place = "x0"

    def delta(self, state: StepState) -> Tensor:
        """Return the change of x̂_0, (B, C, h, w)."""
        rows = state.x0.detach().flatten(1).float()
        goals = rows.clone()
        for atoms in self.classes:
            places = atoms.places.to(rows.device)
            own, centers = rows[places], atoms.centers.to(rows.device)
            plan = transport_plan(torch.cdist(own, centers).square() / 2, atoms.masses, self.entropy)
            goals[places] = (len(own) * plan).to(rows) @ centers
        return (goals.view_as(state.x0) - state.x0) * state.std


@TERMS.register("transport")
@dataclass(frozen=True)
class Transport(Guide[Modes]):
    """The options of a term that pulls the slots of a class to its clusters by optimal transport.

    Attributes:
        scale: At least 0; 0 switches guidance off.
        atoms: n, the number of clusters, at least 1; a class with fewer images has as many clusters as images.
        entropy: ε as a share of the mean cost, at least 0.001: the smaller, the more a slot goes to one centre alone.
        start: Share of the steps after which guidance starts, from 0 to 1.
        stop: Share of the steps after which it stops, from ``start`` to 1.

    Example:
        >>> Transport(atoms=5).entropy
        0.05
    """

    name: ClassVar[str] = "transport"

    scale: float = 1.0
    atoms: int = 10
    entropy: float = 0.05
    start: float = 0.0
    stop: float = 0.5

    def __post_init__(self) -> None:
        check_number("scale", self.scale, 0)
        check_whole("atoms", self.atoms)
        check_number("entropy", self.entropy, 0.001)
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> Modes:
        """Return the clusters of each class, by k-means."""
        return find_modes(context, largest_first, "k-means, largest first", count=self.atoms)

    def term(self, context: Context, unit: Unit, artefact: Modes) -> TransportTerm:
        """Return the term that guides the slots of a unit."""
        classes = []
        for index, places in context.classes_of(unit):
            name = context.classes[index].name
            sizes = torch.tensor(artefact.sizes[name], dtype=torch.float64)
            classes.append(Atoms(places, artefact.latents[name].flatten(1), sizes / sizes.sum()))
        return TransportTerm(
            classes=tuple(classes), entropy=self.entropy, window=Window(self.start, self.stop), scale=self.scale
        )

    def demand(self, context: Context) -> Demand:
        """Return that noise estimates are all that is needed."""
        return Demand()

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, and of the centres."""
        return modes_bytes(context, self.atoms)

    def record(self, context: Context, artefact: Modes) -> Record:
        """Return the sizes of the clusters and the source id nearest to each centre, by class."""
        return artefact.record()


@dataclass(frozen=True)
class DMGD(Transport, SingleGuide[Modes]):
    """Guidance by optimal transport; options as in :class:`Transport`.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="dmgd", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "dmgd"
    paper: ClassVar[str] = "Wang et al., CVPR 2026, arXiv 2605.03877"
    year: ClassVar[int | None] = 2026
    couples: ClassVar[Couples] = "class"
    presets: ClassVar[Presets] = {"window": {"start": 0.08, "stop": 0.4}}
    sampled_by: ClassVar[Mapping[str, str]] = {"window": "dit-repo"}
