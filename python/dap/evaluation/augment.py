"""The augmentation of published protocols, on batches of uint8 images on the device.

The references change one image at a time. Here the same random numbers give the same pixels, but for rounding: a random
part of the image is resized, on a CPU in Rust (``dap-core/src/images/resized_crops.rs``) and elsewhere by torchvision's
own operation, and all that follows is one affine map of the three colours. Sources, with x an image in [0, 1] and α
uniform on [−a, a]:

- RandomResizedCrop, RandomHorizontalFlip: torchvision, on tensors (Minimax, data.py, ``transform_imagenet``).
- Colour jitter (Minimax, misc/utils.py 236-289): brightness (1 − α) x, contrast (1 − α) x + α m with m the mean of the
  grey image, saturation (1 − α) x + α g with the grey image g = 0.299 R + 0.587 G + 0.114 B, in random order. Nothing
  is clamped, so that the three commute: the order need not be drawn. With the three α named b, c and s

      x' = (1 − b) ((1 − c) ((1 − s) x + s g) + c m).

- Lighting (Krizhevsky et al., NeurIPS 2012; Minimax, misc/utils.py 207-234): x + V (λ ∘ n), n normal with deviation
  0.1.
- Shuffled strips (RDED, validation/utils.py 150-182): columns in random order, then rows.
- CutMix (Yun et al., ICCV 2019; Minimax, train.py 184-196): λ uniform, one box and one permutation for the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dap import _core
from dap.evaluation.recipe import Recipe
from dap.nets import normal_values
from dap.nets.augmentation import crop_boxes

__all__ = ["Draws", "apply", "centre", "cutmix", "draw", "draw_mix", "normalised", "paste"]

GREY = (0.299, 0.587, 0.114)  # Minimax, misc/utils.py 240
EIGENVALUES = (0.2175, 0.0188, 0.0045)  # Minimax, data.py, transform_imagenet
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


class Draws(NamedTuple):
    """The random numbers of B images, on the CPU.

    Attributes:
        strips: Order of the columns and of the rows of strips; int64 (B, 2, strips).
        boxes: Top, left, height and width of the part that is shown; int64 (B, 4).
        flips: Whether it is mirrored; bool (B,).
        jitter: α of brightness, contrast and saturation; float32 (B, 3).
        lighting: The normal numbers of the lighting; float32 (B, 3).
    """

    strips: Tensor
    boxes: Tensor
    flips: Tensor
    jitter: Tensor
    lighting: Tensor


def draw(recipe: Recipe, count: int, side: int, generator: torch.Generator) -> Draws:
    """Draw for ``count`` images of ``side`` × ``side`` pixels from a CPU generator."""
    smallest = 1 / recipe.strips if recipe.crop is None else recipe.crop
    return Draws(
        strips=torch.rand(count, 2, recipe.strips, generator=generator).argsort(2),
        boxes=crop_boxes(count, side, side, (smallest, 1.0), generator),
        flips=torch.rand(count, generator=generator) < (0.5 if recipe.flip else 0.0),
        jitter=recipe.jitter * (2 * torch.rand(count, 3, generator=generator) - 1),
        lighting=recipe.lighting * torch.randn(count, 3, generator=generator),
    )


def apply(
    images: Tensor, draws: Draws, recipe: Recipe, *, rows: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """Return augmented and normalised images.

    Args:
        images: uint8 with shape (N, C, S, S), C = 1 or 3. Grey images have neither saturation nor lighting.
        draws: The draws for B images.
        recipe: The training.
        rows: The indices of the images, int64 with shape (B,), on the CPU; None for all.
        out: The result is written here: float32, contiguous, on the images' device, its first B images; None: a new
            tensor.

    Returns:
        float32 with shape (B, C, size, size), on the images' device.
    """
    rows = torch.arange(len(images)) if rows is None else rows
    if out is None:
        out = torch.empty(len(rows), images.shape[1], recipe.size, recipe.size, device=images.device)
    out, colours = out[: len(rows)], _colours(draws, images.shape[1])
    if images.device.type == "cpu":
        _core.resized_crops(
            images.contiguous().numpy(), rows.contiguous().numpy(), draws.strips.contiguous().numpy(),
            draws.boxes.contiguous().numpy(), draws.flips.numpy(), colours.numpy(), out.numpy(),
            torch.get_num_threads(),
        )  # fmt: skip
        return out
    return _by_torch(images[rows.to(images.device)], draws, colours.to(images.device), out)


def _by_torch(images: Tensor, draws: Draws, colours: Tensor, out: Tensor) -> Tensor:
    items = zip(images, draws.strips.tolist(), draws.boxes.tolist(), draws.flips.tolist(), strict=True)
    for target, (image, (columns, rows), (top, left, height, width), flip) in zip(out, items, strict=True):
        if len(rows) > 1:
            image = _shuffled(_shuffled(image, columns, 2), rows, 1)
        part = image[:, top : top + height, left : left + width].float()
        if part.shape != target.shape:
            part = functional.interpolate(part[None], target.shape[1:], mode="bilinear", antialias=True)[0]
        target.copy_(part.flip(2) if flip else part)
    channels = images.shape[1]
    matrix, of_means, shift = colours.split([channels, channels, 1], 2)
    shift = shift + of_means @ out.mean((2, 3))[:, :, None]
    out.copy_(torch.baddbmm(shift, matrix, out.flatten(2)).view_as(out))
    return out


def normalised(images: Tensor) -> Tensor:
    """Return uint8 images (B, C, H, W) as normalised float32."""
    mean, std = _normal(images.shape[1]).to(images.device)[:, :, None, None].unbind()
    return (images.float() / 255 - mean) / std


def centre(images: Tensor, size: int) -> Tensor:
    """Return the middle of images, with shape (B, C, size, size)."""
    top = (images.shape[2] - size) // 2
    return images[:, :, top : top + size, top : top + size]


def cutmix(images: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
    """Paste a box of other images of the batch into each image, in place.

    Args:
        images: Float images (B, C, S, S).
        generator: CPU generator.

    Returns:
        The number of the image that each box comes from, int64 (B,) on the CPU; and the share of the area that stays.
        It is the share of the box as it was clipped to the image, not λ.
    """
    partners, box = draw_mix(len(images), images.shape[2], generator)
    return partners, paste(images, partners, box)


def draw_mix(count: int, side: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw a CutMix: the image that each box comes from, int64 (B,), and the box: top, left, bottom and right."""
    partners = torch.randperm(count, generator=generator)
    cut = int(side * (1 - torch.rand((), generator=generator).item()) ** 0.5)
    middle = torch.randint(side, (2,), generator=generator)
    return partners, torch.cat([(middle + sign * (cut // 2)).clamp(0, side) for sign in (-1, 1)])


def paste(images: Tensor, partners: Tensor, box: Tensor) -> float:
    """Paste a box of other images of the batch into each image, in place; return the share of the area that stays."""
    top, left, bottom, right = map(int, box.tolist())
    images[:, :, top:bottom, left:right] = images[partners.to(images.device), :, top:bottom, left:right]
    return 1 - (bottom - top) * (right - left) / int(images.shape[2]) ** 2


def _shuffled(image: Tensor, order: list[int], axis: int) -> Tensor:
    """Return an image (C, H, W) whose strips along an axis are in another order; the last one has the rest."""
    length, side = image.shape[axis] // len(order), image.shape[axis]
    ends = [*range(length, length * len(order), length), side]
    strips = [image.narrow(axis, start, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    return torch.cat([strips[number] for number in order], axis)


def _colours(draws: Draws, channels: int) -> Tensor:
    """Return the affine maps of the colours from float images in [0, 255] to normalised ones, float32 (B, C, 2 C + 1).

    For each channel of the result: the factors of the channels, those of their means over the image, and a summand.
    """
    grey = torch.tensor(GREY if channels == 3 else (1.0,)).expand(channels, channels)
    b, c, s = draws.jitter[:, :, None, None].unbind(1)
    matrix = (1 - b) * (1 - c) * ((1 - s) * torch.eye(channels) + s * grey)
    of_means = (1 - b) * c * grey
    shift = torch.zeros(len(b), channels, 1)
    if channels == 3:
        shift = torch.tensor(EIGENVECTORS) @ (torch.tensor(EIGENVALUES) * draws.lighting)[:, :, None]
    mean, std = _normal(channels)[:, :, None].unbind()
    return torch.cat([matrix / (255 * std), of_means / (255 * std), (shift - mean) / std], 2)


def _normal(channels: int) -> Tensor:
    """Return mean and standard deviation of the channels, with shape (2, C)."""
    return torch.tensor(normal_values(channels))
