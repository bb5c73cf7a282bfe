"""igd: guide each sample so that a training step on it resembles a step on the real images of its class.

Chen, Du, Huang, Wang, Zhang and Wang, "Influence-Guided Diffusion for Dataset Distillation" (IGD), ICLR 2025,
https://openreview.net/forum?id=0whx8MhysK, code at https://github.com/mchen725/DD_IGD. Let x̂_0 be the estimate of x_0
at x_t, x the image that the VAE decodes from x̂_0, f a classifier at checkpoints θ_1 … θ_E of its training on the real
images, the first of them untrained, ḡ_c(θ) the mean gradient of class c (:mod:`dap.methods.common.surrogate`), and m*
that of the finished latents of the class (the last 64) whose cosine with x_t is the largest. The released step is

    G_I = (1/E) Σ_e [ 1 − cos( ḡ_c(θ_e), ∇_θ ℓ(f_θe(x), c) ) ],    g = ∇_{x_t} G_I                     influence
    x_{t−1} = step(x_t, ε) − γ ∂cos(x_t, m*)/∂x_t − k ρ_t g,                                           and deviation
    ρ_t = 0.0015 · √(1 − ᾱ_t) · RMS(ε) / RMS(g),

with ε after classifier-free guidance; k is ``scale``, γ is ``deviation``. g goes through the decoder and the whole
denoiser, the deviation acts on x_t itself. The influence moves x by 0.0015 k times the size of its noise, whatever the
size of g. The deviation's move relative to x_t falls with the number D of values in a latent, so γ is multiplied by
D / 4096, which is 1 for DiT-XL/2 at 256 pixels.

The code guides while 30 <= i <= 45, where i counts 50 steps from 49 (noisiest) down to 0. These are the steps 4 to 19
from the noisiest, a window of 0.08 to 0.4. Its constants, as presets:

    DiT                k = 5, γ = 120 ("paper"); γ = 50 at 10 images per class ("paper_ipc10")
    DiT fine-tuned     k = 10, γ = 100 for ImageNet-1K, and for ImageWoof beyond 10 images per class ("minimax");
    by Minimax         k = 10, γ = 50 for ImageWoof at 10 images per class ("minimax_woof_ipc10");
                       k = 15, γ = 10 for ImageNette ("minimax_nette")

The default is "paper_ipc10". The preset "fashion" is for the built-in prior (``docs/guidance.md``).

Image n of a class depends on the images before it. Classes do not depend on each other, so the images with one number
are sampled together, one of each class in the unit, which has as many classes as a batch has slots. In a sum of terms
(:class:`Influence`) all slots are sampled at once and no image is finished, so the deviation is left out.

Differences from the released code:

- It decodes both halves of the batch of classifier-free guidance, so that the image of the null half enters G_I. This
  fault is not copied.
- It samples one image at a time; here steps are batched over classes. Real gradients are computed once and cached.
- The noise of a slot depends only on (seed, class, number); there it depends on everything that was sampled before.
- Where g is zero nothing is added. The cosines have no 1e-6 in their denominators, only torch's own 1e-8.
- The surrogate's checkpoints are chosen in each run by the rule with which theirs were chosen once, for each data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dap.config import check_number, check_whole
from dap.methods.base import Context, Couples, Presets, Record, Slot, Unit
from dap.methods.common.guides import TERMS, Guide, SingleGuide
from dap.methods.common.igd_steps import DeviationTerm, deviation_scale, sized_as_noise
from dap.methods.common.network_memory import gradient_bytes, surrogate_bytes, training_bytes
from dap.methods.common.surrogate import Surrogate, SurrogateTraining, prepare_surrogate
from dap.priors import Demand, Prior
from dap.sampling import DeltaTerm, Needs, Place, StepState, Window

__all__ = ["IGD", "Influence", "InfluenceTerm"]


@TERMS.register("influence")
@dataclass(frozen=True)
class Influence(SurrogateTraining, Guide[Surrogate]):
    """The options of a term with the influence.

    Attributes:
        network, width, epochs, checkpoints, similarity, references: Options of the surrogate; see
            :class:`dap.methods.common.surrogate.SurrogateTraining`.
        scale: k in the published units, at least 0; 0 switches guidance off.
        start: Share of the steps after which guidance starts, from 0 to 1.
        stop: Share of the steps after which it stops, from ``start`` to 1.

    Example:
        >>> Influence(scale=10.0).window
        Window(start=0.08, stop=0.4)
    """

    name: ClassVar[str] = "influence"
    version: ClassVar[int] = 4

    scale: float = 5.0
    start: float = 0.08
    stop: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("scale", self.scale, 0)
        Window(self.start, self.stop)

    @property
    def window(self) -> Window:
        """Return the guided steps."""
        return Window(self.start, self.stop)

    def prepare(self, context: Context) -> Surrogate:
        """Train the surrogate and average its gradients, or find both in the cache."""
        return prepare_surrogate(context, self._training)

    def demand(self, context: Context) -> Demand:
        """Return that a graph leads through decoder and denoiser, with the surrogate's gradients beside it."""
        return (
            Demand(denoiser=True, decoder=True, own=gradient_bytes(context, self._training)) if self.scale else Demand()
        )

    def preparation_bytes(self, context: Context) -> int:
        """Return the memory of training the surrogate."""
        return training_bytes(context, self.network, self.width)

    def shared(self) -> str | None:
        """Return the surrogate, which tells all classes of the run apart."""
        return "a surrogate, which is trained on all classes"

    def disk(self, context: Context) -> int:
        """Return the bytes of the surrogate."""
        return surrogate_bytes(context, self._training)

    @property
    def _training(self) -> SurrogateTraining:
        return SurrogateTraining(
            self.network, self.width, self.epochs, self.checkpoints, self.similarity, self.references
        )

    def term(self, context: Context, unit: Unit, artefact: Surrogate) -> InfluenceTerm:
        """Return the term for the slots of a unit."""
        prior = context.prior
        classes = [slot.class_index for slot in unit.slots]
        return InfluenceTerm(
            prior=prior, surrogate=artefact, targets=torch.tensor(classes, device=prior.device),
            references=artefact.real_gradients(classes).to(prior.device),
            window=self.window, scale=self.scale,
        )  # fmt: skip

    def record(self, context: Context, artefact: Surrogate) -> Record:
        """Return the epochs after which the surrogate's checkpoints were kept."""
        return {"epochs": list(artefact.epochs)}


