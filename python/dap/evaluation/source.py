"""Evaluates a set of labelled images on real test images, in comparison with random real images."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dap import rng
from dap.data.names import some
from dap.device import resolve_device
from dap.errors import OptionError, SourceError
from dap.evaluation.judge import recognised, train_judge
from dap.evaluation.leaks import SIDE, TestHashes
from dap.evaluation.protocol import ImagesOf, LabelledImages, Published
from dap.evaluation.recipe import Case
from dap.evaluation.result import EvaluationResult
from dap.evaluation.run import check_options
from dap.evaluation.sets import evaluate_sets
from dap.evaluation.teacher_check import check_output, fitted
from dap.selection import random_per_class

if TYPE_CHECKING:
    from torch import nn

    from dap.data.source import Source

__all__ = ["check_not_blank", "evaluate_source"]

logger = logging.getLogger(__name__)


STREAMED = 2**31  # bytes of test images; more are decoded again for each test


def evaluate_source(
    train: Source,
    test: Source,
    *,
    real: Source | None = None,
    protocol: str = "small",
    protocol_options: Mapping[str, object] | None = None,
    networks: Sequence[str] = ("convnet3",),
    repeats: int = 3,
    seed: int = 0,
    device: str | torch.device | None = None,
    judge: bool = False,
    teacher: nn.Module | None = None,
    soft_labels: str | Path | None = None,
    weights: np.ndarray | None = None,
    checkpoints: str | Path | None = None,
    size: int | None = None,
    channels: int | None = None,
) -> EvaluationResult:
    """Evaluates a source (a distilled set, or any other) on real test images; classes are matched by name.

    Args:
        train: The set to evaluate, in the row "distilled".
        test: Real test images. Classes that ``train`` does not have are left out, with a warning in the log. More than
            2 GiB of pixels are not kept in memory, but decoded for each test.
        real: Real training images. In each repeat a random subset is drawn from them with as many images of each class
            as ``train`` has, or all if there are fewer. It is the first row, "random real", with which the set is
            compared.
        protocol: Name of the protocol.
        protocol_options: Other constants of the protocol by name.
        networks: Names of the classifiers.
        repeats: Trainings of each network on each set, at least 1.
        seed: Root seed of all repeats.
        device: Where to train; None: the GPU if there is one.
        judge: Whether to train the judge on all of ``real``, and report the share of ``train`` that it recognises.
        teacher: Maps normalised images to logits, for protocols with a teacher's labels (:func:`evaluate_sets`).
        soft_labels: A folder in which protocols with stored soft labels keep those of each set.
        weights: The factor of the loss of each image of ``train``, with a mean of 1 in each class, float32 (N,).
        checkpoints: A folder from which an evaluation that was stopped continues (:func:`evaluate_sets`).
        size: Side in pixels to which images are resized where the protocol has no size of its own; None: the short
            side of the first image of ``train``.
        channels: 1 for grey, 3 for RGB; None: RGB if images of ``train`` are in colour, otherwise grey.

    Raises:
        OptionError: A name is unknown, a value is out of range, or ``judge`` is set without ``real``.
        SourceError: ``test`` or ``real`` lacks a class of ``train``, a source is empty, or all its images are blank.
        FormatError: An image cannot be read.
        DivergedError: A loss is not finite.
    """
    changed = check_options(
        protocol, networks, repeats, protocol_options, teacher=teacher is not None, soft_labels=soft_labels is not None
    )
    if judge and real is None:
        raise OptionError("the judge is trained on real images: give real=, or take judge=False")
    names = _shared_classes(train, test)
    teacher = None if teacher is None else fitted(teacher, names)
    if real is not None:
        _require_classes(real, names)
    side = train.appearance.size if size is None else size
    channels = train.appearance.channels if channels is None else channels
    cases = {network: Case(network, -(-len(train) // len(names)), len(names), side) for network in networks}
    for case in cases.values():  # before any image is decoded
        changed.network(case, channels=channels, generator=torch.Generator())
        changed.check_set(case, images=len(train), channels=channels)
    if teacher is not None and isinstance(changed, Published):
        own = changed.recipe(cases[networks[0]]).size
        check_output(teacher, names, channels=channels, size=own, device=resolve_device(device))
    hashes = TestHashes(test, names)
    hashes.warn(train, np.arange(len(train)), "the set to evaluate")
    if real is not None:
        drawn = [_drawn_real(train, real, seed, repeat) for repeat in range(repeats)]
        all_drawn = np.unique(np.concatenate(drawn))
        copies = real.images(all_drawn, size=SIDE, channels=3)
        check_not_blank(real, copies, all_drawn)
        hashes.warn(real, all_drawn, "the random real images", copies=copies)
    load = partial(_load, names=names, channels=channels)
    uniform = train.appearance.uniform and size is None
    sides = {network: changed.sides(case, uniform=uniform) for network, case in cases.items()}
    results = []
    for train_side, test_side in dict.fromkeys(sides.values()):
        distilled = load(train, size=train_side)
        check_not_blank(train, distilled[0])
        _warn_of_copies(train, distilled[0])
        sets: dict[str, LabelledImages | Callable[[int], LabelledImages]] = {"distilled": distilled}
        if real is not None:
            sets = {"random real": partial(_random_real, train, real, load, train_side, seed), "distilled": distilled}
        results.append(
            evaluate_sets(
                sets,
                _test_images(test, names, test_side, load),
                class_names=names,
                protocol=protocol,
                protocol_options=protocol_options,
                networks=[network for network in networks if sides[network] == (train_side, test_side)],
                repeats=repeats,
                seed=seed,
                device=device,
                teacher=teacher,
                soft_labels=soft_labels,
                weights=None if weights is None else {"distilled": weights},
                checkpoints=checkpoints,
            )
        )
    rows = sorted((row for result in results for row in result.rows), key=lambda row: networks.index(row.network))
    result = replace(results[0], rows=tuple(rows))
    if real is None or not judge:
        return result
    trained = train_judge(*load(real, size=side), len(names), seed, device)
    recognition = recognised(trained, *load(train, size=side), device)
    per_class = {names[label]: share for label, share in recognition.per_class.items()}
    return replace(result, recognised=recognition.share, recognised_per_class=per_class)


def check_not_blank(source: Source, images: np.ndarray, indices: np.ndarray | None = None) -> None:
    """Raise SourceError if every one of some images has a single colour; warn in the log if some have.

    Args:
        source: The images' source.
        images: Images of the source, (N, C, S, S).
        indices: Their numbers in the source, (N,); None: they are all.
    """
    if indices is None:
        indices = np.arange(len(source))
    flat = images.reshape(*images.shape[:2], -1)
    blank = np.flatnonzero((flat == flat[:, :, :1]).all((1, 2)))
    if len(blank) and len(blank) == len(images):
        raise SourceError(
            f"{source.name}: every image has a single colour ({source.ids[indices[0]]}, …), so that there is nothing "
            "to learn"
        )
    if len(blank):
        blank_ids = some([source.ids[index] for index in indices[blank].tolist()])
        logger.warning("%s: %d of %d images have a single colour: %s", source.name, len(blank), len(images), blank_ids)


def _warn_of_copies(source: Source, images: np.ndarray) -> None:
    """Log a warning if some images (N, C, S, S) of a source are copies of others."""
    copies = len(images) - len({hashlib.sha256(image.tobytes()).digest() for image in images})
    if copies:
        logger.warning("%s: %d of %d images are copies of others of the set", source.name, copies, len(images))


def _random_real(
    train: Source, real: Source, load: Callable[..., LabelledImages], side: int, seed: int, repeat: int
) -> LabelledImages:
    return load(real, _drawn_real(train, real, seed, repeat), size=side)


def _drawn_real(train: Source, real: Source, seed: int, repeat: int) -> np.ndarray:
    """Return the indices of the random real images of a repeat."""
    counts = {name: len(train.of_class(label)) for label, name in enumerate(train.class_names)}
    return random_per_class(real, counts, rng.derive_seed(seed, "evaluate", "real", repeat))


def _test_images(
    test: Source, names: Sequence[str], side: int, load: partial[LabelledImages]
) -> tuple[np.ndarray | ImagesOf, np.ndarray]:
    """Test images and labels: the images, or if they are many, a function that decodes some of them."""
    channels, labels = load.keywords["channels"], _labels(test, names)
    indices = np.flatnonzero(labels >= 0)
    if len(test) * channels * side * side <= STREAMED:
        images, _ = load(test, indices, size=side)
        check_not_blank(test, images, indices)
        return images, labels[indices]
    return partial(_decoded, test, indices, side, channels), labels[indices]


def _decoded(source: Source, indices: np.ndarray, side: int, channels: int, rows: np.ndarray) -> np.ndarray:
    return source.images(indices[rows], size=side, channels=channels)


def _require_classes(source: Source, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in source.class_names]:
        numbered = all(name.isdecimal() for name in names)
        hint = "; name the set's, dap.load(..., class_map=) or --class-names FILE" if numbered else ""
        raise SourceError(
            f"{source.name}: has no class {some(missing)}, which the set to evaluate has; classes are matched by name, "
            f"and it has {some(source.class_names, 20)}{hint}"
        )


def _shared_classes(train: Source, test: Source) -> tuple[str, ...]:
    _require_classes(test, train.class_names)
    if dropped := [name for name in test.class_names if name not in train.class_names]:
        logger.warning("%s: test images of %s are left out, %s has no such class", test.name, some(dropped), train.name)
    return train.class_names


def _labels(source: Source, names: Sequence[str]) -> np.ndarray:
    """The position in ``names`` of each image's class; -1 if it is not there."""
    numbers = {name: number for number, name in enumerate(names)}
    renumbered: np.ndarray = np.array([numbers.get(name, -1) for name in source.class_names], np.int64)[source.labels]
    return renumbered


def _load(
    source: Source, indices: np.ndarray | None = None, *, names: Sequence[str], size: int, channels: int
) -> LabelledImages:
    """Images of the named classes, labelled by their position in ``names``: all, or those with the given indices."""
    labels = _labels(source, names)
    if indices is None:
        indices = np.flatnonzero(labels >= 0)
    return source.images(indices, size=size, channels=channels), labels[indices]
