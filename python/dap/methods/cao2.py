"""cao2: more samples than are wanted, of which a classifier keeps some; those are moved to where the denoiser is sure.

Wang et al., "CaO2: Rectifying Inconsistencies in Diffusion-Based Dataset Distillation", ICCV 2025,
https://arxiv.org/abs/2506.22637, code at https://github.com/hatchetProject/CaO2.

1. For each image ``candidates`` samples of its class are drawn. A classifier takes those that it assigns to the class
   before the others, each by its largest probability p: the surest first, or with ``surest=False`` the least sure.
2. The latent z of each is optimised by Adam on

       L(z) = mean (ε − ε_θ(x_t, t, ∅))² + 10 max |ε − ε_θ(x_t, t, ∅)|,    x_t = α_t z + σ_t ε,

   under the null condition, with one fixed noise ε for each image and t drawn in each step from the 11 least noisy of
   the run's steps but the very first.

Published constants: 4 candidates for each image (the script for ImageWoof has 2), guidance 2.7, 50 ancestral steps, a
ResNet-18 of torchvision, the surest for ipc 10 and the least sure for ipc 50, 100 steps of Adam at 6e-4. They are the
defaults and the presets "paper" and "paper_ipc50", but for guidance, steps and sampler, which are options of the run
(``sampling="dit-repo"``), and the classifier: the user gives it as ``teacher=``, otherwise the run trains a small one
on its real images.

In the released code the noise of x_t is that of step t of 50, while the network is told the timestep t of 1,000: 11 and
not 220. So it does here with ``raw_time``, which the presets have; by default the network is told the timestep of the
step. Differences from the released code: its noises are 1,024 fixed ones, of which an image draws one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dap import rng
from dap.config import check_number, check_whole
from dap.data.classmap import null_label
from dap.errors import DivergedError, OptionError
from dap.methods.base import Context, Couples, Presets, Slot, Unit
from dap.methods.common.classifier import Classifier, ClassifierMethod
from dap.priors import Demand
from dap.priors.noise_levels import denoiser_level
from dap.sampling import denoise_in_parts
from dap.sampling.schedule import scheduler_of

__all__ = ["CaO2", "kept_by"]

LARGEST = 10.0  # the weight of the largest error
SHARE = 4  # of the run's steps, the last n // SHARE − 1 but one are drawn from


@dataclass(frozen=True)
class CaO2(ClassifierMethod):
    """Samples that a classifier keeps, optimised under the null condition.

    Attributes:
        candidates: Samples for each image, at least 1.
        surest: Keep those of which the classifier is surest; otherwise the least sure.
        steps: Steps of Adam for each image, at least 0.
        learning_rate: Its rate, above 0.
        raw_time: Tell the network the number of the step in place of its timestep, as the released code does.
        teacher: The classifier: a file or a name as for :func:`dap.open_teacher`; None trains one on the real images.
        teacher_options, network, width, epochs: See :class:`dap.methods.common.classifier.ClassifierOptions`.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="cao2", out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "cao2"
    paper: ClassVar[str] = "Wang et al., ICCV 2025, arXiv 2506.22637"
    year: ClassVar[int | None] = 2025
    couples: ClassVar[Couples] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels", "classifier")
    version: ClassVar[int] = 3
    presets: ClassVar[Presets] = {
        "paper": {"candidates": 4, "steps": 100, "learning_rate": 6e-4, "raw_time": True},
        "paper_ipc50": {"candidates": 4, "steps": 100, "learning_rate": 6e-4, "raw_time": True, "surest": False},
    }

    candidates: int = 4
    surest: bool = True
    steps: int = 100
    learning_rate: float = 6e-4
    raw_time: bool = False

    def __post_init__(self) -> None:
        check_whole("candidates", self.candidates)
        check_whole("steps", self.steps, 0)
        check_number("learning_rate", self.learning_rate, above=0)
        for option in ("surest", "raw_time"):
            if not isinstance(getattr(self, option), bool):
                raise OptionError(f"{option}: expected true or false, got {getattr(self, option)!r}")
        self.choice()

    def prepare(self, context: Context) -> Classifier:
        """Open the teacher or train the classifier.

        Raises:
            OptionError: The run has too few steps, the prior has no null condition, or the teacher does not fit.
        """
        if self.steps:
            self.times(context)
            if not context.prior.has_null:
                raise OptionError(f"method 'cao2': {context.prior.name} has no null condition; choose steps=0")
        return self.choice().prepare(context)

    def times(self, context: Context) -> range:
        """Return the numbers of the steps that t is drawn from, counted from the least noise.

        Raises:
            OptionError: The run has too few steps.
        """
        steps = context.settings.num_inference_steps
        if steps // SHARE < 2:
            raise OptionError(f"num_inference_steps: method 'cao2' needs at least {2 * SHARE}, got {steps}")
        return range(1, steps // SHARE)

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return that the samples need noise estimates alone, and the optimisation a graph through the denoiser."""
        return (Demand(), Demand(denoiser=True)) if self.steps else (Demand(),)

    def steps_per_slot(self, context: Context) -> int:
        """Return the steps of all candidates, and those of Adam."""
        return self.candidates * context.num_steps() + self.steps

    def make(self, context: Context, unit: Unit, artefact: Classifier) -> Tensor:
        """Return latents of the unit's slots."""
        latents = self._kept(context, unit, artefact)
        return self._optimised(context, unit, latents.to(context.prior.device)) if self.steps else latents

    def _kept(self, context: Context, unit: Unit, classifier: Classifier) -> Tensor:
        """Return the candidates that the classifier keeps, one for each slot of the unit, on the CPU."""
        classes, slots = context.classes_of(unit), list[Slot]()
        for index, places in classes:
            again, count = unit.slots[int(places[0])].again, context.ipc_of(index)
            slots += [Slot(index, number, again) for number in range(self.candidates * count)]
        size = len(unit.slots)  # as many at once as the unit has, for which the memory is planned
        parts = [tuple(slots[start : start + size]) for start in range(0, len(slots), size)]
        made = torch.cat([context.sample(Unit(0, part)) for part in parts])
        latents = torch.empty(size, *context.prior.latent_shape)
        for index, places in classes:
            candidates = made[[place for place, slot in enumerate(slots) if slot.class_index == index]]
            images = context.prior.decode(candidates).float() / 127.5 - 1
            probabilities = classifier.probabilities(images, context.prior.device)
            chosen = kept_by(probabilities, index, context.ipc_of(index), self.surest)
            latents[places] = candidates.cpu()[chosen[[unit.slots[place].number for place in places.tolist()]]]
        return latents

    def _optimised(self, context: Context, unit: Unit, latents: Tensor) -> Tensor:
        """Return the latents after Adam's steps."""
        prior, numbers = context.prior, self.times(context)
        names = [context.classes[slot.class_index].name for slot in unit.slots]
        draws = [
            rng.generator(context.seed, self.name, name, *slot.key)
            for name, slot in zip(names, unit.slots, strict=True)
        ]
        noise = torch.stack([torch.randn(prior.latent_shape, generator=draw) for draw in draws]).to(prior.device)
        labels = torch.tensor([null_label(name) for name in names]).to(prior.device)
        scheduler, schedule = scheduler_of(prior, context.settings), prior.noise_schedule()
        z = latents.clone().requires_grad_()
        adam = torch.optim.Adam([z], lr=self.learning_rate)
        for iteration in range(self.steps):
            chosen = torch.tensor([numbers[int(torch.randint(len(numbers), (), generator=draw))] for draw in draws])
            times = scheduler.timesteps.cpu()[-1 - chosen]
            alpha, sigma = (part.view(-1, 1, 1, 1).to(z) for part in denoiser_level(schedule, times))
            with torch.enable_grad():
                eps = denoise_in_parts(
                    prior, alpha * z + sigma * noise, chosen if self.raw_time else times, labels,
                    pass_size=context.pass_size, through=True,
                ).eps  # fmt: skip
                error = noise - eps
                loss = error.square().mean((1, 2, 3)) + LARGEST * error.abs().amax((1, 2, 3))
                (z.grad,) = torch.autograd.grad(loss.sum(), z)
            adam.step()
            if context.callback_on_step_end is not None:
                context.callback_on_step_end(prior, iteration, 0, {"latents": z.detach()})
        if not torch.isfinite(z).all():
            raise DivergedError("the latents left the finite numbers: lower learning_rate")
        return z.detach()


def kept_by(probabilities: Tensor, class_index: int, count: int, surest: bool) -> Tensor:
    """Return which samples a classifier keeps, best first, int64 (count,).

    Those that are assigned to the class come before the others, each by their largest probability.

    Args:
        probabilities: Of each class, (N, classes).
        class_index: The class that they are samples of.
        count: How many are kept.
        surest: The largest probability first; otherwise the smallest.

    Example:
        >>> kept_by(torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2]]), 0, 2, True)
        tensor([2, 0])
    """
    sure, assigned = probabilities.max(1)
    order = sure.argsort(descending=surest, stable=True)
    right = assigned[order] == class_index
    return torch.cat([order[right], order[~right]])[:count]
