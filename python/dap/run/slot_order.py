"""The place of each slot in its class, judged by the finished images."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from dap.data.image_files import read_image
from dap.methods import Context, Method
from dap.run.folder import RunFolder

__all__ = ["rank_slots"]

A = TypeVar("A")


def rank_slots(recipe: Method[A], context: Context, artefact: A, folder: RunFolder) -> None:
    """Record each slot's place in its class, where the method orders the slots by the finished images."""
    if type(recipe).order is Method.order:
        return  # no image has to be read
    ranks = {}
    for index, entry in enumerate(context.classes):
        pixels = np.stack([np.asarray(read_image(path)) for path in folder.paths_of(index)])
        images = torch.from_numpy(pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2).copy())
        order = recipe.order(context, artefact, index, images)
        if order is not None:
            ranks[entry.name] = [order.index(number) for number in range(context.ipc_of(index))]
    if ranks:
        folder.set_ranks(ranks)
