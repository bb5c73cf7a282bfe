"""The mean gradients of classes at a state of a network, which :mod:`dap.methods.common.surrogate_training` compares.

They are computed and written in blocks of classes of 16 MiB, or class by class. What was stopped is continued after its
last block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from dap.storage.tensors import continue_tensors

if TYPE_CHECKING:
    from dap.methods.base import Context

__all__ = ["KEPT", "flat", "gradient_file", "mean_cosine", "mean_gradient", "write_gradients"]

BLOCK_VALUES = 2**22  # numbers of a file of gradients that are written at once, unless a gradient has more
KEPT = "the network's training up to a minute ago is kept; the same command continues after it"


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
    total, count = torch.zeros_like(flat(parameters)), 0
    for batch in batches:
        logits = net(batch.to(total.device).float() / 127.5 - 1)
        targets = torch.full((len(batch),), target, device=logits.device)
        total += flat(torch.autograd.grad(functional.cross_entropy(logits, targets, reduction="sum"), parameters))
        count += len(batch)
    return total / count


def write_gradients(
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


def mean_cosine(before: Path, after: Path, classes: int) -> Tensor:
    """Return the mean over classes of the cosine between the gradients of two files."""
    with safe_open(before, framework="pt") as old, safe_open(after, framework="pt") as new:
        cosines = [
            functional.cosine_similarity(old.get_tensor(str(target)), new.get_tensor(str(target)), dim=0)
            for target in range(classes)
        ]
    return torch.stack(cosines).mean()


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return all values of some tensors in one row, without a graph."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])
