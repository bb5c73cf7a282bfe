"""Times the sampling of a unit by a few of its steps.

Steps differ by the terms that are active in them. Of the steps with the same terms two are taken, and the time of the
later one stands for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise

import torch
from torch import Tensor

from dap.methods import Context, Unit
from dap.priors import Prior
from dap.run.stopwatch import NO_TIME, Spent, Stopwatch
from dap.sampling import Term, sample

__all__ = ["Enough", "Sampled", "TrialContext"]

CALLS = 2  # of `sample` in a unit that are timed; those after them are taken to be like the last one
ITERATIONS = 4  # of a method with a loop of its own: the first one is not counted


class Enough(Exception):
    """A method with a loop of its own has run for as many iterations as are timed."""


@dataclass
class Sampled:
    """What was measured of a unit.

    Attributes:
        whole: The time of all of its sampling.
        really: The time that was really spent on sampling.
        calls: How often the method has sampled.
        slots: The most slots that were sampled at once.
        guided: Slots times steps in which a term acts.
        plain: Slots times the other steps.
        iterated: Slots times iterations of a loop of the method's own, but for the first iteration.
    """

    device: torch.device
    whole: Spent = NO_TIME
    really: Spent = NO_TIME
    calls: int = 0
    slots: int = 0
    guided: int = 0
    plain: int = 0
    iterated: int = 0
    _rates: Spent = NO_TIME
    _latents: Tensor | None = None
    _watch: Stopwatch | None = None
    _stamps: list[Spent] = field(default_factory=list)

    def sample(
        self, context: Context, unit: Unit, terms: Sequence[Term], recurrences: int, init: Tensor | None,
        strength: float,
    ) -> Tensor:  # fmt: skip
        """Take a few steps of a unit, and return latents of its shape."""
        total, slots = context.num_steps(), len(unit.slots)
        first = 0 if init is None else total - context.num_steps(strength)
        alike: dict[tuple[int, ...], list[int]] = {}
        for step in range(first, total):
            active = [n for n, term in enumerate(terms) if term.scale != 0 and term.window.contains(step, total)]
            alike.setdefault(tuple(active), []).append(step)
        self.calls, self.slots = self.calls + 1, max(self.slots, slots)
        for terms_active, steps in alike.items():
            passes = len(steps) * slots * (recurrences if terms_active else 1)
            self.guided += passes if terms_active else 0
            self.plain += 0 if terms_active else passes
        if self.calls <= CALLS or self._latents is None:
            self._time(context, unit, terms, recurrences, init, strength, list(alike.values()))
        self.whole += self._rates * slots
        latents: Tensor = self._latents  # type: ignore[assignment]  # of the call above
        return latents[torch.arange(slots) % len(latents)]

    def _time(
        self, context: Context, unit: Unit, terms: Sequence[Term], recurrences: int, init: Tensor | None,
        strength: float, alike: list[list[int]],
    ) -> None:  # fmt: skip
        taken = sorted({step for steps in alike for step in (steps[0], steps[len(steps) // 2])})
        watch, stamps = Stopwatch(self.device), [NO_TIME]

        def on_step(prior: Prior, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            stamps.append(watch.read())
            return tensors

        self._latents = sample(
            context.prior, context.labels(unit), context.generators(unit), settings=context.settings, terms=terms,
            recurrences=recurrences, init=init, strength=strength, pass_size=context.pass_size, steps=taken,
            callback_on_step_end=on_step,
        )  # fmt: skip
        really = watch.read()
        times = {step: after - before for step, (before, after) in zip(taken, pairwise(stamps), strict=True)}
        rates = NO_TIME
        for steps in alike:
            rates += times[steps[len(steps) // 2]] * len(steps)
        self._rates = rates * (1 / len(unit.slots))
        self.really += really

    def on_iteration(self, prior: Prior, step: int, timestep: int, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Count an iteration of a method with a loop of its own; raise :class:`Enough` after some."""
        if self._watch is None:
            self._watch = Stopwatch(self.device)
            return tensors
        self._stamps.append(self._watch.read())
        self.iterated += len(tensors["latents"])
        if len(self._stamps) + 1 >= ITERATIONS:
            raise Enough
        return tensors

    @property
    def iteration(self) -> Spent | None:
        """The time of an iteration of one slot, in a loop of the method's own; None: there was none."""
        return self._stamps[-1] * (1 / self.iterated) if self._stamps else None


@dataclass(frozen=True)
class TrialContext(Context):
    """A run as its method sees it while a unit is timed.

    Attributes:
        sampled: What was measured.
    """

    sampled: Sampled = field(default_factory=lambda: Sampled(torch.device("cpu")))

    @classmethod
    def of(cls, context: Context, sampled: Sampled) -> TrialContext:
        """Return a context that measures what is sampled."""
        values = {entry.name: getattr(context, entry.name) for entry in fields(Context)}
        return cls(**{**values, "callback_on_step_end": sampled.on_iteration}, sampled=sampled)

    def sample(
        self, unit: Unit, terms: Sequence[Term] = (), *, recurrences: int = 1, init: Tensor | None = None,
        strength: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Return latents of a unit's slots after a few steps, (B, C, h, w)."""
        return self.sampled.sample(self, unit, terms, recurrences, init, strength)
