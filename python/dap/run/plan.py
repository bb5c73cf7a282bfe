"""The plan: the units of slots that are made together, as a pure function of the options.

A matrix product rounds differently at another batch size, so a resumed run only makes the same bytes if it groups slots
in the same way. A run whose ipc was raised plans each stage by itself: old slots keep their units, new slots form
their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import overload

from dap.methods import Slot, Unit
from dap.methods.base import Couples

__all__ = ["Plan", "plan"]


class Plan(Sequence[Unit]):
    """The units of a run, in order. Each is computed when it is asked for, so that a long plan takes no memory.

    Args:
        num_classes: Number of classes.
        stages: The ipc of each stage, rising; (10,) for a run that was never extended.
        batch_size: Slots that are made at once.
        couples: "slot" if slots are independent, so that a unit has as many; "class" if all slots of a class have to be
            in one unit, which then has as many classes as fit the batch size, at least one; "sequence" if the slots of
            a class are made one after the other, so that a unit has as many classes.
    """

    def __init__(self, num_classes: int, stages: Sequence[int], batch_size: int, couples: Couples) -> None:
        self._stages = list(pairwise((0, *stages)))
        # slots that are made together; those of a class follow each other
        self._sizes = [_unit_size(high - low, batch_size, couples) for low, high in self._stages]
        self._slots = [num_classes * (high - low) for low, high in self._stages]
        units = [-(-slots // size) for slots, size in zip(self._slots, self._sizes, strict=True)]
        self._ends = list(accumulate(units))

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
        stage = next(stage for stage, end in enumerate(self._ends) if number < end)
        first = (number - (self._ends[stage - 1] if stage else 0)) * self._sizes[stage]
        low, high = self._stages[stage]
        slots = (divmod(slot, high - low) for slot in range(first, min(first + self._sizes[stage], self._slots[stage])))
        return Unit(number, tuple(Slot(class_index, low + slot) for class_index, slot in slots))


def _unit_size(slots: int, batch_size: int, couples: Couples) -> int:
    """Return how many slots a unit has, for classes of some slots."""
    if couples == "slot":
        return batch_size
    return slots * (batch_size if couples == "sequence" else max(1, batch_size // slots))


def plan(num_classes: int, stages: Sequence[int], batch_size: int, couples: Couples) -> Plan:
    """Group slots into units; the arguments are those of :class:`Plan`.

    Example:
        >>> [len(unit.slots) for unit in plan(2, (3,), 4, "slot")]
        [4, 2]
        >>> [len(unit.slots) for unit in plan(5, (3,), 6, "class")]
        [6, 6, 3]
        >>> [len(unit.slots) for unit in plan(5, (3,), 2, "sequence")]
        [6, 6, 3]
    """
    return Plan(num_classes, stages, batch_size, couples)
