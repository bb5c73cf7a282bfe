"""The plan: which slots are made together. A pure function of the options, so that a resumed run makes the same bytes.

A GEMM rounds differently at another batch size, so the grouping of slots into units is part of the plan. A run whose
ipc was raised later plans each stage by itself: what was there keeps its units, and the new slots form their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dap.methods import Slot, Unit

__all__ = ["plan"]


def plan(
    num_classes: int, stages: Sequence[int], batch_size: int, couples: Literal["slot", "class"]
) -> tuple[Unit, ...]:
    """Groups slots into units.

    Args:
        num_classes: Number of classes.
        stages: The ipc of each stage, rising; (10,) for a run that was never extended.
        batch_size: Slots in a unit where slots are independent.
        couples: What the method couples; "class" keeps each class whole: as many as fit the batch size make a unit, at
            least one.

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
            slots = [slot for own in classes for slot in own]
            groups += [tuple(slots[start : start + batch_size]) for start in range(0, len(slots), batch_size)]
    return tuple(Unit(index, slots) for index, slots in enumerate(groups))
