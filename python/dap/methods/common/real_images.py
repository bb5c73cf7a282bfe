"""What the methods that choose real images by their features have in common: features, images, the record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dap.errors import OptionError
from dap.features import Tap, block_number, check_block, real_features
from dap.methods.base import Context

__all__ = ["Chosen", "check_tap", "choose_by_features", "record_images"]

Chosen: TypeAlias = dict[tuple[int, int], int]
"""The source index of each slot, by class index and number."""


def check_tap(block: int | str | None, timestep: int) -> None:
    """Refuses what is no block, or no step of a schedule of 1,000."""
    check_block(block)
    if not 0 <= timestep < 1000:
        raise OptionError(f"timestep: expected 0 to 999, got {timestep}")


def choose_by_features(
    context: Context,
    block: int | str | None,
    timestep: int,
    choose: Callable[[npt.NDArray[np.float32], str], npt.NDArray[np.int64]],
) -> Chosen:
    """The source index of each slot.

    Args:
        context: The run.
        block: Where the prior is tapped; None for the block that it recommends.
        timestep: The step to which the images are noised, 0 to 999.
        choose: From the mean-pooled features of a class, (N, D), and its name to the chosen rows, (ipc,).

    Raises:
        OptionError: A class has fewer images than are wanted.
    """
    prior, chosen = context.require_prior(), Chosen()
    tap = Tap(block_number(prior, block))
    for class_index, entry in enumerate(context.classes):
        indices = context.source.of_class(class_index)
        if len(indices) < context.ipc:
            raise OptionError(f"class {entry.name!r} has {len(indices)} images, fewer than ipc={context.ipc}")
        features = real_features(
            prior, context.images(indices.tolist()), [context.source.ids[i] for i in indices],
            label=entry.label, tap=tap, timestep=timestep, seed=context.seed,
        )  # fmt: skip
        rows = choose(features.numpy(), entry.name)
        chosen |= {(class_index, number): int(indices[row]) for number, row in enumerate(rows)}
    return chosen


def record_images(context: Context, chosen: Chosen) -> dict[str, Any]:
    """The source id of each image, by class and in slot order."""
    return {
        "images": {
            entry.name: [context.source.ids[chosen[class_index, number]] for number in range(context.ipc)]
            for class_index, entry in enumerate(context.classes)
        }
    }
