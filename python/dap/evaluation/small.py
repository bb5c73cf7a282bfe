"""Protocol ``small``: a ConvNet-3 trained on a set of images of 28 to 64 pixels with hard labels.

The protocol is dap's own. Its network is that of the hard-label protocol of Minimax (arXiv 2311.15529) and IDC (arXiv
2205.14959), with three blocks and 32 channels. It is trained by AdamW with a one-cycle schedule, on images that are
shifted by up to 3 pixels and mirrored at random, for 400 steps (1,200 for sets of 100 or more images a class): seconds
on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from dap.config import check_number, check_whole, from_options
from dap.errors import OptionError
from dap.evaluation.protocol import LabelledImages, Outcome, Protocol, TestImages, Training
from dap.evaluation.recipe import Case
from dap.nets import Network, accuracy, create_net, list_nets, train_classifier

__all__ = ["Small", "image_tensors"]


@dataclass(frozen=True)
class Small(Protocol):
    """The constants of protocol ``small``, and its training and testing.

    Accuracy on the test images is measured ten times at even intervals. The result to report is ``last``, measured
    after the last step. ``best`` is the maximum over the ten: it is selected on the test images, as other papers do,
    and is therefore too high.

    Attributes:
        width: Channels of each block of a ConvNet; other networks have their own.
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

    def __post_init__(self) -> None:
        for name in ("width", "few_steps", "many_steps", "many", "batch_size", "checks"):
            check_whole(name, getattr(self, name))
        check_whole("max_shift", self.max_shift, 0)
        check_number("peak_lr", self.peak_lr, above=0)
        check_number("weight_decay", self.weight_decay, 0)

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
        weights: np.ndarray | None = None,
        after_step: Callable[[nn.Module, int], None] | None = None,
    ) -> nn.Module:
        """Trains one network on a set; arguments as for :func:`dap.evaluation.run_protocol`."""
        pixels, targets = image_tensors(images, labels, classes, device)
        case = Case(network, -(-len(pixels) // classes), classes, pixels.shape[2])
        net = self.network(case, channels=pixels.shape[1], generator=generator)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if network not in list_nets():  # dropout and stochastic depth draw from torch's own generators
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
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
                weights=None if weights is None else torch.from_numpy(weights),
                after_step=after_step,
            )
        return net

    def with_options(self, options: Mapping[str, object]) -> Small:
        """Return the protocol with other constants."""
        return from_options(Small, asdict(self) | dict(options), "protocol 'small'")

    def sides(self, case: Case, *, uniform: bool) -> tuple[int, int]:
        """Return the side of the set's images, for training and for testing."""
        return case.side, case.side

    def network(self, case: Case, *, channels: int, generator: torch.Generator) -> Network:
        """Build the network of a case on the CPU."""
        width = self.width if case.network in list_nets() else None
        return create_net(
            case.network, width=width, channels=channels, classes=case.classes, size=case.side, generator=generator
        )

    def number_of_checks(self, case: Case) -> int:
        """Return how many accuracies ``best`` is the best of: one after each step at most."""
        return min(self.checks, self.steps(case.ipc * case.classes, case.classes))

    def constants(self, case: Case) -> dict[str, object]:
        """Return all constants by name."""
        return asdict(self)

    def check(self, *, teacher: bool, soft_labels: bool) -> None:
        """Raise OptionError if there is a teacher or its labels."""
        if teacher or soft_labels:
            name = "teacher" if teacher else "soft_labels"
            raise OptionError(f"protocol 'small' trains on hard labels: leave {name}= out, or take protocol 'rded'")

    def run(self, train: LabelledImages, test: TestImages, training: Training) -> Outcome:
        """Train one network on one set and test it."""
        images, labels = train
        test_images, test_labels = test
        everything = test_images(np.arange(len(test_labels))) if callable(test_images) else test_images
        pixels, targets = image_tensors(everything, test_labels, training.classes, training.device)
        steps = self.steps(len(images), training.classes)
        moments = {steps * check // self.checks for check in range(1, self.checks + 1)}
        accuracies: list[float] = []

        def check(net: nn.Module, step: int) -> None:
            if step in moments:
                accuracies.append(100 * accuracy(net, pixels, targets, training.device))

        self.fit(
            images,
            labels,
            classes=training.classes,
            network=training.network,
            generator=training.generator,
            device=training.device,
            weights=training.weights,
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
