"""Evaluates a set of labelled images on real test images, in comparison with random real images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from dap import rng
from dap.data.names import some
from dap.errors import OptionError, SourceError
from dap.evaluation.judge import recognised, train_judge
from dap.evaluation.result import EvaluationResult
from dap.evaluation.run import LabelledImages, check_options, evaluate_sets
from dap.selection import random_per_class

if TYPE_CHECKING:
    import torch

    from dap.data.source import Source

__all__ = ["evaluate_source"]

logger = logging.getLogger(__name__)


def evaluate_source(
    train: Source,
    test: Source,
    *,
    real: Source | None = None,
    protocol: str = "small",
    networks: Sequence[str] = ("convnet3",),
    repeats: int = 3,
    seed: int = 0,
    device: str | torch.device | None = None,
    judge: bool = False,
    size: int | None = None,
    channels: int | None = None,
) -> EvaluationResult:
    """Evaluates a source (a distilled set, or any other) on real test images; classes are matched by name.

    Args:
        train: The set to evaluate, in the row "distilled".
        test: Real test images. Classes that ``train`` does not have are left out, with a warning in the log.
        real: Real training images. In each repeat a random subset is drawn from them with as many images of each class
            as ``train`` has, or all if there are fewer. It is the first row, "random real", with which the set is
            compared.
        protocol: Name of the protocol.
        networks: Names of the classifiers.
        repeats: Trainings of each network on each set, at least 1.
        seed: Root seed of all repeats.
        device: Where to train; None: the GPU if there is one.
        judge: Whether to train the judge on all of ``real``, and report the share of ``train`` that it recognises.
        size: Side in pixels to which all images are resized; None: the short side of the first image of ``train``.
        channels: 1 for grey, 3 for RGB; None: RGB if images of ``train`` are in colour, otherwise grey.

    Raises:
        OptionError: A name is unknown, a value is out of range, or ``judge`` is set without ``real``.
        SourceError: ``test`` or ``real`` lacks a class of ``train``, or a source is empty.
        FormatError: An image cannot be read.
    """
    check_options(protocol, networks, repeats)
    if judge and real is None:
        raise OptionError("the judge is trained on real images: give real=, or leave judge=False")
    names = _shared_classes(train, test)
    load = partial(
        _load,
        names=names,
        size=train.appearance.size if size is None else size,
        channels=train.appearance.channels if channels is None else channels,
    )
    distilled = load(train)
    sets: dict[str, LabelledImages | Callable[[int], LabelledImages]] = {"distilled": distilled}
    if real is not None:
        _require_classes(real, names)
        counts = {name: len(train.of_class(label)) for label, name in enumerate(train.class_names)}
        source = real  # mypy does not narrow ``real`` inside the function

        def random_real(repeat: int) -> LabelledImages:
            return load(source, random_per_class(source, counts, rng.derive_seed(seed, "evaluate", "real", repeat)))

        sets = {"random real": random_real, "distilled": distilled}
    result = evaluate_sets(
        sets,
        load(test),
        class_names=names,
        protocol=protocol,
        networks=networks,
        repeats=repeats,
        seed=seed,
        device=device,
    )
    if real is None or not judge:
        return result
    recognition = recognised(train_judge(*load(real), len(names), seed, device), *distilled, device)
    per_class = {names[label]: share for label, share in recognition.per_class.items()}
    return replace(result, recognised=recognition.share, recognised_per_class=per_class)


def _require_classes(source: Source, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in source.class_names]:
        raise SourceError(
            f"{source.name}: has no class {some(missing)}, which the set to evaluate has; classes are matched by name, "
            f"and it has {some(source.class_names, 20)}"
        )


def _shared_classes(train: Source, test: Source) -> tuple[str, ...]:
    _require_classes(test, train.class_names)
    if dropped := [name for name in test.class_names if name not in train.class_names]:
        logger.warning("%s: test images of %s are left out, %s has no such class", test.name, some(dropped), train.name)
    return train.class_names


def _load(
    source: Source, indices: np.ndarray | None = None, *, names: Sequence[str], size: int, channels: int
) -> LabelledImages:
    """Images of the named classes, labelled by their position in ``names``: all, or those with the given indices."""
    numbers = {name: number for number, name in enumerate(names)}
    renumber = np.array([numbers.get(name, -1) for name in source.class_names], np.int64)
    if indices is None:
        indices = np.flatnonzero(renumber[source.labels] >= 0)
    return source.images(indices, size=size, channels=channels), renumber[source.labels[indices]]
