"""The plan: the units of slots that are made together, as a pure function of the options and the run's history.

A matrix product rounds differently at another batch size, so a resumed run only makes the same bytes if it groups slots
in the same way. A run that grew, by images or by classes, plans each stage by itself: old slots keep their units, new
slots form their own. So do slots that are made again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from typing import NamedTuple, overload

from dap.methods import Slot, Unit
from dap.methods.base import Couples

__all__ = ["Plan", "Round", "plan"]

Round = Mapping[int, Sequence[int]]
"""The slots that were made again at one time: their numbers by class index."""


class Run(NamedTuple):
    """Slots of a class whose numbers follow each other, from ``low`` to below ``high``."""

    class_index: int
    low: int
    high: int


class Part:
    """Slots that are planned together: those of a stage, or those made again at one time.

    Args:
        runs: The slots in order. Where a class's slots are coupled, a class has one run.
        batch_size: Slots that are made at once.
        couples: See :class:`Plan`.
    """

    def __init__(self, runs: Sequence[Run], batch_size: int, couples: Couples) -> None:
        self._runs = runs
        self._ends = list(accumulate(run.high - run.low for run in runs))
        self._total = self._ends[-1] if self._ends else 0
        self._starts: Sequence[int] = range(0, self._total, batch_size)  # the first slot of each unit
        if couples == "sequence":
            self._starts = [0, *self._ends[batch_size - 1 : -1 : batch_size]]
        elif couples == "class":
            self._starts = list(self._whole_classes(batch_size))

    def _whole_classes(self, batch_size: int) -> Iterator[int]:
        start = 0
        for first, end in zip((0, *self._ends), self._ends, strict=False):
            if first == 0 or end - start > batch_size:
                start = first
                yield start

    def __len__(self) -> int:
        return len(self._starts)

    def slots(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield class index and number of the slots of unit ``number`` of the part."""
        first = self._starts[number]
        last = self._starts[number + 1] if number + 1 < len(self._starts) else self._total
        for place in range(bisect_right(self._ends, first), len(self._runs)):
            class_index, low, high = self._runs[place]
            begin = self._ends[place] - (high - low)
            if begin >= last:
                break
            yield from ((class_index, low + n - begin) for n in range(max(first, begin), min(last, self._ends[place])))


class Plan(Sequence[Unit]):
    """The units of a run, in order. Each is computed when it is asked for, so that a long plan takes no memory.

    Args:
        stages: For each stage the number of images of each class after it; they rise. A run that was never extended has
            one stage.
        batch_size: Slots that are made at once.
        couples: "slot" if slots are independent, so that a unit has as many; "class" if all slots of a class have to be
            in one unit, which then has as many classes as fit the batch size, at least one; "sequence" if the slots of
            a class are made one after the other, so that a unit has as many classes.
        rounds: The slots that were made again, in the order of time. Where slots are coupled, the others of their class
            are in the unit too, for "sequence" those before; they are sampled, but their images stay as they are.
    """

    def __init__(
        self, stages: Sequence[Sequence[int]], batch_size: int, couples: Couples, rounds: Sequence[Round] = ()
    ) -> None:
        before: Sequence[int] = (0,) * len(stages[0])
        self._parts = []
        for stage in stages:
            bounds = zip(range(len(stage)), before, stage, strict=True)
            runs = [Run(*bound) for bound in bounds if bound[1] < bound[2]]
            self._parts.append(Part(runs, batch_size, couples))
            before = stage
        self._stages = len(stages)
        self._rounds = [{(index, number) for index, numbers in sorted(r.items()) for number in numbers} for r in rounds]
        for slots in rounds:
            self._parts.append(Part(list(_runs_again(slots, before, couples)), batch_size, couples))
        self._ends = list(accumulate(map(len, self._parts)))
        self._last = {slot: time for time, slots in enumerate(self._rounds, 1) for slot in slots}

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Unit: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Unit]: ...

    def __getitem__(self, index: int | slice) -> Unit | Sequence[Unit]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]  # raises IndexError beyond the end, as iteration needs
        part = bisect_right(self._ends, number)
        slots = list(self._parts[part].slots(number - (self._ends[part - 1] if part else 0)))
        again = Counter(slot for earlier in self._rounds[: self._time(part)] for slot in earlier.intersection(slots))
        return Unit(number, tuple(Slot(*slot, again=again[slot]) for slot in slots))

    def written(self, unit: Unit) -> list[Slot]:
        """Return the slots of a unit whose images are kept: a later unit may have made some of them again."""
        time = self._time(bisect_right(self._ends, unit.index))
        return [slot for slot in unit.slots if self._last.get((slot.class_index, slot.number), 0) == time]

    def _time(self, part: int) -> int:
        """Return the number of the round that a part belongs to, from 1; 0 for a stage."""
        return max(0, part - self._stages + 1)


def _runs_again(slots: Round, counts: Sequence[int], couples: Couples) -> Iterator[Run]:
    """Yield the slots of a round, where they are coupled with those that they depend on."""
    for index, numbers in sorted(slots.items()):
        if couples == "slot":
            for _, neighbours in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
                run = [number for _, number in neighbours]
                yield Run(index, run[0], run[-1] + 1)
        else:
            yield Run(index, 0, counts[index] if couples == "class" else max(numbers) + 1)


def plan(stages: Sequence[Sequence[int]], batch_size: int, couples: Couples, rounds: Sequence[Round] = ()) -> Plan:
    """Group slots into units; the arguments are those of :class:`Plan`.

    Example:
        >>> [len(unit.slots) for unit in plan([(3, 3)], 4, "slot")]
        [4, 2]
        >>> [len(unit.slots) for unit in plan([(3, 3, 3, 3, 3)], 6, "class")]
        [6, 6, 3]
        >>> [len(unit.slots) for unit in plan([(3, 1, 3, 2, 3)], 2, "sequence")]
        [4, 5, 3]
    """
    return Plan(stages, batch_size, couples, rounds)
