"""The check of a teacher and the size of its soft labels, before the first training of an evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from dap.data.names import escape
from dap.evaluation.protocol import LabelledImages, Protocol, Published, TestImages
from dap.evaluation.recipe import Case
from dap.evaluation.soft_labels import SoftLabels
from dap.evaluation.teacher_check import measure_teacher
from dap.nets.teacher import state_hash
from dap.storage.space import size_text

__all__ = ["measured", "plan_labels"]

logger = logging.getLogger(__name__)


def measured(
    teacher: nn.Module,
    protocol: Protocol,
    case: Case,
    test: TestImages,
    class_names: Sequence[str],
    device: torch.device,
) -> dict[str, object]:
    """Measure a teacher on the test images at the size of a case, and return what the result says of it."""
    assert isinstance(protocol, Published)
    check = measure_teacher(teacher, test, class_names, size=protocol.recipe(case).size, device=device)
    check.raise_if_bad()
    return {"name": check.name, "accuracy": check.accuracy, "sha256": state_hash(teacher)}


def plan_labels(
    sets: Mapping[str, LabelledImages | Callable[[int], LabelledImages]],
    protocol: Protocol,
    network: str,
    classes: int,
    teacher: nn.Module | None,
    folder: Path | None,
    repeats: int,
) -> None:
    """Tell the size of the soft labels of sets, and raise OptionError if the folder has those of other sets."""
    if not isinstance(protocol, Published):
        return
    drawn = [name for name, data in sets.items() if callable(data)]
    for name, data in sets.items():
        if callable(data):
            continue
        images, labels = data
        recipe = protocol.recipe(Case(network, -(-len(images) // classes), classes, images.shape[2]))
        size = recipe.label_bytes(len(images), classes)
        if size is None:
            continue
        place = "computed in each training"
        if folder is not None:
            place = f"in {folder}" + "".join(f", and as much for each of {repeats} repeats of {own}" for own in drawn)
        logger.info(
            "soft labels of %s: %s for %d epochs of %d images and %d classes in float16, %s", name, size_text(size),
            recipe.epochs, len(images), classes, place,
        )  # fmt: skip
        if folder is not None:
            pixels = torch.from_numpy(images if images.flags.writeable else images.copy())
            SoftLabels(recipe, pixels, torch.tensor(labels), classes, teacher, folder / escape(name))
