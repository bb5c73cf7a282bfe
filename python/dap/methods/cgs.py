"""cgs: move the slots of a class together until their mean is the class's mean, and push them apart by a determinant.

A term in the manner of class-wise guided synthesis (CGS), a paper of CVPR 2026 of which only notes of others could be
read: the whole batch of a class is guided at once to the class's mean, and its images repel each other by the
logarithm of a determinant, as in a determinantal point process (Kulesza and Taskar, "Determinantal Point Processes for
Machine Learning", 2012). So the parts are known, and the constants and the exact form are not. Here, with slots
x_1 … x_m of a class as rows of x̂_0, µ the mean of its real latents and s = E ‖z − µ‖² their spread, the energy is

    e = m / (2 s) ‖x̄ − µ‖²  −  repulsion / 2 · log det (K + δ I),    K_ij = exp(−‖x_i − x_j‖² / (2 s)),  δ = 0.1,

and x̂_0 moves by −scale · σ_t · s · ∇e, σ_t the ancestral sampler's noise, without a gradient through the denoiser. The
first part moves all slots by the same scale · σ_t · (µ − x̄), whatever their number, so it does not draw them together;
the second moves them where the volume that they span grows. A single slot is only pulled to the mean.

The selection of real images by a determinantal process, the paper's other half, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dap.config import check_number
from dap.methods.base import Context, Couples, Presets, Record, Unit
from dap.methods.common.class_gaussians import ClassGaussian, class_gaussians, gaussians_bytes
from dap.methods.common.guides import TERMS, Guide, SingleGuide
from dap.priors import Demand
from dap.sampling import DeltaTerm, Place, StepState, Window

__all__ = ["CGS", "ClassMean", "ClassMeanTerm", "class_energy"]

RIDGE = 0.1  # δ: without it, the push of two slots that are nearly equal has no bound


@dataclass(frozen=True)
class Center:
    """The mean of a class, and its slots in a unit.

    Attributes:
        places: Positions of the slots in the unit, int64 (m,).
        mean: µ, float32 (D,).
        spread: s.
    """

    places: Tensor
    mean: Tensor
    spread: float


def class_energy(x: Tensor, mean: Tensor, spread: float, repulsion: float) -> Tensor:
    """Return e, a scalar with the graph to ``x``.

    Args:
        x: Slots, (m, D).
        mean: µ, (D,).
        spread: s, above 0.
        repulsion: The weight of the determinant.

    Example:
        >>> class_energy(torch.tensor([[1.0, 0.0]]), torch.zeros(2), 2.0, 0.0)
        tensor(0.2500)
    """
    pull: Tensor = len(x) / (2 * spread) * (x.mean(0) - mean).square().sum()
    if len(x) == 1 or repulsion == 0:
        return pull
    products = x @ x.T
    squares = products.diagonal()
    kernel = (-(squares[:, None] + squares - 2 * products).clamp(min=0) / (2 * spread)).exp()
    return pull - repulsion / 2 * torch.logdet(kernel + RIDGE * torch.eye(len(x), dtype=x.dtype))


@dataclass(frozen=True, kw_only=True)
class ClassMeanTerm(DeltaTerm):
    """The descent of e for the slots of each class, as a change of x̂_0.

    Attributes:
        classes: The mean of each class.
        repulsion: The weight of the determinant.
    """

    classes: tuple[Center, ...]
    repulsion: float
    at: Place = "x0"

    def delta(self, state: StepState) -> Tensor:
        """Return the change of x̂_0, (B, C, h, w)."""
        rows = state.x0.detach().flatten(1).double().cpu()
        moves = torch.zeros_like(rows)
        for center in self.classes:
            with torch.enable_grad():
                own = rows[center.places].requires_grad_()
                energy = class_energy(own, center.mean.double(), center.spread, self.repulsion)
                (gradient,) = torch.autograd.grad(energy, own)
            moves[center.places] = -center.spread * gradient
        return moves.to(state.x0).view_as(state.x0) * state.std


@TERMS.register("class_mean")
@dataclass(frozen=True)
class ClassMean(Guide[dict[str, ClassGaussian]]):
    """The options of a term that moves the slots of a class to its mean, as one, and pushes them apart.

    Attributes:
        scale: At least 0; 0 switches guidance off.
        repulsion: The weight of the determinant beside the mean, at least 0.
        start: Share of the steps after which guidance starts, from 0 to 1.
        stop: Share of the steps after which it stops, from ``start`` to 1.

    Example:
        >>> ClassMean(repulsion=0.0).scale
        1.0
    """

    name: ClassVar[str] = "class_mean"

    scale: float = 1.0
    repulsion: float = 0.1
    start: float = 0.0
    stop: float = 0.5

    def __post_init__(self) -> None:
        check_number("scale", self.scale, 0)
        check_number("repulsion", self.repulsion, 0)
        Window(self.start, self.stop)

    def prepare(self, context: Context) -> dict[str, ClassGaussian]:
        """Return the mean of each class's latents and their deviation.

        Raises:
            OptionError: A class has fewer than two images.
        """
        return class_gaussians(context, 0, None)

    def term(self, context: Context, unit: Unit, artefact: dict[str, ClassGaussian]) -> ClassMeanTerm:
        """Return the term that guides the slots of a unit."""
        classes = []
        for index, places in context.classes_of(unit):
            gaussian = artefact[context.classes[index].name]
            spread = float(gaussian.deviation.double().square().sum()) or 1.0  # 0: all images are the same
            classes.append(Center(places, gaussian.mean, spread))
        return ClassMeanTerm(
            classes=tuple(classes), repulsion=self.repulsion, window=Window(self.start, self.stop), scale=self.scale
        )

    def demand(self, context: Context) -> Demand:
        """Return that noise estimates are all that is needed."""
        return Demand()

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all real images, and of the means."""
        return gaussians_bytes(context)

    def record(self, context: Context, artefact: dict[str, ClassGaussian]) -> Record:
        """Return an empty record."""
        return {}


@dataclass(frozen=True)
class CGS(ClassMean, SingleGuide[dict[str, ClassGaussian]]):
    """Guidance of a class as a whole; options as in :class:`ClassMean`.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="cgs", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "cgs"
    paper: ClassVar[str] = "CGS, CVPR 2026, from notes of others"
    year: ClassVar[int | None] = 2026
    couples: ClassVar[Couples] = "class"
    presets: ClassVar[Presets] = {}
