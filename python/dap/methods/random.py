"""random: a seeded random choice of real images, the baseline for every distilled set.

The scripts that other methods released take the first files of a listing as "random"; this method draws at random. A
set of k images is the beginning of every larger set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dap.methods.base import Context
from dap.methods.common.real_images import ChosenImages, RealImages, rows_of_classes
from dap.selection import random_of_each_class

__all__ = ["Random"]

BATCH = 256  # images that are decoded together


@dataclass(frozen=True)
class Random(RealImages):
    """Real images, drawn without replacement within each class.

    Example:
        >>> import dap
        >>> subset = dap.distill("fashion-mini", method="random", ipc=1, out="subset")  # doctest: +SKIP
    """

    name: ClassVar[str] = "random"
    paper: ClassVar[str] = "a seeded draw; no paper"
    year: ClassVar[int | None] = None
    needs: ClassVar[tuple[str, ...]] = ("labels",)

    def prepare(self, context: Context) -> ChosenImages:
        """Return the source index of each slot.

        Raises:
            OptionError: A class has fewer images than are wanted.
            FormatError: A chosen image cannot be decoded.
        """
        rows_of_classes(context)
        counts = {entry.name: context.ipc_of(class_index) for class_index, entry in enumerate(context.classes)}
        chosen = random_of_each_class(context.source, counts, context.seed)
        slots = ChosenImages()
        for class_index, class_rows in enumerate(chosen.values()):
            slots |= {(class_index, number): index for number, index in enumerate(class_rows.tolist())}
        indices = list(slots.values())
        for start in range(0, len(indices), BATCH):  # a corrupt file stops here, before anything is written
            context.images(indices[start : start + BATCH])
        return slots
