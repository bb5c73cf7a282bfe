"""random: a seeded real subset, the baseline that every distilled set has to beat.

Unlike the selector of that name in the released scripts, which takes the first files of a listing, it draws. The first
k images of a larger set are the set of k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from dap.errors import OptionError
from dap.methods.base import Context, Unit
from dap.selection import random_per_class

__all__ = ["Random"]


@dataclass(frozen=True)
class Random:
    """Real images, drawn without replacement within each class.

    Example:
        >>> import dap
        >>> subset = dap.distill("fashion-mini", method="random", ipc=1, out="subset")  # doctest: +SKIP
    """

    name: ClassVar[str] = "random"
    paper: ClassVar[str] = "a seeded draw; no paper"
    year: ClassVar[int | None] = None
    couples: ClassVar[Literal["slot", "class"]] = "slot"
    needs: ClassVar[tuple[str, ...]] = ("labels",)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def prepare(self, context: Context) -> dict[tuple[int, int], int]:
        """The source index of each slot."""
        chosen = random_per_class(context.source, context.ipc, context.seed)
        slots: dict[tuple[int, int], int] = {}
        for class_index, entry in enumerate(context.classes):
            own = [int(i) for i in chosen if context.source.labels[i] == class_index]
            if len(own) < context.ipc:
                raise OptionError(f"class {entry.name!r} has {len(own)} images, fewer than ipc={context.ipc}")
            slots |= {(class_index, number): index for number, index in enumerate(own)}
        context.images(list(slots.values()))  # decoded once before anything is written: a corrupt file stops here
        return slots

    def make(self, context: Context, unit: Unit, artefact: dict[tuple[int, int], int]) -> Tensor:
        """The chosen images, uint8."""
        return context.images([artefact[slot.class_index, slot.number] for slot in unit.slots])

    def record(self, context: Context, artefact: dict[tuple[int, int], int]) -> dict[str, Any]:
        """The source id of each image, by class and in slot order."""
        return {
            "images": {
                entry.name: [context.source.ids[artefact[class_index, number]] for number in range(context.ipc)]
                for class_index, entry in enumerate(context.classes)
            }
        }
