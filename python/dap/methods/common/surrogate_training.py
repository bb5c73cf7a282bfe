"""Trains the network of a surrogate and computes its real gradients; see :mod:`dap.methods.common.surrogate`.

Networks of made images, for :mod:`dap.methods.lgd`, are trained in the same way.

Images that take up to 4 GiB are decoded once and held in memory; of a larger source, each batch is decoded when it is
used.

A training that was stopped is continued with the same bytes on a CPU: its state is saved every minute, and before the
gradients after an epoch, which continue after their last block.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from dap.errors import StoppedError
from dap.methods.common.class_gradients import KEPT, flat, gradient_file, mean_cosine, write_gradients
from dap.methods.common.held_images import images_by_index
from dap.nets import ClassifierTraining, images_at_once
from dap.nets.optimisation import SAVE_SECONDS
from dap.nets.train_state import read_state, write_state
from dap.rng import generator
from dap.selection import random_of_each_class
from dap.stopping import check_stop
from dap.storage.cache import RESULT

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = [
    "IGD_SGD", "ONE_CYCLE", "Examples", "Optimisation", "train", "train_with_gradients", "train_with_states",
]  # fmt: skip

GRADIENT_BATCH = 50
STATE = "training.pt"


class Examples(NamedTuple):
    """What a network is trained on.

    Attributes:
        images: Returns images, uint8 (n, channels, size, size) on the CPU, by their indices, int64 (n,).
        labels: The class of each, int64 (N,).
    """

    images: Callable[[Tensor], Tensor]
    labels: Tensor


class Optimisation(NamedTuple):
    """How a network is trained; see :class:`dap.nets.ClassifierTraining`."""

    batch_size: int
    peak_lr: float
    weight_decay: float
    momentum: float | None = None


ONE_CYCLE = Optimisation(128, 3e-3, 5e-4)  # as protocol "small" trains
IGD_SGD = Optimisation(64, 0.01, 5e-4, momentum=0.9)  # IGD's released code


def train(
    context: Context,
    net: nn.Module,
    folder: Path,
    *,
    epochs: int,
    examples: Examples | None = None,
    title: str = "surrogate",
) -> Tensor:
    """Train a network in place; return its weights, (P,) on the CPU.

    Args:
        context: The run.
        net: The network, on its device.
        folder: It keeps the state of the training, which is continued if it is there.
        epochs: Passes over the images.
        examples: Made images; None: all real images of the run.
        title: The title of the progress bar.

    Raises:
        StoppedError: The run is to end; the state is written.
    """
    given, made = examples or _real(context), examples is not None
    _train(context, net, given, folder, _Checkpoints(), epochs, ONE_CYCLE, None, title, made)
    return flat(net.parameters()).cpu()


def train_with_states(
    context: Context, net: nn.Module, folder: Path, *, epochs: int, number: int, title: str
) -> Tensor:
    """Train a network in place on all real images; return its states before the training and after each epoch.

    Args:
        context: The run.
        net: The network, on its device.
        folder: As for :func:`train_with_gradients`.
        epochs: Passes over the images.
        number: Of the training; it seeds the order of the images and their augmentation.
        title: The title of the progress bar.

    Returns:
        The weights at each state, float32 (epochs + 1, P) on the CPU.
    """
    kept = _Checkpoints()

    def after_epoch(epoch: int, save: Callable[[], None]) -> None:
        kept.epochs.append(epoch)
        kept.weights.append(flat(net.parameters()).cpu())

    _train(context, net, _real(context), folder, kept, epochs, ONE_CYCLE, after_epoch, title, False, number)
    return torch.stack(kept.weights)


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
    """Train a network in place by :data:`IGD_SGD`; write the real gradients at the states that are kept.

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
        The epochs after which states were kept, 0 before the first, and their weights, (E, P) on the CPU.
    """
    given, source, kept = _real(context), context.source, _Checkpoints()
    rows = [*random_of_each_class(source, references, context.seed).values()]
    batch = min(GRADIENT_BATCH, images_at_once(net, (context.channels, context.size, context.size)))

    def keep(epoch: int) -> None:
        """Keep the state after an epoch if its gradients have turned.

        A file that is there is one of this state, as the training was saved before it was begun.
        """
        number, files = len(kept.epochs), folder / RESULT
        path, batches = gradient_file(files, number), [torch.from_numpy(part).split(batch) for part in rows]
        write_gradients(context, net, path, f"gradients after epoch {epoch}", batches, given.images)
        if number == 0 or mean_cosine(gradient_file(files, number - 1), path, len(rows)) < similarity:
            kept.epochs.append(epoch)
            kept.weights.append(flat(net.parameters()).cpu())
        else:
            path.unlink()

    def after_epoch(epoch: int, save: Callable[[], None]) -> None:
        if len(kept.epochs) < checkpoints:
            save()  # after a kill among the gradients, the weights are these to the bit
            keep(epoch)

    _train(context, net, given, folder, kept, epochs, IGD_SGD, after_epoch, "surrogate", False)
    return kept.epochs, torch.stack(kept.weights)


def _real(context: Context) -> Examples:
    """Return all real images of a run."""
    return Examples(images_by_index(context, kept=KEPT), torch.tensor(context.source.labels))


@dataclass
class _Checkpoints:
    """What is known so far: the last epoch that was looked at, the epochs that were kept, and their weights."""

    last: int = -1
    epochs: list[int] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)


def _train(
    context: Context,
    net: nn.Module,
    examples: Examples,
    folder: Path,
    kept: _Checkpoints,
    epochs: int,
    optimisation: Optimisation,
    after_epoch: Callable[[int, Callable[[], None]], None] | None,
    title: str,
    made: bool,
    number: int = 0,
) -> None:
    """Train a network, from the state in ``folder`` on, which is saved every minute.

    ``after_epoch`` is called with the number of the epoch, 0 before the training, and a function that saves the state.
    ``number`` is that of the training, among several of one kind.
    """
    path, saved, count = folder / STATE, time.monotonic(), len(examples.labels)
    key = ("surrogate", "training", number) if number else ("surrogate", "training")
    batch_size = min(count, optimisation.batch_size)
    epoch = math.ceil(count / batch_size)
    training = ClassifierTraining(
        net, examples.images, examples.labels, steps=epochs * epoch, batch_size=batch_size,
        peak_lr=optimisation.peak_lr, weight_decay=optimisation.weight_decay, momentum=optimisation.momentum,
        generator=generator(context.seed, *key),
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
    with context.bars.stage(title, total=epochs * epoch, done=training.done, unit="step", kept=KEPT, made=made) as bar:
        while True:
            passed, rest = divmod(training.done, epoch)
            if rest == 0 and passed > kept.last and after_epoch is not None:
                after_epoch(passed, save)
                kept.last = passed
            if time.monotonic() - saved > SAVE_SECONDS:
                save()
            if training.done == epochs * epoch:
                return
            training.step()
            bar.update()
            try:
                check_stop(path)
            except StoppedError:
                save()
                raise
