"""Trains the network of a surrogate and computes its real gradients; see :mod:`dap.methods.common.surrogate`.

Images that take up to 4 GiB are decoded once and held in memory; of a larger source, each batch is decoded when it is
used. Gradients are computed and written class by class, so memory holds those of one class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from dap.data.stack import read_images
from dap.nets import images_at_once, train_classifier
from dap.rng import generator
from dap.selection import random_of_each_class
from dap.storage.tensors import write_tensors

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = ["gradient_file", "mean_gradient", "train", "train_with_gradients"]

BATCH_SIZE, PEAK_LR, WEIGHT_DECAY, MAX_SHIFT = 128, 3e-3, 5e-4, 3  # as protocol "small" trains
GRADIENT_BATCH = 50
HELD_BYTES = 2**32
KEPT = "nothing of the surrogate is kept; the same command trains it again"


def gradient_file(folder: Path, number: int) -> Path:
    """Return the path of the file with the gradients of each class at a checkpoint, counted from 0."""
    return folder / f"gradients-{number}.safetensors"


def mean_gradient(net: nn.Module, batches: Iterator[Tensor], target: int) -> Tensor:
    """Return ḡ_c of a class at the network's own weights.

    Args:
        net: Maps float images in [-1, 1] to logits.
        batches: Real images of the class, uint8 (n, channels, H, W).
        target: The class's number c.

    Returns:
        The gradient, float32 (P,) on the network's device, with parameters in the order of ``net.parameters()``.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> mean_gradient(net, iter([torch.zeros(3, 1, 2, 2, dtype=torch.uint8)]), 1).shape
        torch.Size([10])
    """
    parameters = list(net.parameters())
    total, count = torch.zeros_like(_flat(parameters)), 0
    for batch in batches:
        logits = net(batch.to(total.device).float() / 127.5 - 1)
        targets = torch.full((len(batch),), target, device=logits.device)
        total += _flat(torch.autograd.grad(functional.cross_entropy(logits, targets, reduction="sum"), parameters))
        count += len(batch)
    return total / count


def train(context: Context, net: nn.Module, *, epochs: int) -> Tensor:
    """Train a network in place on all real images of a run; return its weights, (P,) on the CPU."""
    _train(context, net, _images_of(context), epochs, lambda net, epoch: None)
    return _flat(net.parameters()).cpu()


def train_with_gradients(
    context: Context,
    net: nn.Module,
    folder: Path,
    *,
    epochs: int,
    checkpoints: int,
    similarity: float,
    references: int,
) -> tuple[list[int], Tensor]:
    """Train a network in place; write the real gradients at the states that are kept.

    Args:
        context: The run.
        net: The network, on its device.
        folder: Where the files of :func:`gradient_file` are written.
        epochs: See :class:`dap.methods.common.surrogate.SurrogateTraining`, as for the other options.
        checkpoints: Largest number of states.
        similarity: The threshold of the cosine.
        references: Real images of each class.

    Returns:
        The epochs after which states were kept, and their weights, (E, P) on the CPU.
    """
    images_of, source = _images_of(context), context.source
    rows = [*random_of_each_class(source, references, context.seed).values()]
    batch = min(GRADIENT_BATCH, images_at_once(net, (context.channels, context.size, context.size)))
    kept_epochs: list[int] = []
    weights: list[Tensor] = []

    def keep(net: nn.Module, epoch: int) -> None:
        if len(kept_epochs) == checkpoints:
            return
        path, cosines = gradient_file(folder, len(kept_epochs)), []
        before = gradient_file(folder, len(kept_epochs) - 1) if kept_epochs else None

        def gradients() -> Iterator[npt.NDArray[np.float32]]:
            title = f"gradients after epoch {epoch}"
            with context.bars.stage(title, total=len(rows), unit="class", kept=KEPT, leave=False) as bar:
                for target, class_rows in enumerate(rows):
                    batches = (images_of(part) for part in torch.from_numpy(class_rows).split(batch))
                    gradient = mean_gradient(net, batches, target).cpu()
                    if before is not None:
                        cosines.append(functional.cosine_similarity(_gradient(before, target), gradient, dim=0))
                    bar.update()
                    yield gradient.numpy()

        count = sum(parameter.numel() for parameter in net.parameters())
        write_tensors(path, {str(target): (count,) for target in range(len(rows))}, gradients())
        if before is None or torch.stack(cosines).mean() < similarity:
            kept_epochs.append(epoch)
            weights.append(_flat(net.parameters()).cpu())
        else:
            path.unlink()

    _train(context, net, images_of, epochs, keep)
    return kept_epochs, torch.stack(weights)


def _train(
    context: Context,
    net: nn.Module,
    images_of: Callable[[Tensor], Tensor],
    epochs: int,
    after_epoch: Callable[[nn.Module, int], None],
) -> None:
    """Train a network on all real images; ``after_epoch`` is called with the number of the epoch, from 1."""
    source = context.source
    batch_size = min(len(source), BATCH_SIZE)
    epoch = math.ceil(len(source) / batch_size)
    with context.bars.stage("surrogate", total=epochs * epoch, unit="step", kept=KEPT) as bar:

        def after_step(net: nn.Module, step: int) -> None:
            bar.update()
            if step % epoch == 0:
                after_epoch(net, step // epoch)

        train_classifier(
            net, images_of, torch.tensor(source.labels), steps=epochs * epoch, batch_size=batch_size,
            peak_lr=PEAK_LR, weight_decay=WEIGHT_DECAY, max_shift=MAX_SHIFT,
            generator=generator(context.seed, "surrogate", "training"), device=context.prior.device,
            at_once=images_at_once(net, (context.channels, context.size, context.size)), after_step=after_step,
        )  # fmt: skip


def _images_of(context: Context) -> Callable[[Tensor], Tensor]:
    """Return a function from image indices, int64 (n,), to images, uint8 (n, channels, size, size) on the CPU."""
    count, shape = len(context.source), (context.channels, context.size, context.size)
    if count * math.prod(shape) > HELD_BYTES:
        return lambda indices: context.images(indices.tolist())
    images = read_images(
        context.source, np.arange(count), size=context.size, channels=context.channels, bars=context.bars, kept=KEPT
    )  # fmt: skip
    return torch.from_numpy(images).__getitem__


def _gradient(path: Path, target: int) -> Tensor:
    with safe_open(path, framework="pt") as file:
        gradient: Tensor = file.get_tensor(str(target))
    return gradient


def _flat(tensors: Sequence[Tensor] | Iterator[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
