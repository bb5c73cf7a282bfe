"""The training loop of classifiers on small images, and their accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from dap.device import resolve_device
from dap.errors import DivergedError
from dap.nets.augmentation import shift_flip

__all__ = [
    "ClassifierTraining",
    "accuracy",
    "cross_entropy",
    "one_cycle",
    "predict",
    "probabilities",
    "train_classifier",
]

PREDICT_BATCH = 64
"""Few images, whose activations stay in a CPU's cache: more than twice as quick as 250."""


def one_cycle(
    net: nn.Module, *, peak_lr: float, weight_decay: float, steps: int
) -> tuple[torch.optim.AdamW, OneCycleLR]:
    """Return AdamW and torch's default one-cycle schedule.

    Over the first 30 % of the steps the learning rate rises from peak / 25 to the peak, then it falls to
    peak / 250,000, both along a cosine; meanwhile the first beta falls from 0.95 to 0.85 and rises again.

    Sources: Smith and Topin, "Super-Convergence", 2017, arXiv 1708.07120; Loshchilov and Hutter, "Decoupled Weight
    Decay Regularization", ICLR 2019.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=peak_lr, weight_decay=weight_decay, fused=True)
    return optimizer, OneCycleLR(optimizer, max_lr=peak_lr, total_steps=steps)


def train_classifier(
    net: nn.Module,
    images: Tensor | Callable[[Tensor], Tensor],
    labels: Tensor,
    *,
    steps: int,
    batch_size: int,
    peak_lr: float,
    weight_decay: float,
    generator: torch.Generator,
    device: str | torch.device | None = None,
    max_shift: int | None = None,
    at_once: int | None = None,
    weights: Tensor | None = None,
    after_step: Callable[[nn.Module, int], None] | None = None,
) -> None:
    """Train ``net`` in place with cross-entropy in float32, by the optimiser and the schedule of :func:`one_cycle`.

    Batches are consecutive parts of seeded permutations, so that every image is used equally often and every batch has
    the same size. Each is augmented by :func:`dap.nets.shift_flip`.

    Args:
        net: Maps float images in [-1, 1] to logits; moved to the device.
        images: uint8 images with shape (N, C, H, W); or a function that returns those of some indices, int64 (B,).
        labels: int64 class numbers with shape (N,).
        steps: Number of optimiser steps, at least 2.
        batch_size: Images in a step.
        peak_lr: The largest learning rate of the cycle.
        weight_decay: Decoupled weight decay, on all parameters.
        generator: CPU generator of the order and the augmentation.
        device: Where to train; None for CUDA if it is available, else the CPU.
        max_shift: Largest shift of the augmentation in pixels; None: that of :func:`dap.nets.shift_flip`.
        at_once: Images in a forward and backward pass; the gradients of a step are summed over them. None: all.
        weights: Factors of the images' losses, float32 (N,); None: all 1.
        after_step: Called as ``after_step(net, step)`` after each step, counted from 1.

    Raises:
        DivergedError: The loss of the last step is not finite.
    """
    training = ClassifierTraining(
        net, images, labels, steps=steps, batch_size=batch_size, peak_lr=peak_lr, weight_decay=weight_decay,
        generator=generator, device=device, max_shift=max_shift, at_once=at_once, weights=weights,
    )  # fmt: skip
    while training.done < steps:
        training.step()
        if after_step is not None:
            after_step(net, training.done)
    if not torch.isfinite(training.loss):
        raise DivergedError(
            f"the loss of a classifier is {float(training.loss)} after {steps} steps with a learning rate of up to "
            f"{peak_lr:g}: lower it (peak_lr)"
        )


class ClassifierTraining:
    """The training of :func:`train_classifier` step by step; its state can be saved and restored.

    Attributes:
        net: The network.
        done: The number of steps that were taken.
        loss: That of the last step; NaN before the first.
    """

    def __init__(
        self,
        net: nn.Module,
        images: Tensor | Callable[[Tensor], Tensor],
        labels: Tensor,
        *,
        steps: int,
        batch_size: int,
        peak_lr: float,
        weight_decay: float,
        generator: torch.Generator,
        device: str | torch.device | None = None,
        max_shift: int | None = None,
        at_once: int | None = None,
        weights: Tensor | None = None,
        momentum: float | None = None,
    ) -> None:
        """Begin a training; the arguments are those of :func:`train_classifier`.

        With ``momentum`` the optimiser is SGD with that momentum at the constant learning rate ``peak_lr``, and the
        weight decay is added to the gradients.
        """
        self._device = resolve_device(device)
        net.to(self._device).train()
        self.net, self.done, self.loss = net, 0, torch.tensor(torch.nan)
        self._images_of = images.to(self._device).__getitem__ if isinstance(images, Tensor) else images
        self._labels, self._batch_size, self._max_shift = labels.to(self._device), batch_size, max_shift
        self._at_once, self._generator = at_once or batch_size, generator
        self._weights = None if weights is None else weights.to(self._device)
        self._order = torch.empty(0, dtype=torch.int64)
        self._optimizer: Optimizer
        self._schedule: LRScheduler
        if momentum is None:
            self._optimizer, self._schedule = one_cycle(net, peak_lr=peak_lr, weight_decay=weight_decay, steps=steps)
        else:
            self._optimizer = SGD(net.parameters(), lr=peak_lr, momentum=momentum, weight_decay=weight_decay)
            self._schedule = ConstantLR(self._optimizer, factor=1.0)

    def step(self) -> None:
        """Take a step."""
        batch, self._order = _next_batch(self._order, len(self._labels), self._batch_size, self._generator)
        inputs = shift_flip(_to_float(self._images_of(batch).to(self._device)), self._generator, self._max_shift)
        self._optimizer.zero_grad()
        losses = []
        for part, rows in zip(inputs.split(self._at_once), batch.split(self._at_once), strict=True):
            share = len(part) / self._batch_size  # 1 if there is one part, which then has the same gradient
            weights = None if self._weights is None else self._weights[rows]
            loss = share * cross_entropy(self.net(part), self._labels[rows], weights)
            loss.backward()
            losses.append(loss.detach())
        self.loss = torch.stack(losses).sum()
        self._optimizer.step()
        self._schedule.step()
        self.done += 1

    def state(self) -> dict[str, object]:
        """Return all that the next steps depend on, for :meth:`restore` of the same training."""
        return {
            "done": self.done, "net": self.net.state_dict(), "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(), "generator": self._generator.get_state(),
            "order": self._order.clone(),  # without the storage of the whole permutation
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a :meth:`state`."""
        self.done, self._order = state["done"], state["order"]
        self.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._generator.set_state(state["generator"])


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over images of the cross-entropy, each multiplied by its weight, (B,), if there are any."""
    if weights is None:
        return functional.cross_entropy(logits, labels)
    return (weights * functional.cross_entropy(logits, labels, reduction="none")).mean()


@torch.no_grad()
def predict(net: nn.Module, images: Tensor, device: str | torch.device | None = None) -> Tensor:
    """Return the likeliest class of each image.

    Args:
        net: Maps float images in [-1, 1] to logits; moved to the device; its train or eval mode does not change.
        images: uint8 images with shape (N, C, H, W).
        device: Where to compute; None for CUDA if it is available, else the CPU.

    Returns:
        int64 class numbers with shape (N,), on the CPU.
    """
    return torch.cat([logits.argmax(1) for logits in _logits(net, images, device)])


@torch.no_grad()
def probabilities(net: nn.Module, images: Tensor, device: str | torch.device | None = None) -> Tensor:
    """Return the probability that a network gives each class, float32 (N, classes) on the CPU; see :func:`predict`."""
    return torch.cat([logits.float().softmax(1) for logits in _logits(net, images, device)])


def _logits(net: nn.Module, images: Tensor, device: str | torch.device | None) -> list[Tensor]:
    device = resolve_device(device)
    training = net.training
    net.to(device).eval()
    logits = [net(_to_float(batch.to(device))).cpu() for batch in images.split(PREDICT_BATCH)]
    net.train(training)
    return logits


def accuracy(net: nn.Module, images: Tensor, labels: Tensor, device: str | torch.device | None = None) -> float:
    """Return the share of images, in [0, 1], whose label is the class that :func:`predict` returns."""
    return (predict(net, images, device) == labels.cpu()).double().mean().item()


def _to_float(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _next_batch(order: Tensor, count: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the indices of a batch and those after it, from ``order`` and then new permutations."""
    while len(order) < size:
        order = torch.cat([order, torch.randperm(count, generator=generator)])
    return order[:size], order[size:]
