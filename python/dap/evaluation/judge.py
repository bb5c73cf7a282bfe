"""The judge: a classifier trained on real images, which measures how many distilled images look like their class.

It is trained like the networks of protocol ``small`` (:mod:`dap.evaluation.small`), but has 64 channels instead of 32,
and sees all real training images for 1,200 steps. It errs itself: trained on the 10,000 training images of fashion-mini
with seed 0 on the CPU, it assigns 89.4 % of the 10,000 real test images to their class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dap.bar import Bars
from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation.small import Small
from dap.nets import predict, probabilities
from dap.rng import generator
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from dap.data.source import Source

__all__ = ["JUDGE", "Judged", "Recognition", "judge_images", "judge_source", "recognised", "train_judge"]

JUDGE = Small(width=64, few_steps=1200, many_steps=1200)
SHOWN = Bars(shown=True)
NOTHING_KEPT = "nothing is kept of the judge; the same command trains it anew"


class Recognition(NamedTuple):
    """Shares, in [0, 1], of images that the judge assigns to their own class: of all, and by class number."""

    share: float
    per_class: dict[int, float]


class Judged(NamedTuple):
    """What the judge sees in each image of a set.

    Attributes:
        own: The probability of the image's own class, float32 (n,).
        seen_as: The likeliest class, as a number of the set's classes, int64 (n,).
    """

    own: npt.NDArray[np.float32]
    seen_as: npt.NDArray[np.int64]


@own_torch_state()
def train_judge(
    images: np.ndarray,
    labels: np.ndarray,
    classes: int,
    seed: int = 0,
    device: str | torch.device | None = None,
    *,
    bars: Bars = SHOWN,
    kept: str = NOTHING_KEPT,
) -> nn.Module:
    """Trains the judge on real images, under a progress bar.

    Args:
        images: Real training images, uint8 with shape (N, C, S, S).
        labels: Their class numbers, integers with shape (N,).
        classes: Number of classes.
        seed: Seed of the judge, whose random numbers are independent of those of the evaluated networks.
        device: Where to train; None: the GPU if there is one.
        bars: Opens the progress bar.
        kept: What Ctrl-C leaves behind.

    Raises:
        OptionError: The images or labels have another shape or dtype.
    """
    with bars.stage("judge", total=JUDGE.steps(len(images), classes), unit="step", kept=kept) as bar:
        return JUDGE.fit(
            images,
            labels,
            classes=classes,
            network="convnet3",
            generator=generator(seed, "judge"),
            device=resolve_device(device),
            after_step=lambda net, step: bar.update(),
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


def judge_source(
    distilled: Source, real: Source, seed: int = 0, device: str | torch.device | None = None
) -> Recognition:
    """Return the share of a set's images that a judge recognises, which is trained on all real images of its classes.

    Args:
        distilled: The set; the judge sees images of the size and the channels of its first ones.
        real: Real training images with the same class names.
        seed: Seed of the judge.
        device: Where to train; None: the GPU if there is one.

    Raises:
        OptionError: ``real`` lacks a class of the set.
    """
    judge = _judge_for(distilled, real, seed, device)
    return recognised(judge, *_labelled(distilled, distilled.class_names, distilled), device)


def judge_images(
    sets: Sequence[tuple[Source, Source]], seed: int = 0, device: str | torch.device | None = None
) -> list[Judged]:
    """Return what a judge sees in each image of some sets; see :func:`judge_source`.

    Args:
        sets: Each set with its real images. Sets whose real images are one object share a judge, if their classes and
            the size and channels of their images are the same.
        seed: Seed of the judges.
        device: Where to train; None: the GPU if there is one.
    """
    judges, seen = dict[tuple[object, ...], nn.Module](), list[Judged]()
    for distilled, real in sets:
        key = id(real), tuple(distilled.class_names), distilled.appearance.size, distilled.appearance.channels
        if key not in judges:
            judges[key] = _judge_for(distilled, real, seed, device)
        images, labels = _labelled(distilled, distilled.class_names, distilled)
        with own_torch_state():
            found = probabilities(judges[key], torch.from_numpy(images), device).numpy()
        seen.append(Judged(found[np.arange(len(found)), labels], found.argmax(1)))
    return seen


def _judge_for(distilled: Source, real: Source, seed: int, device: str | torch.device | None) -> nn.Module:
    names = distilled.class_names
    return train_judge(*_labelled(real.subset(names), names, distilled), len(names), seed, device)


def _labelled(source: Source, names: Sequence[str], like: Source) -> tuple[np.ndarray, np.ndarray]:
    """Return all images in the size of another source, and the places of their classes in ``names``."""
    numbers = np.array([names.index(name) for name in source.class_names], np.int64)
    size, channels = like.appearance.size, like.appearance.channels
    return source.images(np.arange(len(source)), size=size, channels=channels), numbers[source.labels]
