"""Differentiable Siamese augmentation: one random change of all images of a class, real and generated.

Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation" (DSA), ICML 2021,
https://arxiv.org/abs/2102.08259, with the constants of the released code of DSA and DM (``ParamDiffAug``). Of six
changes one is drawn for each class and iteration, with equal probability, and then its parameters:

    color   x + b, with b uniform in ±½; then (x − mean over channels) · s + mean, s in [0, 2]; then
            (x − mean of the image) · c + mean, c in [½, 1½]
    crop    a shift of each axis by up to an eighth of the side; new pixels are 0
    cutout  a square of half the side becomes 0; its centre is anywhere in the image
    flip    left to right, with probability ½
    scale   each axis by a factor in [1/1.2, 1.2], bilinear; new pixels are 0
    rotate  by up to 15°, bilinear; new pixels are 0

Its images are normalised before, so that 0 is the mean colour (:func:`normalised`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from dap.nets import normal_values, shift_flip

__all__ = ["AUGMENTATIONS", "STRATEGIES", "normalised", "siamese_augmentation"]

SCALE, DEGREES, PAD, CUT = 1.2, 15.0, 0.125, 0.5


def normalised(images: Tensor, *, clamp: bool = True) -> Tensor:
    """Return images in [-1, 1], clamped, in units of ImageNet's mean and deviation; grey ones in the mean of both.

    Without ``clamp``, pixels at the ends of the range have a gradient.

    Example:
        >>> round(normalised(torch.full((1, 1, 1, 1), 3.0)).item(), 2)  # as white
        2.44
    """
    mean, std = map(images.new_tensor, normal_values(images.shape[1]))
    values = (images + 1) / 2
    return ((values.clamp(0, 1) if clamp else values) - mean[:, None, None]) / std[:, None, None]


def siamese_augmentation(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images, all changed alike; two batches under generators of one seed are changed alike too.

    Args:
        images: Float (B, C, H, W).
        generator: CPU generator.

    Example:
        >>> siamese_augmentation(torch.zeros(2, 1, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 8, 8])
    """
    strategy = list(STRATEGIES)[int(torch.randint(len(STRATEGIES), (1,), generator=generator))]
    return STRATEGIES[strategy](images, torch.rand(3, generator=generator).tolist())


def _shift_flip_alike(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images (N, C, H, W), all with the same shift and flip."""
    count, channels, height, width = images.shape
    return shift_flip(images.reshape(1, count * channels, height, width), generator).reshape(images.shape)


def _color(images: Tensor, draws: list[float]) -> Tensor:
    images = images + (draws[0] - 0.5)
    mean = images.mean(1, keepdim=True)
    images = (images - mean) * (2 * draws[1]) + mean
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (draws[2] + 0.5) + mean


def _crop(images: Tensor, draws: list[float]) -> Tensor:
    height, width = images.shape[-2:]
    most = [int(side * PAD + 0.5) for side in (height, width)]
    top, left = (int(draw * (2 * shift + 1)) for draw, shift in zip(draws, most, strict=False))
    padded = functional.pad(images, (most[1], most[1], most[0], most[0]))
    return padded[..., top : top + height, left : left + width]


def _cutout(images: Tensor, draws: list[float]) -> Tensor:
    mask = torch.ones(images.shape[-2:], device=images.device, dtype=images.dtype)
    parts = []
    for draw, side in zip(draws, mask.shape, strict=False):
        cut = int(side * CUT + 0.5)
        start = int(draw * (side + 1 - cut % 2)) - cut // 2
        parts.append(slice(max(start, 0), max(start + cut, 0)))
    mask[parts[0], parts[1]] = 0
    return images * mask


def _flip(images: Tensor, draws: list[float]) -> Tensor:
    return images.flip(3) if draws[0] < 0.5 else images


def _scale(images: Tensor, draws: list[float]) -> Tensor:
    x, y = (1 / SCALE + draw * (SCALE - 1 / SCALE) for draw in draws[:2])
    return _warp(images, [[x, 0.0, 0.0], [0.0, y, 0.0]])


def _rotate(images: Tensor, draws: list[float]) -> Tensor:
    angle = math.radians((2 * draws[0] - 1) * DEGREES)
    cosine, sine = math.cos(angle), math.sin(angle)
    return _warp(images, [[cosine, -sine, 0.0], [sine, cosine, 0.0]])


def _warp(images: Tensor, matrix: list[list[float]]) -> Tensor:
    """Return the images at places that a matrix (2, 3) gives, in coordinates from -1 to 1."""
    grid = functional.affine_grid(images.new_tensor([matrix]), [1, *images.shape[1:]], align_corners=False)
    return functional.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False)


STRATEGIES: Mapping[str, Callable[[Tensor, list[float]], Tensor]] = {
    "color": _color, "crop": _crop, "cutout": _cutout, "flip": _flip, "scale": _scale, "rotate": _rotate,
}  # fmt: skip

AUGMENTATIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "shift_flip": _shift_flip_alike, "dsa": siamese_augmentation,
}  # fmt: skip
"""Changes of all images of a class alike, by the name that methods take."""
