"""The judge: a classifier trained on real images, which measures how many distilled images look like their class.

It is trained like the networks of protocol ``small`` (:mod:`dap.evaluation.small`), but has 64 channels instead of 32,
and sees all real training images for 1,200 steps. It errs itself: trained on the 10,000 training images of fashion-mini
with seed 0 on the CPU, it assigns 89.4 % of the 10,000 real test images to their class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation.small import Small
from dap.nets import predict
from dap.rng import generator
from dap.torch_state import own_torch_state

__all__ = ["JUDGE", "Recognition", "recognised", "train_judge"]

JUDGE = Small(width=64, few_steps=1200, many_steps=1200)


class Recognition(NamedTuple):
    """Shares, in [0, 1], of images that the judge assigns to their own class: of all, and by class number."""

    share: float
    per_class: dict[int, float]


@own_torch_state()
def train_judge(
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    seed: int = 0,
    device: str | torch.device | None = None,
    *,
    after_step: Callable[[nn.Module, int], None] | None = None,
) -> nn.Module:
    """Trains the judge on real images.

    Args:
        images: Real training images, uint8 with shape (N, C, S, S).
        labels: Their class numbers, integers with shape (N,).
        classes: Number of classes.
        seed: Seed of the judge, whose random numbers are independent of those of the evaluated networks.
        device: Where to train; None: the GPU if there is one.
        after_step: Called as ``after_step(net, step)`` after each step, counted from 1.

    Raises:
        OptionError: The images or labels have another shape or dtype.
    """
    return JUDGE.fit(
        images,
        labels,
        classes=classes,
        network="convnet3",
        generator=generator(seed, "judge"),
        device=resolve_device(device),
        after_step=after_step,
    )


@own_torch_state()
def recognised(
    judge: nn.Module, images: np.ndarray, labels: np.ndarray, device: str | torch.device | None = None
) -> Recognition:
    """The share of images that the judge assigns to the class of their label.

    Args:
        judge: A network from :func:`train_judge`.
        images: uint8 with shape (N, C, S, S), N at least 1, of the size of the judge's training images.
        labels: Integers with shape (N,).
        device: Where to compute; None: the GPU if there is one.

    Raises:
        OptionError: There are no images, or the numbers of images and labels differ.
    """
    if len(images) == 0 or labels.shape != images.shape[:1]:
        raise OptionError(f"expected N >= 1 images and N labels, got {len(images)} images and shape {labels.shape}")
    correct = predict(judge, torch.tensor(images), device).numpy() == labels
    return Recognition(
        share=float(correct.mean()),
        per_class={int(label): float(correct[labels == label].mean()) for label in np.unique(labels)},
    )
