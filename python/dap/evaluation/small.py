"""Protocol ``small``: a ConvNet-3 trained on a set of images of 28 to 64 pixels with hard labels.

The protocol is dap's own. Its network is that of the hard-label protocol of Minimax (arXiv 2311.15529) and IDC (arXiv
2205.14959), with three blocks and 32 channels. It is trained by AdamW with a one-cycle schedule, on images that are
shifted by up to 3 pixels and mirrored at random, for 400 steps (1,200 for sets of 100 or more images a class): seconds
on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dap.errors import OptionError
from dap.nets import accuracy, create_net, train_classifier

__all__ = ["Outcome", "Small", "image_tensors"]


class Outcome(NamedTuple):
    """Test accuracies of one training in per cent: at its end, and the best of those measured on the way."""

    last: float
    best: float


@dataclass(frozen=True)
class Small:
    """The constants of protocol ``small``, and its training and testing.

    Accuracy on the test images is measured ten times at even intervals. The result to report is ``last``, measured
    after the last step. ``best`` is the maximum over the ten: it is selected on the test images, as other papers do,
    and is therefore too high.

    Attributes:
        width: Channels of each block.
        peak_lr: Largest learning rate of the one-cycle schedule (PyTorch's defaults otherwise).
        weight_decay: Weight decay of AdamW.
        few_steps: Optimiser steps for sets with less than ``many`` images a class on average.
        many_steps: Optimiser steps for other sets.
        many: Images a class from which ``many_steps`` are taken.
        batch_size: Most images in a step; a smaller set is one batch.
        max_shift: Largest random shift of an image in pixels, on both axes; it is also mirrored with probability 1/2.
        checks: Number of times that the test accuracy is measured.
    """

    width: int = 32
    peak_lr: float = 3e-3
    weight_decay: float = 5e-4
    few_steps: int = 400
    many_steps: int = 1200
    many: int = 100
    batch_size: int = 128
    max_shift: int = 3
    checks: int = 10

    name: ClassVar[str] = "small"

    def steps(self, images: int, classes: int) -> int:
        """Optimiser steps for a set with this number of images and classes."""
        return self.many_steps if images >= self.many * classes else self.few_steps

    def fit(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        classes: int,
        network: str,
        generator: torch.Generator,
        device: torch.device,
        after_step: Callable[[nn.Module, int], None] | None = None,
    ) -> nn.Module:
        """Trains one network on a set; arguments as for :func:`dap.evaluation.run_protocol`."""
        pixels, targets = image_tensors(images, labels, classes, device)
        net = create_net(
            network,
            width=self.width,
            channels=pixels.shape[1],
            classes=classes,
            size=pixels.shape[2],
            generator=generator,
        )
        train_classifier(
            net,
            pixels,
            targets,
            steps=self.steps(len(pixels), classes),
            batch_size=min(len(pixels), self.batch_size),
            peak_lr=self.peak_lr,
            weight_decay=self.weight_decay,
            generator=generator,
            device=device,
            max_shift=self.max_shift,
            after_step=after_step,
        )
        return net

    def run(
        self,
        train_images: np.ndarray,
        train_labels: np.ndarray,
        test_images: np.ndarray,
        test_labels: np.ndarray,
        *,
        classes: int,
        network: str,
        generator: torch.Generator,
        device: torch.device,
    ) -> Outcome:
        """Trains one network on one set and tests it; arguments as for :func:`dap.evaluation.run_protocol`."""
        pixels, targets = image_tensors(test_images, test_labels, classes, device)
        steps = self.steps(len(train_images), classes)
        moments = {steps * check // self.checks for check in range(1, self.checks + 1)}
        accuracies: list[float] = []

        def check(net: nn.Module, step: int) -> None:
            if step in moments:
                accuracies.append(100 * accuracy(net, pixels, targets, device))

        self.fit(
            train_images,
            train_labels,
            classes=classes,
            network=network,
            generator=generator,
            device=device,
            after_step=check,
        )
        return Outcome(last=accuracies[-1], best=max(accuracies))


def image_tensors(images: np.ndarray, labels: np.ndarray, classes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Checked copies of labelled images on a device: uint8 (N, C, S, S) and int64 (N,).

    Raises:
        OptionError: Another shape or dtype, no images, or a label outside 0 … classes − 1.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3] or images.dtype != np.uint8 or len(images) == 0:
        raise OptionError(f"expected uint8 images with shape (N, C, S, S), N >= 1; got {images.dtype} {images.shape}")
    if labels.shape != images.shape[:1]:
        raise OptionError(f"expected one label for each of {len(images)} images, got shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise OptionError(f"expected labels in 0 … {classes - 1}, got {labels.min()} … {labels.max()}")
    return torch.tensor(images, device=device), torch.tensor(labels, dtype=torch.int64, device=device)
