"""lgd: grow a set in increments; each is guided to what a network that was trained on those before can learn.

Chan-Santiago and Shah, "Learnability-Guided Diffusion for Dataset Distillation" (LGD), CVPR 2026,
https://arxiv.org/abs/2604.00519. Known from its abstract and from notes of others; its code was not found. Let
θ_{i−1} be a network trained on the first i − 1 increments of all classes, θ* one trained on the real images, x the
image that the VAE decodes from x̂_0, c its class and ℓ the cross-entropy. Increment i is sampled with

    S(x) = ℓ(f_{θ_{i−1}}(x), c) − ω ℓ(f_{θ*}(x), c)                          learnability: new, but of its class
    x_{t−1} = step(x_t, ε) + λ ρ_t ∇_{x_t} S − γ ∂cos(x_t, m*)/∂x_t.

λ is ``scale``, ω is ``validity``, γ is ``deviation``. The first increment is not guided, so its images are those of
``dit``. The sets are nested: a run of more images has those of a run of fewer, up to rounding.

Known constants, the preset "paper": increments of 10 images a class, λ = 15, ω = 0.5, γ = 50, steps 10 to 45 of 50.
Not known, and chosen here: ρ_t and the deviation, which are those of IGD (:mod:`dap.methods.igd`; the deviation is from
the latents of the class in earlier increments); that the steps are counted down from the noisiest as in IGD, a window
of 0.08 to 0.8; where S is evaluated; that each θ_i is trained from the start, like θ* but on made images and for
``learning_epochs``. A constant κ = 3 of the paper is not used, since its meaning is not known.

The networks are trained before the first unit, on increments that are sampled for them and lie in the cache
(:mod:`dap.methods.common.increments`). The images of the run are the same up to rounding, but are sampled in its own
units, so that each of its bytes depends on its plan alone. So all increments but the last are sampled twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap.config import check_number, check_whole, to_json
from dap.methods.base import Context, Couples, Method, Presets, Record, Unit
from dap.methods.common.cached_networks import Made, prepare_classifier
from dap.methods.common.classifier import Classifier, ClassifierOptions
from dap.methods.common.igd_steps import DeviationTerm, deviation_scale, sized_as_noise
from dap.methods.common.increments import Increments
from dap.methods.common.network_memory import network_bytes, training_bytes
from dap.priors import Demand, Prior
from dap.sampling import DeltaTerm, Needs, Place, StepState, Term, Window

__all__ = ["LGD", "LearnabilityTerm"]


class Grown(NamedTuple):
    """What the increments after the first are guided by.

    Attributes:
        reference: θ*.
        latents: Those of each increment but the last, by class, (size, C, h, w).
        learners: The network trained on each of these and on those before it: float images in [-1, 1] to logits.
    """

    reference: Classifier
    latents: list[tuple[Tensor, ...]]
    learners: list[nn.Module]

    def before(self, stage: int, class_index: int) -> Tensor:
        """Return the latents of a class in the increments before one that is not the first, (n, C, h, w)."""
        return torch.cat([latents[class_index] for latents in self.latents[:stage]])


@dataclass(frozen=True, kw_only=True)
class LearnabilityTerm(DeltaTerm):
    """The change ρ_t ∇S of x_{t−1}; the scale is λ.

    Attributes:
        prior: The prior, whose decoder makes images of x̂_0.
        learner: f at θ_{i−1}: float images in [-1, 1] to logits.
        reference: f at θ*.
        validity: ω.
        targets: Class number of each slot, int64 (B,).
    """

    prior: Prior
    learner: nn.Module
    reference: Classifier
    validity: float
    targets: Tensor
    at: Place = "sample"
    needs: Needs = "denoiser"

    def delta(self, state: StepState) -> Tensor:
        """Return the change, with shape (B, C, h, w)."""
        with torch.enable_grad():
            pixels = self.prior.decode_with_graph(state.x0)
            learned = functional.cross_entropy(self.learner(pixels), self.targets, reduction="sum")
            valid = functional.cross_entropy(self.reference.logits(pixels), self.targets, reduction="sum")
            (gradient,) = torch.autograd.grad(learned - self.validity * valid, state.sample, retain_graph=True)
        return sized_as_noise(gradient, state)


@dataclass(frozen=True)
class LGD(ClassifierOptions, Method[Grown]):
    """Increments of a set, each guided by the networks that were trained on those before it and on the real images.

    Attributes:
        increment: Images of a class in an increment, at least 1.
        scale: λ, at least 0.
        validity: ω, at least 0.
        deviation: γ for a latent of 4,096 values, at least 0.
        learning_epochs: Passes of each θ_i over the images made so far, at least 2.
        start: Share of the steps after which guidance starts, from 0 to 1.
        stop: Share of the steps after which it stops, from ``start`` to 1.
        teacher: θ*: a file or a name as for :func:`dap.open_teacher`; None trains it on the real images for ``epochs``.
        network, width: The network to train on made images, and on the real ones without a teacher; its channels.
        teacher_options, epochs: See :class:`dap.methods.common.classifier.ClassifierOptions`.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="lgd:fashion", ipc=10, out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "lgd"
    version: ClassVar[int] = 3
    paper: ClassVar[str] = "Chan-Santiago and Shah, CVPR 2026, arXiv 2604.00519"
    year: ClassVar[int | None] = 2026
    couples: ClassVar[Couples] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels", "classifier", "training")
    presets: ClassVar[Presets] = {
        "paper": {"increment": 10, "scale": 15.0, "validity": 0.5, "deviation": 50.0, "start": 0.08, "stop": 0.8},
        "fashion": {"increment": 2, "scale": 5.0, "validity": 2.0},
    }
    sampled_by: ClassVar[Mapping[str, str]] = {"paper": "dit-repo"}

    increment: int = 10
    scale: float = 15.0
    validity: float = 0.5
    deviation: float = 50.0
    learning_epochs: int = 100
    start: float = 0.08
    stop: float = 0.8

    def __post_init__(self) -> None:
        check_whole("increment", self.increment)
        check_whole("learning_epochs", self.learning_epochs, 2)
        for option in ("scale", "validity", "deviation"):
            check_number(option, getattr(self, option), 0)
        Window(self.start, self.stop)
        self.choice()

    def prepare(self, context: Context) -> Grown:
        """Open or train θ*, make all increments but the last and train a network on each; the cache keeps all of them.

        Raises:
            OptionError: The teacher does not fit, or the cache cannot be written.
        """
        increments, made = Increments(context, self.increment), Grown(self.choice().prepare(context), [], [])
        own = [to_json(self), made.reference.record]
        for stage in range(increments.before_last):
            latents = increments.make(stage, own, partial(self._sampled, context, stage=stage, made=made))
            made.latents.append(latents)
            made.learners.append(self._learner(context, made, increments.content(stage, own)))
        return made

    def make(self, context: Context, unit: Unit, artefact: Grown) -> Tensor:
        """Return latents of the unit's slots."""
        latents = torch.empty(len(unit.slots), *context.prior.latent_shape)
        stages = torch.tensor([slot.number // self.increment for slot in unit.slots])
        for stage in stages.unique().tolist():
            places = torch.nonzero(stages == stage).flatten().tolist()
            part = Unit(unit.index, tuple(unit.slots[place] for place in places))
            latents[places] = self._sampled(context, part, stage, artefact).cpu()
        return latents

    def record(self, context: Context, artefact: Grown) -> Record:
        """Return the teacher's name and hash, or the epochs of θ*."""
        return artefact.reference.record

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return that a graph leads through decoder and denoiser, and two networks: a run may grow."""
        return (Demand(denoiser=True, decoder=True, own=2 * network_bytes(context, self.network, self.width)),)

    def preparation_bytes(self, context: Context) -> int:
        """Return the memory of training a network, with the made images that it is trained on."""
        increments = Increments(context, self.increment)
        if not increments.before_last:
            return self.choice().preparation_bytes(context)
        made = increments.before_last * increments.images * context.channels * context.size**2
        return training_bytes(context, self.network, self.width) + made

    def disk(self, context: Context) -> int:
        """Return the bytes of the latents of all increments but the last."""
        increments = Increments(context, self.increment)
        return increments.before_last * increments.bytes

    def shared(self) -> str | None:
        """Return that the networks are trained on all classes."""
        return "networks that are trained on the images of all classes"

    def _sampled(self, context: Context, unit: Unit, stage: int, made: Grown) -> Tensor:
        """Return latents of slots of one increment, (B, C, h, w)."""
        terms: list[Term] = []
        if stage:
            prior, window = context.prior, Window(self.start, self.stop)
            targets = torch.tensor([slot.class_index for slot in unit.slots], device=prior.device)
            memories = tuple(made.before(stage, slot.class_index).to(prior.device) for slot in unit.slots)
            learnability = LearnabilityTerm(
                prior=prior, learner=made.learners[stage - 1], reference=made.reference, validity=self.validity,
                targets=targets, window=window, scale=self.scale,
            )  # fmt: skip
            scale = deviation_scale(self.deviation, prior.latent_shape)
            terms = [learnability, DeviationTerm(memories=memories, window=window, scale=scale)]
        return context.sample(unit, terms)

    def _learner(self, context: Context, made: Grown, content: object) -> nn.Module:
        """Train a network on all increments that are made, or find it in the cache."""
        stage = len(made.latents)
        of_class = [made.before(stage, index) for index in range(len(context.classes))]
        labels = torch.arange(len(of_class)).repeat_interleave(stage * self.increment)
        return prepare_classifier(
            context, self.network, self.width, self.learning_epochs,
            Made(lambda: context.prior.decode(torch.cat(of_class)), labels, content, f"network of {stage} increments"),
        )  # fmt: skip
