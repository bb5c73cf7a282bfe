"""Trains classifiers on sets of images and tests them on real images; repeats are paired across the sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dap import rng
from dap.bar import progress_bar
from dap.config import check_choice, check_whole
from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation.result import EvaluationResult, Row
from dap.evaluation.small import Outcome, Small
from dap.evaluation.statistics import paired_difference
from dap.nets import check_network
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    import torch

__all__ = ["PROTOCOLS", "LabelledImages", "check_options", "evaluate_sets", "run_protocol"]

PROTOCOLS: dict[str, Small] = {protocol.name: protocol for protocol in (Small(),)}

LabelledImages = tuple[np.ndarray, np.ndarray]


@own_torch_state()
def run_protocol(
    train_images: np.ndarray,
    train_labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    classes: int,
    protocol: str = "small",
    network: str = "convnet3",
    seed: int = 0,
    repeat: int = 0,
    device: str | torch.device | None = None,
) -> Outcome:
    """Trains one network on one set by a protocol, and tests it.

    Args:
        train_images: uint8 with shape (N, C, S, S).
        train_labels: Class numbers, integers in [0, classes) with shape (N,).
        test_images: uint8 with shape (M, C, S, S).
        test_labels: Integers in [0, classes) with shape (M,).
        classes: Number of classes.
        protocol: Name of the protocol.
        network: Name of the classifier, one of :func:`dap.list_networks`, or of timm's.
        seed: Root seed. Together with the network's name and ``repeat`` it decides initial weights, order and
            augmentation, which are therefore the same for two sets of one size.
        repeat: Number of the repeat.
        device: Where to train; None: the GPU if there is one.

    Returns:
        Test accuracies in per cent.

    Raises:
        OptionError: A name is unknown, or images or labels have another shape or dtype.

    Example:
        >>> images, labels = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 0, 1, 1])
        >>> images[2:] = 255
        >>> run_protocol(images, labels, images, labels, classes=2).last
        100.0
    """
    check_choice("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol].run(
        train_images,
        train_labels,
        test_images,
        test_labels,
        classes=classes,
        network=network,
        generator=rng.generator(seed, "evaluate", network, repeat),
        device=resolve_device(device),
    )


def evaluate_sets(
    sets: Mapping[str, LabelledImages | Callable[[int], LabelledImages]],
    test: LabelledImages,
    *,
    class_names: Sequence[str],
    protocol: str = "small",
    networks: Sequence[str] = ("convnet3",),
    repeats: int = 3,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> EvaluationResult:
    """Trains every network on every set, ``repeats`` times, and compares the sets with the first one.

    Args:
        sets: Images and labels (as for :func:`run_protocol`) by the set's name. For a set that is drawn anew in each
            repeat: a function that returns them for the number of the repeat. All sets are compared with the first.
        test: Images and labels to test on.
        class_names: Name of each class, in label order.
        protocol: Name of the protocol.
        networks: Names of the classifiers, all different.
        repeats: Trainings of each network on each set, at least 1.
        seed: Root seed of all repeats.
        device: Where to train; None: the GPU if there is one.

    Returns:
        One row per network and set. Repeat r uses the same seed for every set, so that differences are paired.

    Raises:
        OptionError: A name is unknown, a network is named twice, there is no set or network, ``repeats`` is less than
            1, or images or labels have another shape or dtype.
    """
    check_options(protocol, networks, repeats)
    if not sets:
        raise OptionError("expected at least one set to evaluate, got none")
    rows: list[Row] = []
    with progress_bar("evaluate", total=len(networks) * len(sets) * repeats, unit="training") as progress:
        for network in networks:
            first: tuple[float, ...] | None = None
            for name, labelled_images in sets.items():
                outcomes = []
                for repeat in range(repeats):
                    images, labels = labelled_images(repeat) if callable(labelled_images) else labelled_images
                    outcomes.append(
                        run_protocol(
                            images,
                            labels,
                            *test,
                            classes=len(class_names),
                            protocol=protocol,
                            network=network,
                            seed=seed,
                            repeat=repeat,
                            device=device,
                        )
                    )
                    progress.update()
                last, best = (tuple(accuracies) for accuracies in zip(*outcomes, strict=True))
                difference = None if first is None else paired_difference(last, first)
                first = last if first is None else first
                rows.append(Row(name, network, len(images), last, best, difference))
    return EvaluationResult(protocol, seed, repeats, len(test[0]), tuple(class_names), tuple(rows))


def check_options(protocol: str, networks: Sequence[str], repeats: int) -> None:
    """Checks the options of an evaluation before any image is decoded.

    Raises:
        OptionError: A name is unknown, a network is named twice or there is none, or ``repeats`` is less than 1.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    if isinstance(networks, str) or not networks or len(set(networks)) < len(networks):
        raise OptionError(f"expected a list of different network names, got {networks!r}")
    for network in networks:
        check_network(network)
    check_whole("repeats", repeats)
