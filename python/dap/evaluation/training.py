"""The training loop of published protocols: by epochs, resumable, with the test accuracies on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dap.errors import DivergedError, OptionError
from dap.evaluation.augment import apply, centre, cutmix, draw, normalised
from dap.evaluation.checkpoint import read_checkpoint, training_identity, write_checkpoint
from dap.evaluation.optimiser import make_optimiser
from dap.evaluation.protocol import Outcome, TestImages, Training
from dap.evaluation.recipe import Recipe
from dap.evaluation.small import image_tensors
from dap.evaluation.soft_labels import SoftLabels, Step
from dap.nets import cross_entropy, images_at_once
from dap.nets.train import PREDICT_BATCH

__all__ = ["SAVE_SECONDS", "accuracy_on", "memory_layout", "train_and_test", "train_network"]

SAVE_SECONDS = 60.0
"""Seconds between two checkpoints."""


def train_and_test(
    recipe: Recipe, images: np.ndarray, labels: np.ndarray, test: TestImages, training: Training
) -> Outcome:
    """Return the test accuracies of :func:`train_network`."""
    _, accuracies = train_network(recipe, images, labels, test, training)
    return Outcome(last=accuracies[-1], best=max(accuracies))


def train_network(
    recipe: Recipe, images: np.ndarray, labels: np.ndarray, test: TestImages, training: Training
) -> tuple[nn.Module, list[float]]:
    """Train one network on a set, and test it as often as the recipe says.

    A training that was stopped continues from its last checkpoint with the same numbers: epochs are whole, and the
    state of the generator is in the checkpoint.

    Args:
        recipe: The constants.
        images: uint8 with shape (N, C, S, S).
        labels: Integers in [0, classes) with shape (N,).
        test: Test images with the side ``recipe.test_side``, and labels.
        training: The rest.

    Returns:
        The network, and the accuracies in per cent, the last one after the last epoch.

    Raises:
        OptionError: Images or labels have another shape or dtype, or the network does not take images of this size.
        DivergedError: A loss is not finite.
        FormatError: The checkpoint is damaged, or of another training.
    """
    pixels, targets = image_tensors(images, labels, training.classes, training.device)
    _check_test(test, recipe, training.classes, pixels.shape[1])
    recipe.check_parts(training.network, images=len(pixels), channels=pixels.shape[1], classes=training.classes)
    generator, device = training.generator, training.device
    identity = "" if training.checkpoint is None else training_identity(recipe, images, labels, test[1], training)
    stored = None
    if recipe.labels == "stored":
        stored = SoftLabels(recipe, pixels, targets, training.classes, training.teacher, training.soft_labels)
    weights = None if training.weights is None else torch.tensor(training.weights, device=device)
    net: nn.Module = recipe.network(
        training.network, channels=pixels.shape[1], classes=training.classes, generator=generator
    )
    shape = (pixels.shape[1], recipe.size, recipe.size)
    batch_size = min(recipe.batch_size, len(pixels))
    has_statistics = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in net.modules())
    at_once = batch_size if has_statistics else min(batch_size, images_at_once(net, shape))
    net.to(device).to(memory_format=memory_layout(net, device)).train()
    optimizer = make_optimiser(net, recipe)
    done, accuracies = 0, list[float]()
    if training.checkpoint is not None and training.checkpoint.is_file():
        done, accuracies = read_checkpoint(training.checkpoint, net, optimizer, generator, identity=identity)
    if done == recipe.epochs:  # perhaps on other test images
        accuracies[-1] = 100 * accuracy_on(net, test, recipe, device)
    saved = time.monotonic()
    kept = (
        "nothing is kept of a training that is stopped, unless a folder for checkpoints is given"
        if training.checkpoint is None
        else f"{training.title}: the epochs up to a minute ago are kept; the same command continues after them"
    )
    bar = training.bars.stage(training.title, total=recipe.epochs, done=done, unit="epoch", kept=kept, leave=False)
    with bar as progress:
        for epoch in range(done, recipe.epochs):
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(epoch)
            loss = _epoch(net, optimizer, recipe, _Set(pixels, targets, weights, stored), epoch, training, at_once)
            if not np.isfinite(loss):
                raise DivergedError(
                    f"{training.title}: the loss of epoch {epoch + 1} of {recipe.epochs} is {loss} (network "
                    f"{training.network}, learning rate {recipe.rate(epoch):g}); lower the option lr"
                )
            if recipe.is_tested(epoch):
                accuracies.append(100 * accuracy_on(net, test, recipe, device))
                progress.set_postfix(loss=f"{loss:.3f}", accuracy=f"{accuracies[-1]:.1f}", refresh=False)
            progress.update()
            late = time.monotonic() - saved > SAVE_SECONDS or epoch == recipe.epochs - 1
            if training.checkpoint is not None and late:
                write_checkpoint(
                    training.checkpoint, net, optimizer, generator, epoch + 1, accuracies, identity=identity
                )
                saved = time.monotonic()
    return net, accuracies


@torch.no_grad()
def accuracy_on(net: nn.Module, test: TestImages, recipe: Recipe, device: torch.device) -> float:
    """Return the share of test images, in [0, 1], whose likeliest class is their label; then the network trains on."""
    images, labels = test
    net.eval()
    correct = 0
    for rows in np.split(np.arange(len(labels)), range(PREDICT_BATCH, len(labels), PREDICT_BATCH)):
        batch = torch.from_numpy(images(rows) if callable(images) else images[rows]).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            classes = net(normalised(centre(batch, recipe.size))).argmax(1)
        correct += int((classes.cpu().numpy() == labels[rows]).sum())
    net.train()
    return correct / len(labels)


def memory_layout(net: nn.Module, device: torch.device) -> torch.memory_format:
    """Return channels-last; on a CPU channels-first for networks with group norms, whose gradient is quicker so."""
    has_groups = any(isinstance(layer, nn.GroupNorm) for layer in net.modules())
    return torch.contiguous_format if device.type == "cpu" and has_groups else torch.channels_last


class _Set(NamedTuple):
    """The set on the device: uint8 images (N, C, S, S), labels and weights (N,), and soft labels if they are stored."""

    images: Tensor
    labels: Tensor
    weights: Tensor | None
    stored: SoftLabels | None


class _Mixed(NamedTuple):
    """B mixed images with their two labels, and the share of the first one; or with a teacher's logits.

    The weights, if there are any, are those of both images, (2, B).
    """

    inputs: Tensor
    targets: Tensor
    others: Tensor
    share: float
    logits: Tensor | None
    weights: Tensor | None

    def part(self, rows: Tensor) -> _Mixed:
        """Return some of the images."""
        logits = None if self.logits is None else self.logits[rows]
        weights = None if self.weights is None else self.weights[:, rows]
        return _Mixed(self.inputs[rows], self.targets[rows], self.others[rows], self.share, logits, weights)


def _epoch(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    data: _Set,
    epoch: int,
    training: Training,
    at_once: int,
) -> float:
    """Train for one epoch and return the mean loss. Dropout and stochastic depth draw from torch's own generators."""
    generator, device = training.generator, data.images.device
    seed = int(torch.randint(2**62, (), generator=generator))
    total = torch.zeros((), device=device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        steps = _drawn(recipe, data, generator) if data.stored is None else _stored(data, data.stored.steps(epoch))
        for mixed in steps:
            optimizer.zero_grad()
            for step_part in torch.arange(len(mixed.inputs)).split(recipe.batch_size // recipe.accumulation):
                for part in step_part.split(at_once):
                    weight = len(part) / len(step_part) / recipe.accumulation
                    with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                        loss = _loss(net, mixed.part(part), recipe, training)
                    (weight * loss).backward()
                    total += weight * len(mixed.inputs) / len(data.images) * loss.detach()
            optimizer.step()
    return float(total)


def _drawn(recipe: Recipe, data: _Set, generator: torch.Generator) -> Iterator[_Mixed]:
    """Yield the batches of an epoch, augmented and mixed by draws from the training's own generator.

    The images of a batch are overwritten by those of the next.
    """
    images, labels, weights, _ = data
    size = min(recipe.batch_size, len(images)), images.shape[1], recipe.size, recipe.size
    buffer = torch.empty(size, device=images.device)
    for rows in torch.randperm(len(images), generator=generator).split(recipe.batch_size):
        draws = draw(recipe, len(rows), images.shape[2], generator)
        inputs = apply(images, draws, recipe, rows=rows, out=buffer)
        partners, share = torch.arange(len(rows)), 1.0
        if recipe.cutmix and torch.rand((), generator=generator) < recipe.cutmix:
            partners, share = cutmix(inputs, generator)
        targets = labels[rows]
        own = None if weights is None else weights[rows]
        both = None if own is None else torch.stack([own, own[partners]])
        yield _Mixed(inputs, targets, targets[partners], share, None, both)


def _stored(data: _Set, steps: Iterator[Step]) -> Iterator[_Mixed]:
    for rows, inputs, logits in steps:
        both = None if data.weights is None else data.weights[rows].expand(2, -1)
        yield _Mixed(inputs, data.labels[rows], data.labels[rows], 1.0, logits, both)


def _loss(net: nn.Module, mixed: _Mixed, recipe: Recipe, training: Training) -> Tensor:
    """Return the mean loss of mixed images: by their two labels, or by a teacher's probabilities.

    With weights each label counts with that of its image, a teacher's probabilities with that of the mixed image.
    """
    inputs = mixed.inputs.contiguous(memory_format=memory_layout(net, mixed.inputs.device))
    if recipe.labels == "hard":
        logits, (first, second) = net(inputs).float(), (None, None) if mixed.weights is None else mixed.weights
        own = cross_entropy(logits, mixed.targets, first)
        pasted = cross_entropy(logits, mixed.others, second)
        return mixed.share * own + (1 - mixed.share) * pasted
    asked = mixed.logits
    if asked is None:
        if training.teacher is None:
            raise OptionError("the labels are a teacher's: give teacher=")
        with torch.no_grad():
            if recipe.second_forward:
                net(inputs)
            asked = training.teacher(inputs)
    probabilities = functional.softmax(asked.float() / recipe.temperature, 1)
    logits = functional.log_softmax(net(inputs).float() / recipe.temperature, 1)
    if mixed.weights is None:
        return functional.kl_div(logits, probabilities, reduction="batchmean")
    own, pasted = mixed.weights
    losses = functional.kl_div(logits, probabilities, reduction="none").sum(1)
    loss: Tensor = ((mixed.share * own + (1 - mixed.share) * pasted) * losses).mean()
    return loss


def _check_test(test: TestImages, recipe: Recipe, classes: int, channels: int) -> None:
    images, labels = test
    if not callable(images):
        shape = (len(labels), channels, recipe.test_side, recipe.test_side)
        if images.shape != shape or images.dtype != np.uint8 or not len(labels):
            raise OptionError(f"expected uint8 test images with shape {shape}, got {images.dtype} {images.shape}")
    if labels.min() < 0 or labels.max() >= classes:
        raise OptionError(f"expected test labels in 0 … {classes - 1}, got {labels.min()} … {labels.max()}")