@dataclass(frozen=True, kw_only=True)
class InfluenceTerm(DeltaTerm):
    """The change −ρ_t g of x_{t−1}; the scale is k.

    Attributes:
        prior: The prior, whose decoder makes images of x̂_0.
        surrogate: The classifier.
        targets: Class number of each slot, int64 (B,).
        references: ḡ of each slot's class, (E, B, P).
    """

    prior: Prior
    surrogate: Surrogate
    targets: Tensor
    references: Tensor
    at: Place = "sample"
    needs: Needs = "denoiser"

    def delta(self, state: StepState) -> Tensor:
        """Return the change, with shape (B, C, h, w)."""
        with torch.enable_grad():
            pixels = self.prior.decode_with_graph(state.x0)
            leaf = pixels.detach().requires_grad_()  # cuts the graph, so that memory holds one checkpoint at a time
            slope = torch.zeros_like(pixels)
            for number, reference in enumerate(self.references):
                gradients = self.surrogate.gradients_of(number, leaf, self.targets)
                mismatch = 1 - functional.cosine_similarity(gradients, reference)
                slope = slope + torch.autograd.grad(mismatch.sum(), leaf)[0] / len(self.references)
            (gradient,) = torch.autograd.grad(pixels, state.sample, slope, retain_graph=True)
        return -sized_as_noise(gradient, state)


@dataclass(frozen=True)
class IGD(Influence, SingleGuide[Surrogate]):
    """Influence and deviation as a method; options as in :class:`Influence`, and two for the deviation.

    Attributes:
        deviation: γ for a latent of 4,096 values, at least 0; with 0 only the influence acts.
        memory: How many finished latents of a class are kept for the deviation, at least 1.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="igd:fashion", out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "igd"
    paper: ClassVar[str] = "Chen et al., ICLR 2025, openreview.net/forum?id=0whx8MhysK"
    year: ClassVar[int | None] = 2025
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels", "classifier", "training")
    couples: ClassVar[Couples] = "sequence"
    presets: ClassVar[Presets] = {
        "paper": {"scale": 5.0, "deviation": 120.0, "start": 0.08, "stop": 0.4, "memory": 64},
        "paper_ipc10": {"scale": 5.0, "deviation": 50.0},
        "minimax": {"scale": 10.0, "deviation": 100.0},
        "minimax_woof_ipc10": {"scale": 10.0, "deviation": 50.0},
        "minimax_nette": {"scale": 15.0, "deviation": 10.0},
        "fashion": {"scale": 3.3, "deviation": 50.0, "width": 32, "epochs": 5},
    }
    sampled_by: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("paper", "paper_ipc10", "minimax", "minimax_woof_ipc10", "minimax_nette"), "dit-repo"
    )

    deviation: float = 50.0
    memory: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("deviation", self.deviation, 0)
        check_whole("memory", self.memory)

    def make(self, context: Context, unit: Unit, artefact: Surrogate) -> Tensor:
        """Return guided latents of the unit's slots, which are sampled number after number."""
        latent_of: dict[Slot, Tensor] = {}
        finished: dict[int, list[Tensor]] = {slot.class_index: [] for slot in unit.slots}
        for number in sorted({slot.number for slot in unit.slots}):
            row = Unit(unit.index, tuple(slot for slot in unit.slots if slot.number == number))
            latents = context.sample(row, self._terms(context, row, artefact, finished))
            for slot, latent in zip(row.slots, latents, strict=True):
                latent_of[slot] = latent
                finished[slot.class_index] = [*finished[slot.class_index], latent][-self.memory :]
        return torch.stack([latent_of[slot] for slot in unit.slots])

    def _terms(
        self, context: Context, unit: Unit, artefact: Surrogate, finished: Mapping[int, list[Tensor]]
    ) -> list[InfluenceTerm | DeviationTerm]:
        influence = self.term(context, unit, artefact)
        if not any(finished[slot.class_index] for slot in unit.slots):
            return [influence]
        empty = influence.references.new_zeros(0, *context.prior.latent_shape)
        latents = (finished[slot.class_index] for slot in unit.slots)
        memories = tuple(torch.stack(memory) if memory else empty for memory in latents)
        scale = deviation_scale(self.deviation, context.prior.latent_shape)
        return [influence, DeviationTerm(memories=memories, window=self.window, scale=scale)]
