"""Trains classifiers on sets of images and tests them on real ones, in repeats that are paired across the sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from dap import rng
from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation.result import EvaluationResult, Row
from dap.evaluation.small import Outcome, Small
from dap.evaluation.statistics import paired_difference
from dap.nets import list_nets
from dap.registry import unknown_name_error

if TYPE_CHECKING:
    import torch

__all__ = ["PROTOCOLS", "LabelledImages", "check_options", "evaluate_sets", "run_protocol"]

PROTOCOLS = {protocol.name: protocol for protocol in (Small(),)}

LabelledImages = tuple[np.ndarray, np.ndarray]


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
        protocol: Name of the recipe.
        network: Name of the classifier, one of :func:`dap.nets.list_nets`.
        seed: Root seed. Weights, order and augmentation follow from it, the network's name and ``repeat``, so that two
            sets of one size meet the same ones.
        repeat: Number of the repeat.
        device: Where to train; None means CUDA where it is there, else the CPU.

    Returns:
        Test accuracies in per cent.

    Raises:
        OptionError: An unknown name, or images or labels that are not of that form.

    Example:
        >>> images, labels = np.zeros((4, 1, 8, 8), np.uint8), np.array([0, 0, 1, 1])
        >>> images[2:] = 255
        >>> run_protocol(images, labels, images, labels, classes=2).last
        100.0
    """
    return _protocol(protocol).run(
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
        sets: Images and labels (as for :func:`run_protocol`) by the set's name; or a function from the number of the
            repeat to them, for a set that is drawn anew in each repeat. The first set is what others are compared with.
        test: Images and labels to test on.
        class_names: Name of each class, in label order.
        protocol: Name of the recipe.
        networks: Names of the classifiers, all different.
        repeats: Trainings of each network on each set, at least 1.
        seed: Root seed of all repeats.
        device: Where to train; None means CUDA where it is there, else the CPU.

    Returns:
        One row per network and set. Repeat r starts from the same generator for every set, so differences are paired.

    Raises:
        OptionError: An unknown name, no set, no network, a network named twice, fewer than one repeat, or images or
            labels of another form.
    """
    check_options(protocol, networks, repeats)
    if not sets:
        raise OptionError("expected at least one set to evaluate, got none")
    rows: list[Row] = []
    with tqdm(total=len(networks) * len(sets) * repeats, desc="evaluate", unit="training", disable=None) as progress:
        for network in networks:
            first: tuple[float, ...] | None = None
            for name, given in sets.items():
                outcomes = []
                for repeat in range(repeats):
                    images, labels = given(repeat) if callable(given) else given
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
                last, best = tuple(found.last for found in outcomes), tuple(found.best for found in outcomes)
                difference = None if first is None else paired_difference(last, first)
                first = last if first is None else first
                rows.append(Row(name, network, len(images), last, best, difference))
    return EvaluationResult(protocol, seed, repeats, len(test[0]), tuple(class_names), tuple(rows))


def _protocol(name: str) -> Small:
    if name not in PROTOCOLS:
        raise unknown_name_error("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]


def check_options(protocol: str, networks: Sequence[str], repeats: int) -> None:
    """Finds at once what would else be found after the first training or after all images are decoded.

    Raises:
        OptionError: An unknown name, no network or one named twice, or fewer than one repeat.
    """
    _protocol(protocol)
    if isinstance(networks, str) or not networks or len(set(networks)) < len(networks):
        raise OptionError(f"expected a list of different network names, got {networks!r}")
    for network in networks:
        if network not in list_nets():
            raise unknown_name_error("network", network, list_nets())
    if repeats < 1:
        raise OptionError(f"repeats must be at least 1, got {repeats}")
