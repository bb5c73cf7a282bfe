"""The references' training: one image at a time, by torchvision on PIL images, in a DataLoader with two workers.

Transforms, order and constants are those of Minimax (data.py, transform_imagenet; misc/utils.py 207-289; train.py).
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional as vision

from dap.evaluation import Recipe
from dap.evaluation.augment import Draws, cutmix

VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
VALUES = (0.2175, 0.0188, 0.0045)
WORKERS = 2


def transformed(image: Image.Image, size: int, draw: tuple[object, ...]) -> Tensor:
    """Return an augmented image for its draws: box, flip, order of the colour changes, their strengths, lighting."""
    box, flip, order, jitter, lighting = draw
    pixels = vision.to_tensor(vision.center_crop(vision.resize(image, size), [size, size]))
    pixels = vision.resized_crop(pixels, *box, [size, size], antialias=True)
    pixels = vision.hflip(pixels) if flip else pixels
    for change in order:
        if change == 0:
            pixels = pixels.lerp(torch.zeros_like(pixels), jitter[change])
        elif change == 1:
            pixels = pixels.lerp(_grey(pixels).mean().expand_as(pixels), jitter[change])
        elif len(pixels) == 3:
            pixels = pixels.lerp(_grey(pixels), jitter[change])
    if len(pixels) == 1:
        return vision.normalize(pixels, [0.449], [0.226])
    light = (torch.tensor(VECTORS) * torch.tensor(lighting) * torch.tensor(VALUES)).sum(1)
    return vision.normalize(pixels + light[:, None, None], [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def _grey(pixels: Tensor) -> Tensor:
    if len(pixels) == 1:
        return pixels
    return (0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]).expand_as(pixels)


def injected(draws: Draws, number: int) -> tuple[object, ...]:
    """Return dap's draws of one image, for :func:`transformed`."""
    return (draws.boxes[number].tolist(), bool(draws.flips[number]), (0, 1, 2), draws.jitter[number].tolist(),
            draws.lighting[number].tolist())  # fmt: skip


class Images(Dataset[tuple[Tensor, int]]):
    """Images in memory, transformed at each access, as the references' default is."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> None:
        planes = [image[0] if len(image) == 1 else image.transpose(1, 2, 0) for image in images]
        self.images, self.labels, self.recipe = [Image.fromarray(plane) for plane in planes], labels, recipe

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        recipe, image = self.recipe, self.images[index]
        box = transforms.RandomResizedCrop.get_params(
            torch.empty(1, recipe.size, recipe.size), [recipe.crop, 1.0], [3 / 4, 4 / 3]
        )
        jitter = torch.empty(3).uniform_(-recipe.jitter, recipe.jitter).tolist()
        lighting = (recipe.lighting * torch.randn(3)).tolist()
        draw = (box, bool(torch.rand(()) < 0.5), torch.randperm(3).tolist(), jitter, lighting)
        return transformed(image, recipe.size, draw), int(self.labels[index])


def loader(data: Images, *, workers: int = WORKERS, persistent: bool = False) -> DataLoader[tuple[Tensor, int]]:
    """Return the DataLoader; workers that are not persistent are started anew in each epoch."""
    return DataLoader(
        data, data.recipe.batch_size, shuffle=True, num_workers=workers, persistent_workers=persistent and workers > 0
    )


def mixed_loss(net: nn.Module, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
    """Return the loss of a batch after CutMix (train.py 184-196)."""
    partners, share = cutmix(inputs, generator)
    logits = net(inputs)
    own, pasted = functional.cross_entropy(logits, targets), functional.cross_entropy(logits, targets[partners])
    return own * share + pasted * (1 - share)


def optimiser(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the references' SGD."""
    return torch.optim.SGD(net.parameters(), recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)


def train(net: nn.Module, batches: DataLoader[tuple[Tensor, int]], recipe: Recipe, generator: torch.Generator) -> None:
    """Train a network in place."""
    optimizer = optimiser(net, recipe)
    milestones = [2 * recipe.epochs // 3, 5 * recipe.epochs // 6]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, 0.2)
    for _ in range(recipe.epochs):
        for inputs, targets in batches:
            loss = mixed_loss(net, inputs, targets, generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
