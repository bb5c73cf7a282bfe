"""Short trainings by a published protocol, its constants and a teacher, for the tests of evaluations."""

from __future__ import annotations

import torch
from test_evaluate import arrays
from torch import nn

from dap.evaluation import named_protocol, run_protocol
from dap.evaluation.recipe import Case, Recipe

TINY = {"size": 16, "epochs": 3, "width": 4}
NAMES = ["up", "left"]


def recipe(protocol: str = "hard", network: str = "convnet6", ipc: int = 10, classes: int = 10, side: int = 224,
           **options: object) -> Recipe:  # fmt: skip
    return Recipe(**named_protocol(protocol, options).constants(Case(network, ipc, classes, side)))


def trained(protocol: str = "hard", **changes: object) -> object:
    images, labels = arrays({"up": 6, "left": 6})
    test, test_labels = arrays({"up": 20, "left": 20}, first=100)
    options = {"protocol_options": TINY, "device": "cpu", "classes": 2} | changes
    return run_protocol(images, labels, test, test_labels, protocol=protocol, **options)


class Teacher(nn.Module):
    """A teacher that knows the classes: the brightness of the upper and the left half."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(50.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.stack([images[:, 0, :8].mean((1, 2)), images[:, 0, :, :8].mean((1, 2))], 1)
