"""The plan: the units of slots that are made together, as a pure function of the options.

A matrix product rounds differently at another batch size, so a resumed run only makes the same bytes if it groups slots
in the same way. A run whose ipc was raised plans each stage by itself: old slots keep their units, new slots form
their own.
"""

from __future__ import annotations

from collections.abc import Sequence

from dap.methods import Slot, Unit
from dap.methods.base import Couples

__all__ = ["plan"]


def plan(num_classes: int, stages: Sequence[int], batch_size: int, couples: Couples) -> tuple[Unit, ...]:
    """Group slots into units.

    Args:
        num_classes: Number of classes.
        stages: The ipc of each stage, rising; (10,) for a run that was never extended.
        batch_size: Slots in a unit where slots are independent.
        couples: "slot" if slots are independent; "class" if all slots of a class have to be in one unit, which then has
            as many classes as fit the batch size, at least one.

    Example:
        >>> [len(unit.slots) for unit in plan(2, (3,), 4, "slot")]
        [4, 2]
        >>> [len(unit.slots) for unit in plan(5, (3,), 6, "class")]
        [6, 6, 3]
    """
    groups: list[tuple[Slot, ...]] = []
    for low, high in zip((0, *stages), stages, strict=False):
        classes = [tuple(Slot(index, number) for number in range(low, high)) for index in range(num_classes)]
        if couples == "class":
            together = max(1, batch_size // (high - low))
            groups += [sum(classes[start : start + together], ()) for start in range(0, num_classes, together)]
        else:
            slots = [slot for class_slots in classes for slot in class_slots]
            groups += [tuple(slots[start : start + batch_size]) for start in range(0, len(slots), batch_size)]
    return tuple(Unit(index, slots) for index, slots in enumerate(groups))
