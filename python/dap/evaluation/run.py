"""Protocols by name, and one training by a protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dap import rng
from dap.bar import NO_BARS, Bars
from dap.config import check_choice, check_whole
from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation.protocol import Outcome, Protocol, Training
from dap.evaluation.protocols import PUBLISHED
from dap.evaluation.small import Small
from dap.nets import check_network
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PROTOCOLS", "check_options", "named_protocol", "run_protocol"]

PROTOCOLS: dict[str, Protocol] = {"small": Small()} | {protocol.name: protocol for protocol in PUBLISHED}


def named_protocol(name: str, options: Mapping[str, object] | None = None) -> Protocol:
    """Return a protocol by name, with other constants.

    Raises:
        OptionError: The name or an option is unknown, or a value is out of range.

    Example:
        >>> from dap.evaluation.recipe import Case
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
    weights: np.ndarray | None = None,
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
        weights: Factors of the images' losses, with a mean of 1 in each class, float32 (N,); None: all 1. An image that
            is pasted into another counts with its own weight.
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
        weights=None if weights is None else weights.astype(np.float32),
        checkpoint=checkpoint,
        title=title,
        bars=bars,
    )
    return protocol.run((train_images, train_labels), (test_images, test_labels), training)


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
