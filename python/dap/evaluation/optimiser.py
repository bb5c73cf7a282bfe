"""The optimiser that a recipe names, and the parameters that decay."""

from __future__ import annotations

import torch
from torch import nn

from dap.evaluation.recipe import Recipe

__all__ = ["make_optimiser", "parameter_groups"]


def parameter_groups(net: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Return the parameters for an optimiser: with weight decay, and without, if the recipe spares norms and biases.

    As in RDED's ``get_parameters``, those without decay have one dimension or no "weight" in their name.
    """
    named = list(net.named_parameters())
    if recipe.decay_all:
        return [{"params": [value for _, value in named]}]
    decayed = {name for name, value in named if "weight" in name and value.ndim > 1}
    return [
        {"params": [value for name, value in named if name in decayed]},
        {"params": [value for name, value in named if name not in decayed], "weight_decay": 0.0},
    ]


def make_optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return SGD, or AdamW with betas 0.9 and 0.999."""
    groups = parameter_groups(net, recipe)
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    return torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
