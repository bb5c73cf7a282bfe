"""Measures a teacher on real images before it is used, and finds out whether its classes are in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dap.data.names import some
from dap.data.open import SourceLike, open_source
from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation.augment import centre, normalised
from dap.evaluation.protocol import TestImages
from dap.nets.teacher import Teacher, output_rows, teacher_name
from dap.nets.teacher_file import teacher_from_options
from dap.result_text import columns, json_text
from dap.torch_state import own_torch_state

__all__ = ["TeacherCheck", "check_teacher", "fitted", "measure_teacher"]

AT_ONCE = 64  # images


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
                f"{some([f'{name}: output {output}' for name, output in fits.items()])}; order its classes as the set's"
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


@own_torch_state()
def check_teacher(
    teacher: Teacher | str | Path,
    test: SourceLike,
    *,
    teacher_options: Mapping[str, object] | None = None,
    device: str | torch.device | None = None,
) -> TeacherCheck:
    """Measure a teacher on real images of its own size, as the first thing to do with one of somebody else.

    Args:
        teacher: The teacher; or a file or name, as for :func:`dap.open_teacher`.
        test: Labelled images, for example "path/to/val"; of a source with several splits, the test split is taken.
        teacher_options: Options of :func:`dap.open_teacher` by name, such as ``{"network": "resnet18"}``.
        device: Where to compute; the GPU if there is one.

    Raises:
        DapError: A subclass of it, for an unknown source or teacher, or a teacher of other classes.

    Example:
        >>> import dap
        >>> check = dap.check_teacher("timm/resnet18.tv_in1k", "imagenette/val")  # doctest: +SKIP
        >>> check.raise_if_bad()  # doctest: +SKIP
    """
    if not isinstance(teacher, Teacher):
        teacher = teacher_from_options(teacher, teacher_options or {})
    source = open_source(test, split="test")
    fitting = teacher.for_classes(source.class_names)
    images = partial(source.images, size=fitting.test_side, channels=fitting.channels)
    return measure_teacher(
        fitting, (images, source.labels), source.class_names, size=fitting.size, device=resolve_device(device)
    )


@torch.no_grad()
def measure_teacher(
    teacher: nn.Module, test: TestImages, class_names: Sequence[str], *, size: int, device: torch.device
) -> TeacherCheck:
    """Count which classes a teacher sees in labelled images.

    Args:
        teacher: Maps normalised images to logits of the classes; put into eval mode and moved to the device.
        test: uint8 images with at least ``size`` pixels a side, and their labels.
        class_names: The classes, in label order.
        size: Side of the middle that is cut out of each image.
        device: Where to compute.

    Raises:
        OptionError: The teacher does not take images of this size, or has another number of outputs than there are
            classes.
    """
    images, labels = test
    teacher.to(device).eval()
    name = teacher_name(teacher)
    confusion = np.zeros((len(class_names), len(class_names)), np.int64)
    for rows in np.split(np.arange(len(labels)), range(AT_ONCE, len(labels), AT_ONCE)):
        batch = torch.from_numpy(images(rows) if callable(images) else images[rows]).to(device)
        logits = _logits(teacher, name, normalised(centre(batch, size)))
        if logits.shape[1:] != (len(class_names),):
            output_rows(name, logits.shape[1], None, class_names)  # raises, unless ImageNet's rows can be taken
            raise OptionError(
                f"teacher {name}: expected logits of {len(class_names)} classes, got shape {tuple(logits.shape)}; wrap "
                "it as dap.evaluation.Teacher, which takes the outputs of the set's classes"
            )
        np.add.at(confusion, (labels[rows], logits.argmax(1).cpu().numpy()), 1)
    return TeacherCheck(name, tuple(class_names), confusion)


def fitted(teacher: nn.Module, class_names: Sequence[str]) -> nn.Module:
    """Return a :class:`Teacher` with the outputs of a set's classes; other networks as they are."""
    return teacher.for_classes(class_names) if isinstance(teacher, Teacher) else teacher


def _logits(teacher: nn.Module, name: str, images: torch.Tensor) -> torch.Tensor:
    if isinstance(teacher, Teacher) and teacher.channels != images.shape[1]:
        raise OptionError(
            f"teacher {name} takes images of {teacher.channels} channels, the set has {images.shape[1]}; convert the "
            "set, or take another teacher"
        )
    try:
        logits: torch.Tensor = teacher(images)
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OptionError(
            f"teacher {name} does not take images of {tuple(images.shape[1:])} ({reason}); "
            + (f"its own size is {teacher.size}: size={teacher.size}" if isinstance(teacher, Teacher) else "set size=")
        ) from error
    return logits
