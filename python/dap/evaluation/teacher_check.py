"""Measures a teacher on real images before it is used; :mod:`dap.nets.confusion` judges what was counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dap.data.open import SourceLike, open_source
from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation.augment import centre, normalised
from dap.evaluation.protocol import TestImages
from dap.nets.confusion import TeacherCheck
from dap.nets.teacher import Teacher, output_rows, teacher_name
from dap.nets.teacher_file import teacher_from_options
from dap.torch_state import own_torch_state

__all__ = ["TeacherCheck", "check_output", "check_teacher", "fitted", "measure_teacher"]

AT_ONCE = 64  # images


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
    confusion = np.zeros((len(class_names), len(class_names)), np.int64)
    for rows in np.split(np.arange(len(labels)), range(AT_ONCE, len(labels), AT_ONCE)):
        batch = torch.from_numpy(images(rows) if callable(images) else images[rows]).to(device)
        logits = _logits(teacher, normalised(centre(batch, size)), class_names)
        np.add.at(confusion, (labels[rows], logits.argmax(1).cpu().numpy()), 1)
    return TeacherCheck(teacher_name(teacher), tuple(class_names), confusion)


def fitted(teacher: nn.Module, class_names: Sequence[str]) -> nn.Module:
    """Return a :class:`Teacher` with the outputs of a set's classes; other networks as they are."""
    return teacher.for_classes(class_names) if isinstance(teacher, Teacher) else teacher


@torch.no_grad()
def check_output(
    teacher: nn.Module, class_names: Sequence[str], *, channels: int, size: int, device: torch.device
) -> None:
    """Raise OptionError unless a teacher gives a logit of each class for images of a size, here a blank one."""
    _logits(teacher.to(device).eval(), torch.zeros(1, channels, size, size, device=device), class_names)


def _logits(teacher: nn.Module, images: torch.Tensor, class_names: Sequence[str]) -> torch.Tensor:
    """Return the logits (B, classes) of normalised images (B, C, S, S)."""
    name = teacher_name(teacher)
    if isinstance(teacher, Teacher) and teacher.channels != images.shape[1]:
        raise OptionError(
            f"teacher {name} takes images of {teacher.channels} channels, the set has {images.shape[1]}; convert the "
            "set, or take another teacher"
        )
    try:
        logits: object = teacher(images)
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OptionError(
            f"teacher {name} does not take images of {tuple(images.shape[1:])} ({reason}); "
            + (
                f"give protocol_options={{'size': {teacher.size}}}, its own size"
                if isinstance(teacher, Teacher)
                else "give its own size as the protocol's size"
            )
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (len(images), len(class_names)):
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        if isinstance(logits, torch.Tensor) and logits.ndim == 2:
            output_rows(name, logits.shape[1], None, class_names)  # raises, unless ImageNet's rows can be taken
        raise OptionError(
            f"teacher {name}: expected logits of {len(class_names)} classes for each image, got {found}; wrap it as "
            "dap.evaluation.Teacher, which takes the outputs of the set's classes, or in a module that returns logits"
        )
    return logits
