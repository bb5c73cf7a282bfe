"""The judge: says whether an image looks like its class.

It is the network of protocol ``small`` at width 64, trained on all real training images at hand by the same recipe with
1,200 steps (design.md, section 4). Trained on the 10,000 training images of fashion-mini with seed 0 on the CPU, it
takes 89.4 % of the 10,000 test images for their class.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation.small import Small
from dap.nets import predict
from dap.rng import generator

__all__ = ["JUDGE", "Recognition", "recognised", "train_judge"]

JUDGE = Small(width=64, few_steps=1200, many_steps=1200)


class Recognition(NamedTuple):
    """Shares, in [0, 1], of images that the judge takes for their class: of all, and by class number."""

    share: float
    per_class: dict[int, float]


def train_judge(
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> nn.Module:
    """Trains the judge on real images.

    Args:
        images: Real training images, uint8 with shape (N, C, S, S).
        labels: Their class numbers, integers with shape (N,).
        classes: Number of classes.
        seed: The judge's own; it shares no randomness with the networks that are evaluated.
        device: Where to train; None means CUDA where it is there, else the CPU.

    Raises:
        OptionError: The images or labels are not of that form.
    """
    return JUDGE.fit(
        images,
        labels,
        classes=classes,
        network="convnet3",
        generator=generator(seed, "judge"),
        device=resolve_device(device),
    )


def recognised(
    judge: nn.Module, images: np.ndarray, labels: np.ndarray, device: str | torch.device | None = None
) -> Recognition:
    """The share of images that the judge takes for the class that they are labelled with.

    Args:
        judge: From :func:`train_judge`.
        images: uint8 with shape (N, C, S, S), N at least 1, of the size that the judge was trained with.
        labels: Integers with shape (N,).
        device: Where to compute; None means CUDA where it is there, else the CPU.

    Raises:
        OptionError: There are no images, or not one label for each.
    """
    if len(images) == 0 or labels.shape != images.shape[:1]:
        raise OptionError(f"expected N >= 1 images and N labels, got {len(images)} images and shape {labels.shape}")
    right = predict(judge, torch.tensor(images), device).numpy() == labels
    return Recognition(
        share=float(right.mean()),
        per_class={int(label): float(right[labels == label].mean()) for label in np.unique(labels)},
    )
