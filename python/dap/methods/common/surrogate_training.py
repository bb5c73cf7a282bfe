"""Trains the network of a surrogate and computes its real gradients; see :mod:`dap.methods.common.surrogate`.

Images that take up to 4 GiB are decoded once and held in memory; of a larger source, each batch is decoded when it is
used. Gradients are computed and written in blocks of classes of 16 MiB, or class by class.

A training that was stopped is continued with the same bytes on a CPU: its state is saved every minute, and before the
gradients after an epoch, which continue after their last block.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from dap.data.stack import read_images
from dap.nets import ClassifierTraining, images_at_once
from dap.nets.optimisation import SAVE_SECONDS
from dap.nets.train_state import read_state, write_state
from dap.rng import generator
from dap.selection import random_of_each_class
from dap.storage.cache import RESULT
from dap.storage.tensors import continue_tensors

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = ["gradient_file", "mean_gradient", "train", "train_with_gradients"]

BATCH_SIZE, PEAK_LR, WEIGHT_DECAY, MAX_SHIFT = 128, 3e-3, 5e-4, 3  # as protocol "small" trains
GRADIENT_BATCH = 50
HELD_BYTES = 2**32
BLOCK_VALUES = 2**22  # numbers of a file of gradients that are written at once, unless a gradient has more
STATE = "training.pt"
KEPT = "the surrogate's training up to a minute ago is kept; the same command continues after it"


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


def train(context: Context, net: nn.Module, folder: Path, *, epochs: int) -> Tensor:
    """Train a network in place on all real images of a run; return its weights, (P,) on the CPU.

    ``folder`` keeps the state of the training, which is continued if it is there.
    """
    _train(context, net, _images_of(context), folder, _Checkpoints(), epochs, None)
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
        folder: Its ``RESULT`` is the folder of the files of :func:`gradient_file`; the state of the training lies
            beside it. Both are continued if they are there.
        epochs: See :class:`dap.methods.common.surrogate.SurrogateTraining`, as for the other options.
        checkpoints: Largest number of states.
        similarity: The threshold of the cosine.
        references: Real images of each class.

    Returns:
        The epochs after which states were kept, and their weights, (E, P) on the CPU.
    """
    images_of, source, kept = _images_of(context), context.source, _Checkpoints()
    rows = [*random_of_each_class(source, references, context.seed).values()]
    batch = min(GRADIENT_BATCH, images_at_once(net, (context.channels, context.size, context.size)))

    def keep(epoch: int) -> None:
        """Keep the state after an epoch if its gradients have turned.

        A file that is there is one of this state, as the training was saved before it was begun.
        """
        number, files = len(kept.epochs), folder / RESULT
        path, batches = gradient_file(files, number), [torch.from_numpy(part).split(batch) for part in rows]
        _write_gradients(context, net, path, f"gradients after epoch {epoch}", batches, images_of)
        if number == 0 or _mean_cosine(gradient_file(files, number - 1), path, len(rows)) < similarity:
            kept.epochs.append(epoch)
            kept.weights.append(_flat(net.parameters()).cpu())
        else:
            path.unlink()

    def after_epoch(epoch: int, save: Callable[[], None]) -> None:
        if len(kept.epochs) < checkpoints:
            save()  # after a kill among the gradients, the weights are these to the bit
            keep(epoch)

    _train(context, net, images_of, folder, kept, epochs, after_epoch)
    return kept.epochs, torch.stack(kept.weights)


@dataclass
class _Checkpoints:
    """What is known so far: the last epoch that was looked at, the epochs that were kept, and their weights."""

    last: int = 0
    epochs: list[int] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


