"""What a teacher takes labelled images for, and whether its classes are in another order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dap.data.names import some
from dap.errors import OptionError
from dap.result_text import columns, json_text

__all__ = ["TeacherCheck"]


@dataclass(frozen=True, eq=False)
class TeacherCheck:
    """How a teacher does on labelled images.

    Attributes:
        name: The teacher's name.
        class_names: The classes.
        confusion: Number of images of each class (rows) for which each output (columns) is the largest.
    """

    name: str
    class_names: tuple[str, ...]
    confusion: np.ndarray

    @property
    def images(self) -> int:
        """The number of images."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Accuracy in per cent."""
        return 100 * float(np.trace(self.confusion)) / self.images

    @property
    def shares(self) -> np.ndarray:
        """The share of each class's images, in [0, 1], for which each output is the largest."""
        shares: np.ndarray = self.confusion / np.maximum(self.confusion.sum(1, keepdims=True), 1)
        return shares

    @property
    def order(self) -> list[int]:
        """The output that fits each class: the largest share first, each class and output once."""
        shares, order = self.shares, [0] * len(self.confusion)
        for _ in order:
            best = int(shares.argmax())
            name, output = divmod(best, len(order))
            order[name] = output
            shares[name], shares[:, output] = -1, -1
        return order

    @property
    def ordered_accuracy(self) -> float:
        """Accuracy in per cent if the outputs were in :attr:`order`."""
        return 100 * float(self.confusion[np.arange(len(self.confusion)), self.order].sum()) / self.images

    def raise_if_bad(self) -> None:
        """Raise OptionError for a teacher whose outputs are in another order, or that is no better than chance.

        The order is another one if it would raise the accuracy by more than 10 points and four standard errors, or if a
        class of at least 5 images gains more than half of them by the output of a class that does so too.
        """
        classes, order = len(self.class_names), self.order
        gain = self.ordered_accuracy - self.accuracy
        counts, shares, every = self.confusion.sum(1), self.shares, np.arange(classes)
        moved = (shares[every, order] - shares[every, every] > 0.5) & (counts >= 5)
        if gain > max(10, 100 * 4 * 0.5 / self.images**0.5) or (moved & moved[order]).any():
            fits = {self.class_names[number]: output for number, output in enumerate(order) if number != output}
            raise OptionError(
                f"teacher {self.name}: its classes are in another order: {self.accuracy:.1f} % of {self.images} images "
                f"are right, and {self.ordered_accuracy:.1f} % would be if its outputs were those of other classes: "
                f"{some([f'{name}: output {output}' for name, output in fits.items()])}; "
                f"give its outputs the order of these classes: {some(self.class_names)}"
            )
        chance = 100 / classes
        above = 3 * (chance * (100 - chance) / self.images) ** 0.5  # of few images, no more than half of the rest
        if self.accuracy <= chance + min(above, (100 - chance) / 2):
            raise OptionError(
                f"teacher {self.name}: {self.accuracy:.1f} % of {self.images} images are right, where chance is "
                f"{chance:.1f} %, and no order of its outputs is much better ({self.ordered_accuracy:.1f} %); take "
                "another teacher, or check its size and normalisation"
            )

    def to_json(self) -> str:
        """Return name, classes, accuracies in per cent, the order that fits, and the confusion as JSON."""
        return json_text({
            "name": self.name, "class_names": list(self.class_names), "images": self.images, "accuracy": self.accuracy,
            "order": self.order, "ordered_accuracy": self.ordered_accuracy, "confusion": self.confusion.tolist(),
        })  # fmt: skip

    def table(self) -> str:
        """Return the accuracy, and of each class, with the output that it is most often taken for."""
        lines = [["class", "images", "right %", "most often taken for"]]
        for number, (name, row) in enumerate(zip(self.class_names, self.confusion, strict=True)):
            others = np.where(np.arange(len(row)) == number, 0, row)
            other = int(others.argmax())
            taken = f"{self.class_names[other]} ({100 * others[other] / row.sum():.1f} %)" if others[other] else ""
            share = f"{100 * row[number] / row.sum():.1f}" if row.sum() else ""
            lines.append([name, str(row.sum()), share, taken])
        title = f"teacher {self.name}: {self.accuracy:.1f} % of {self.images} images"
        return "\n".join([title, *columns(lines)])
