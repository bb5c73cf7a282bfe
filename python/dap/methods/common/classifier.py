"""The classifier by which methods judge images: a teacher that the user gives, or one that the run trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dap.config import check_choice, check_whole
from dap.errors import OptionError
from dap.methods.base import Method
from dap.methods.common.cached_networks import prepare_classifier
from dap.methods.common.network_memory import training_bytes
from dap.methods.common.siamese import normalised
from dap.nets import list_nets
from dap.nets.confusion import TeacherCheck
from dap.nets.teacher import Teacher, state_hash
from dap.nets.teacher_file import teacher_from_options
from dap.selection import random_of_each_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from dap.methods.base import Context, Record, Remakes

__all__ = ["Classifier", "ClassifierChoice", "ClassifierMethod", "ClassifierOptions"]

AT_ONCE = 64  # images that are classified together, whatever the unit
CHECKED = 20  # real images of each class on which a teacher is measured


@dataclass(frozen=True)
class Classifier:
    """A frozen classifier of a run's classes.

    Attributes:
        logits: Returns logits (B, classes), in the order of the run, of float images (B, channels, S, S) in [-1, 1].
        record: What the manifest says about it.
    """

    logits: Callable[[Tensor], Tensor]
    record: Record

    def surprise(self, images: Tensor, class_index: int, device: torch.device) -> Tensor:
        """Return the cross-entropy of images (B, channels, S, S) in [-1, 1] of one class, float (B,) on the CPU.

        Args:
            images: The images, on any device.
            class_index: Position of their class in the class map.
            device: That of the network.
        """
        logits = self._judged(images, device)
        return functional.cross_entropy(logits, torch.full((len(logits),), class_index), reduction="none")

    def probabilities(self, images: Tensor, device: torch.device) -> Tensor:
        """Return the probabilities of the classes, float (B, classes) on the CPU; arguments as of :meth:`surprise`."""
        return self._judged(images, device).softmax(1)

    @torch.no_grad()
    def _judged(self, images: Tensor, device: torch.device) -> Tensor:
        return torch.cat([self.logits(part.to(device)).float().cpu() for part in images.split(AT_ONCE)])


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """Which classifier a method takes: the base of methods that have these options.

    Attributes:
        teacher: A file or a name, as for :func:`dap.open_teacher`; None: a classifier is trained on all real images of
            the run, as that of ``plug_and_play``.
        teacher_options: Options of :func:`dap.open_teacher` by name, such as {"network": "resnet18"}.
        network: The network to train, one of :func:`dap.nets.list_nets`.
        width: Its number of channels.
        epochs: Passes over the real images, at least 2.
    """

    teacher: str | None = None
    teacher_options: Mapping[str, object] | None = None
    network: str = "convnet3"
    width: int = 32
    epochs: int = 5

    def choice(self) -> ClassifierChoice:
        """Return which classifier the options ask for, checked."""
        return ClassifierChoice(**{option.name: getattr(self, option.name) for option in fields(ClassifierOptions)})


@dataclass(frozen=True, kw_only=True)
class ClassifierChoice(ClassifierOptions):
    """The classifier that the options ask for."""

    def __post_init__(self) -> None:
        if self.teacher is not None and not isinstance(self.teacher, str):
            raise OptionError(f"teacher: expected a file, or a name as timm/resnet18.tv_in1k, got {self.teacher!r}")
        if self.teacher_options and self.teacher is None:
            raise OptionError("teacher_options: they are for a teacher; give a teacher too, or leave them out")
        if self.teacher_options is not None and not isinstance(self.teacher_options, Mapping):
            raise OptionError(f"teacher_options: expected options by name, got {self.teacher_options!r}")
        check_choice("network", self.network, list_nets())
        check_whole("width", self.width)
        check_whole("epochs", self.epochs, 2)

    def prepare(self, context: Context) -> Classifier:
        """Open the teacher, or train the classifier, or find it in the cache.

        Raises:
            OptionError: The teacher is unknown, or of other classes, or takes other images than the run's; or, on 20
                real images of each class, it is no better than chance or its outputs are those of other classes.
        """
        device = context.prior.device
        if self.teacher is None:
            net = prepare_classifier(context, self.network, self.width, self.epochs)
            return Classifier(net, {"epochs": self.epochs})
        teacher = teacher_from_options(self.teacher, self.teacher_options or {})
        teacher = teacher.for_classes([entry.name for entry in context.classes])
        _check_images(teacher, context)
        teacher.to(device).requires_grad_(False)
        units = partial(normalised, clamp=False)
        classifier = Classifier(
            lambda images: teacher(units(images)), {"teacher": teacher.name, "sha256": state_hash(teacher.net)}
        )
        _check_order(classifier, teacher.name, context)
        return classifier

    def preparation_bytes(self, context: Context) -> int:
        """Return the memory of training the classifier; 0 with a teacher."""
        return 0 if self.teacher is not None else training_bytes(context, self.network, self.width)

    def shared(self) -> str | None:
        """Return what all classes of a run share: the classifier that it trains."""
        return None if self.teacher is not None else "a classifier of all classes"


@dataclass(frozen=True)
class ClassifierMethod(ClassifierOptions, Method[Classifier]):
    """The base of methods that make the images of a class together, judged by a classifier."""

    def preparation_bytes(self, context: Context) -> int:
        """Return the memory of training the classifier."""
        return self.choice().preparation_bytes(context)

    def record(self, context: Context, artefact: Classifier) -> Record:
        """Return the teacher's name and hash, or the epochs of the classifier."""
        return artefact.record

    def shared(self) -> str | None:
        """Return the classifier that the run trains; a teacher is nothing that classes share."""
        return self.choice().shared()

    def remakes(self) -> Remakes:
        """Return that a class is made as a whole."""
        return "class"


def _check_images(teacher: Teacher, context: Context) -> None:
    """Raise OptionError unless a teacher takes images of the run's size and channels."""
    if teacher.channels != context.channels:
        raise OptionError(
            f"teacher {teacher.name} takes images of {teacher.channels} channels, this run's have {context.channels}: "
            f"give channels={'rgb' if teacher.channels == 3 else 'grey'!r}, or another teacher"
        )
    if teacher.size != context.size:
        raise OptionError(
            f"teacher {teacher.name} takes images of {teacher.size} pixels, this run's have {context.size}: give "
            f"size={teacher.size}, or teacher_options={{'size': {context.size}}} if it takes those too"
        )


@torch.no_grad()
def _check_order(classifier: Classifier, name: str, context: Context) -> None:
    """Raise OptionError if a teacher's outputs are in another order, or no better than chance, on real images."""
    names = tuple(entry.name for entry in context.classes)
    confusion = np.zeros((len(names), len(names)), np.int64)
    for index, rows in enumerate(random_of_each_class(context.source, CHECKED, context.seed).values()):
        images = context.images(rows.tolist()).to(context.prior.device).float() / 127.5 - 1
        np.add.at(confusion[index], classifier.logits(images).argmax(1).cpu().numpy(), 1)
    TeacherCheck(name, names, confusion).raise_if_bad()