def _write_gradients(
    context: Context,
    net: nn.Module,
    path: Path,
    title: str,
    batches: Sequence[Sequence[Tensor]],
    images_of: Callable[[Tensor], Tensor],
) -> None:
    """Write the mean gradient of each class to a file, or continue it; ``batches`` has image indices by class."""
    count = sum(parameter.numel() for parameter in net.parameters())
    at_once = max(1, BLOCK_VALUES // count)
    blocks = [range(len(batches))[start : start + at_once] for start in range(0, len(batches), at_once)]
    with context.bars.stage(title, total=len(batches), unit="class", kept=KEPT, leave=False) as bar:

        def gradients(number: int) -> npt.NDArray[np.float32]:
            means = []
            for target in blocks[number]:
                means.append(mean_gradient(net, map(images_of, batches[target]), target).cpu().numpy())
                bar.update()
            return np.concatenate(means)

        shapes = {str(target): (count,) for target in range(len(batches))}
        written = continue_tensors(path, shapes, [count * len(block) for block in blocks], gradients)
        bar.update(sum(map(len, blocks[: next(written)])))
        for _ in written:
            pass


def _mean_cosine(before: Path, after: Path, classes: int) -> Tensor:
    """Return the mean over classes of the cosine between the gradients of two files."""
    with safe_open(before, framework="pt") as old, safe_open(after, framework="pt") as new:
        cosines = [
            functional.cosine_similarity(old.get_tensor(str(target)), new.get_tensor(str(target)), dim=0)
            for target in range(classes)
        ]
    return torch.stack(cosines).mean()


def _train(
    context: Context,
    net: nn.Module,
    images_of: Callable[[Tensor], Tensor],
    folder: Path,
    kept: _Checkpoints,
    epochs: int,
    after_epoch: Callable[[int, Callable[[], None]], None] | None,
) -> None:
    """Train a network on all real images, from the state in ``folder`` on, which is saved every minute.

    ``after_epoch`` is called with the number of the epoch, from 1, and a function that saves the state.
    """
    source, path, saved = context.source, folder / STATE, time.monotonic()
    batch_size = min(len(source), BATCH_SIZE)
    epoch = math.ceil(len(source) / batch_size)
    training = ClassifierTraining(
        net, images_of, torch.tensor(source.labels), steps=epochs * epoch, batch_size=batch_size, peak_lr=PEAK_LR,
        weight_decay=WEIGHT_DECAY, max_shift=MAX_SHIFT, generator=generator(context.seed, "surrogate", "training"),
        device=context.prior.device, at_once=images_at_once(net, (context.channels, context.size, context.size)),
    )  # fmt: skip
    state = read_state(path)
    if state is None:
        shutil.rmtree(folder / RESULT, ignore_errors=True)  # gradients at states that are lost
    else:
        training.restore(state["training"])
        kept.last, kept.epochs, kept.weights = state["last"], state["epochs"], state["weights"]

    def save() -> None:
        nonlocal saved
        write_state(path, {"training": training.state(), **vars(kept)})
        saved = time.monotonic()

    if after_epoch is not None:
        (folder / RESULT).mkdir(exist_ok=True)
    with context.bars.stage("surrogate", total=epochs * epoch, done=training.done, unit="step", kept=KEPT) as bar:
        while True:
            number, rest = divmod(training.done, epoch)
            if rest == 0 and number > kept.last and after_epoch is not None:
                after_epoch(number, save)
                kept.last = number
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
            if training.done == epochs * epoch:
                return
            training.step()
            bar.update()


def _images_of(context: Context) -> Callable[[Tensor], Tensor]:
    """Return a function from image indices, int64 (n,), to images, uint8 (n, channels, size, size) on the CPU."""
    count, shape = len(context.source), (context.channels, context.size, context.size)
    if count * math.prod(shape) > HELD_BYTES:
        return lambda indices: context.images(indices.tolist())
    images = read_images(
        context.source, np.arange(count), size=context.size, channels=context.channels, bars=context.bars, kept=KEPT
    )  # fmt: skip
    return torch.from_numpy(images).__getitem__


def _flat(tensors: Sequence[Tensor] | Iterator[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
