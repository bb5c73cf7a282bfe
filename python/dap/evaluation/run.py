"""Trains classifiers on sets of images and tests them on real images; repeats are paired across the sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dap import rng
from dap.bar import NO_BARS, Bars, progress_bar
from dap.config import check_choice, check_whole
from dap.data.names import escape
from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation.kept import Kept
from dap.evaluation.labelling import measured, plan_labels
from dap.evaluation.protocol import LabelledImages, Outcome, Protocol, TestImages, Training
from dap.evaluation.protocols import PUBLISHED
from dap.evaluation.recipe import Case
from dap.evaluation.result import EvaluationResult, Row
from dap.evaluation.small import Small
from dap.evaluation.soft_labels import stored_teacher
from dap.evaluation.statistics import paired_difference
from dap.evaluation.teacher_check import fitted
from dap.nets import check_network
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PROTOCOLS", "LabelledImages", "check_options", "evaluate_sets", "named_protocol", "run_protocol"]

PROTOCOLS: dict[str, Protocol] = {"small": Small()} | {protocol.name: protocol for protocol in PUBLISHED}


def named_protocol(name: str, options: Mapping[str, object] | None = None) -> Protocol:
    """Return a protocol by name, with other constants.

    Raises:
        OptionError: The name or an option is unknown, or a value is out of range.

    Example:
        >>> named_protocol("hard", {"epochs": 5}).constants(Case("convnet6", 10, 10, 224))["lr"]
        0.01
    """
    check_choice("protocol", name, PROTOCOLS)
    return PROTOCOLS[name].with_options(options) if options else PROTOCOLS[name]


@own_torch_state()
def run_protocol(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray | Callable[[np.ndarray], np.ndarray],
    test_labels: np.ndarray,
    *,
    classes: int,
    protocol: str | Protocol = "small",
    protocol_options: Mapping[str, object] | None = None,
    network: str = "convnet3",
    seed: int = 0,
    repeat: int = 0,
    device: str | torch.device | None = None,
    teacher: nn.Module | None = None,
    soft_labels: Path | None = None,
    checkpoint: Path | None = None,
    title: str = "training",
    bars: Bars = NO_BARS,
) -> Outcome:
    """Trains one network on one set by a protocol, and tests it.

    Args:
        train_images: uint8 with shape (N, C, S, S).
        train_labels: Class numbers, integers in [0, classes) with shape (N,).
        test_images: uint8 with shape (M, C, T, T), or a function that returns those with some indices, int64 (B,). T
            is S for "small", else the side of the protocol's test images.
        test_labels: Integers in [0, classes) with shape (M,).
        classes: Number of classes.
        protocol: Name of the protocol, or the protocol itself.
        protocol_options: Other constants by name.
        network: Name of the classifier, one of :func:`dap.list_networks`, or timm/NAME.
        seed: Root seed. Together with the network's name and ``repeat`` it decides initial weights, order and
            augmentation, which are therefore the same for two sets of one size.
        repeat: Number of the repeat.
        device: Where to train; None: the GPU if there is one.
        teacher: Maps normalised images to logits, for protocols with a teacher's labels; put into eval mode.
        soft_labels: A folder in which protocols that store soft labels keep those of this set; None: they are not kept.
        checkpoint: A file from which a training that was stopped continues. Protocol "small" has none.
        title: Of the progress bar.
        bars: Opens the progress bar.

    Returns:
        Test accuracies in per cent.

    Raises:
        OptionError: A name is unknown, or images or labels have another shape or dtype.
        DivergedError: A loss is not finite.

    Example:
        >>> images, labels = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 0, 1, 1])
        >>> images[2:] = 255
        >>> run_protocol(images, labels, images, labels, classes=2).last
        100.0
    """
    if isinstance(protocol, str):
        protocol = named_protocol(protocol, protocol_options)
    protocol.check(teacher=teacher is not None, soft_labels=soft_labels is not None)
    resolved = resolve_device(device)
    training = Training(
        classes=classes,
        network=network,
        generator=rng.generator(seed, "evaluate", network, repeat),
        device=resolved,
        teacher=None if teacher is None else teacher.to(resolved).eval(),
        soft_labels=soft_labels,
        checkpoint=checkpoint,
        title=title,
        bars=bars,
    )
    return protocol.run((train_images, train_labels), (test_images, test_labels), training)


def evaluate_sets(
    sets: Mapping[str, LabelledImages | Callable[[int], LabelledImages]],
    test: TestImages,
    *,
    class_names: Sequence[str],
    protocol: str = "small",
    protocol_options: Mapping[str, object] | None = None,
    networks: Sequence[str] = ("convnet3",),
    repeats: int = 3,
    seed: int = 0,
    device: str | torch.device | None = None,
    teacher: nn.Module | None = None,
    soft_labels: str | Path | None = None,
    checkpoints: str | Path | None = None,
) -> EvaluationResult:
    """Trains every network on every set, ``repeats`` times, and compares the sets with the first one.

    Args:
        sets: Images and labels (as for :func:`run_protocol`) by the set's name. For a set that is drawn anew in each
            repeat: a function that returns them for the number of the repeat. All sets are compared with the first.
        test: Images, or a function that returns those with some indices, and labels to test on.
        class_names: Name of each class, in label order.
        protocol: Name of the protocol.
        protocol_options: Other constants of the protocol by name.
        networks: Names of the classifiers, all different.
        repeats: Trainings of each network on each set, at least 1.
        seed: Root seed of all repeats.
        device: Where to train; None: the GPU if there is one.
        teacher: Maps normalised images to logits, for protocols with a teacher's labels. It is measured on the test
            images first, and refused if its classes are in another order (:mod:`dap.evaluation.teacher_check`).
        soft_labels: A folder, made if it is not there, in which protocols that store soft labels keep those of sets.
        checkpoints: A folder, made if it is not there, from which an evaluation that was stopped continues with the
            same numbers: the outcomes of its trainings, and the last checkpoint of an unfinished one.

    Returns:
        One row per network and set. Repeat r uses the same seed for every set, so that differences are paired.

    Raises:
        OptionError: A name is unknown, a network is named twice, there is no set or network, ``repeats`` is less than
            1, images or labels have another shape or dtype, the teacher does not fit, or the soft labels are of another
            set.
        DivergedError: A loss is not finite.
    """
    changed = check_options(
        protocol, networks, repeats, protocol_options, teacher=teacher is not None, soft_labels=soft_labels is not None
    )
    if not sets:
        raise OptionError("expected at least one set to evaluate, got none")
    record = None
    if teacher is not None:
        teacher = fitted(teacher, class_names)
        record = measured(teacher, changed, networks, test, class_names, resolve_device(device))
    labels_folder = None if soft_labels is None else Path(soft_labels)
    plan_labels(sets, changed, networks[0], len(class_names), teacher, labels_folder)
    kept = None if checkpoints is None else Kept(Path(checkpoints), test, len(class_names), teacher)
    rows: list[Row] = []
    with progress_bar("evaluate", total=len(networks) * len(sets) * repeats, unit="training") as progress:
        for network in networks:
            first: tuple[float, ...] | None = None
            for name, labelled_images in sets.items():
                outcomes = []
                for repeat in range(repeats):
                    images, labels = labelled_images(repeat) if callable(labelled_images) else labelled_images
                    case = Case(network, -(-len(images) // len(class_names)), len(class_names), images.shape[2])
                    constants = changed.constants(case)
                    folder = None
                    if labels_folder is not None:
                        drawn = f", seed {seed}, repeat {repeat + 1}" if callable(labelled_images) else ""
                        folder = labels_folder / escape(name + drawn)
                    key: tuple[object, ...] = (protocol, constants, network, seed, repeat)
                    if teacher is None and folder is not None:
                        record = record or stored_teacher(folder)
                        key = (*key, stored_teacher(folder))
                    entry = None if kept is None else kept.entry(key, images, labels)
                    outcome = None if entry is None else entry.outcome()
                    if outcome is None:
                        outcome = run_protocol(
                            images, labels, *test, classes=len(class_names), protocol=changed, network=network,
                            seed=seed, repeat=repeat, device=device, teacher=teacher, soft_labels=folder,
                            checkpoint=None if entry is None else entry.checkpoint,
                            title=f"{network} on {name}, repeat {repeat + 1} of {repeats}",
                            bars=Bars(shown=protocol != "small"),
                        )  # fmt: skip
                        if entry is not None:
                            entry.finish(outcome)
                    outcomes.append(outcome)
                    progress.update()
                last, best = (tuple(accuracies) for accuracies in zip(*outcomes, strict=True))
                difference = None if first is None else paired_difference(last, first)
                first = last if first is None else first
                row = Row(name, network, len(images), last, best, difference)
                if protocol != "small":
                    row = replace(row, checks=changed.number_of_checks(case), constants=constants)
                    row = replace(row, label_bytes=changed.label_bytes(case, len(images)))
                rows.append(row)
    return EvaluationResult(
        protocol, seed, repeats, len(test[1]), tuple(class_names), tuple(rows),
        protocol_options=dict(protocol_options or {}), teacher=record,
    )  # fmt: skip


def check_options(
    protocol: str,
    networks: Sequence[str],
    repeats: int,
    protocol_options: Mapping[str, object] | None = None,
    *,
    teacher: bool = False,
    soft_labels: bool = False,
) -> Protocol:
    """Checks the options of an evaluation before any image is decoded, and returns the protocol.

    Raises:
        OptionError: A name is unknown, a network is named twice or there is none, ``repeats`` is less than 1, or the
            protocol needs a teacher and there is none.
    """
    changed = named_protocol(protocol, protocol_options)
    if isinstance(networks, str) or not networks or len(set(networks)) < len(networks):
        raise OptionError(f"expected a list of different network names, got {networks!r}")
    for network in networks:
        check_network(network)
    check_whole("repeats", repeats)
    changed.check(teacher=teacher, soft_labels=soft_labels)
    return changed
