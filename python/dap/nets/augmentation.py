"""Augmentation of batches: shifts and flips of floats; torchvision's crops, flips and colour jitter of uint8 images.

All randomness is drawn on the CPU, so that a seed gives the same images on every device. :class:`Augmentation` applies
its draws in Rust on a CPU (``dap-core/src/images/augment.rs``) and in torch on other devices; torch resizes on all
devices.

Sources: torchvision's ``RandomCrop``, ``RandomResizedCrop`` (Szegedy et al., "Going Deeper with Convolutions", 2015,
arXiv 1409.4842) and ``ColorJitter``; the luma weights are those of ITU-R 601 as torchvision rounds them. One deviation:
the colours change in the order brightness, contrast, saturation, where torchvision draws the order too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dap import _core
from dap.config import check_choice, check_number
from dap.errors import OptionError

__all__ = ["AUGMENTATIONS", "Augmentation", "Draws", "crop_boxes", "get_augmentation", "shift_flip"]

LUMA, RATIO, TRIES = (0.2989, 0.587, 0.114), (3 / 4, 4 / 3), 10


def shift_flip(images: Tensor, generator: torch.Generator, max_shift: int | None = None) -> Tensor:
    """Mirror each image left to right with probability 1/2, then shift it by whole pixels.

    The shifts of the two axes are independent and uniform on {-max_shift, ..., max_shift}. New pixels are -1, black,
    which is the background of the embedded images.

    Args:
        images: Float images in [-1, 1] with shape (B, C, H, W).
        generator: CPU generator.
        max_shift: Largest shift in pixels, at least 0; None: 3/32 of the shorter side, rounded: 3 for
            28 to 37 pixels, 24 for 256.

    Returns:
        New images of the same shape, dtype and device.

    Example:
        >>> shift_flip(torch.full((4, 1, 8, 8), -1.0), torch.Generator()).unique()
        tensor([-1.])
    """
    count, channels, height, width = images.shape
    max_shift = round(3 * min(height, width) / 32) if max_shift is None else max_shift
    shifts = torch.randint(-max_shift, max_shift + 1, (count, 2), generator=generator)
    flips = torch.rand(count, generator=generator) < 0.5

    # The result at (y, x) is the padded image at (y - dy, x - dx), with x mirrored in a flipped image.
    rows = max_shift + torch.arange(height) - shifts[:, :1]
    columns = max_shift + torch.arange(width) - shifts[:, 1:]
    padded_width = width + 2 * max_shift
    columns = torch.where(flips[:, None], padded_width - 1 - columns, columns)
    places = (rows[:, :, None] * padded_width + columns[:, None, :]).reshape(count, 1, height * width)

    padded = functional.pad(images, (max_shift,) * 4, value=-1.0).flatten(2)
    return padded.gather(2, places.to(images.device).expand(-1, channels, -1)).reshape(images.shape)


class Draws(NamedTuple):
    """The random draws for B images, on the CPU.

    Attributes:
        boxes: The part of each image that is shown: top, left, height, width; int64 with shape (B, 4). Outside the
            image it is black; a part of another size than the image is resized to the image's size.
        flips: Whether an image is mirrored left to right, after it was cropped; bool with shape (B,).
        factors: The factors of brightness, contrast and saturation of torchvision's ``adjust_*``; float32 (B, 3).
    """

    boxes: Tensor
    flips: Tensor
    factors: Tensor


@dataclass(frozen=True)
class Augmentation:
    """Random changes of each image of a batch; :func:`get_augmentation` has the usual ones by name.

    Attributes:
        shift: Largest shift along each axis, as a share of the side, in [0, 1): whole pixels, both axes independent,
            new pixels are black (``RandomCrop`` with padding).
        scale: Smallest and largest share of the area of a random part of the image, which is then resized to the size
            of the image (``RandomResizedCrop``; bilinear, aspect ratios from 3/4 to 4/3). None: the whole image.
        flip: Whether to mirror left to right with probability 1/2.
        brightness: Factors are uniform in [max(0, 1 − brightness), 1 + brightness]; at least 0.
        contrast: As brightness.
        saturation: As brightness; grey images do not change.

    Raises:
        OptionError: A value is out of range, or both ``shift`` and ``scale`` are given.

    Example:
        >>> augmentation = Augmentation(shift=0.125, brightness=0.4)
        >>> images = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
        >>> draws = augmentation.draw(2, 8, 8, torch.Generator())
        >>> augmentation.apply(images, draws, out=torch.empty(images.shape)).max() <= 1
        tensor(True)
    """

    shift: float = 0.0
    scale: tuple[float, float] | None = None
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1:
            raise OptionError(f"shift: expected a share of the side in [0, 1), got {self.shift!r}")
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise OptionError(f"scale: expected shares of the area, 0 < smallest <= largest <= 1, got {self.scale!r}")
        if self.shift and self.scale is not None:
            raise OptionError("expected shift or scale, got both: give one of them")
        check_number("brightness", self.brightness, 0)
        check_number("contrast", self.contrast, 0)
        check_number("saturation", self.saturation, 0)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Draws:
        """Draw for ``count`` images of ``height`` × ``width`` pixels from a CPU generator."""
        if self.scale is not None:
            boxes = crop_boxes(count, height, width, self.scale, generator)
        else:
            most = torch.tensor([round(self.shift * height), round(self.shift * width)])
            corners = torch.floor(torch.rand(count, 2, generator=generator) * (2 * most + 1)).long() - most
            boxes = torch.cat([corners, torch.tensor([height, width]).expand(count, 2)], 1)
        flips = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        strengths = torch.tensor([self.brightness, self.contrast, self.saturation])
        low = (1 - strengths).clamp(min=0)
        factors = low + torch.rand(count, 3, generator=generator) * (1 + strengths - low)
        return Draws(boxes, flips, factors)

    def apply(
        self, images: Tensor, draws: Draws, out: Tensor, *, rows: Tensor | None = None, normal: Tensor | None = None
    ) -> Tensor:
        """Apply the draws to images.

        Args:
            images: uint8 with shape (N, C, H, W), C = 1 or 3.
            draws: The draws for B images.
            out: The result is written here: float32 with shape (B, C, H, W), contiguous, on the images' device.
            rows: The indices of the images, int64 with shape (B,), on the CPU; None for all.
            normal: Mean and standard deviation of each channel, float32 (C, 2), on the CPU: x becomes (x − mean) / std.

        Returns:
            ``out``; without ``normal`` values in [0, 1].
        """
        normal = torch.tensor([[0.0, 1.0]]).expand(images.shape[1], 2) if normal is None else normal
        factors = draws.factors if self.brightness or self.contrast or self.saturation else None
        rows = torch.arange(len(images)) if rows is None else rows
        if images.device.type == "cpu":
            if self.scale is not None:
                images, rows = _crop_flip(images[rows], draws.boxes, draws.flips), torch.arange(len(rows))
                draws = draws._replace(boxes=torch.zeros_like(draws.boxes), flips=torch.zeros_like(draws.flips))
            _core.augment(
                images.contiguous().numpy(), rows.contiguous().numpy(),
                draws.boxes[:, :2].contiguous().numpy(), draws.flips.numpy(),
                None if factors is None else factors.numpy(), normal.contiguous().numpy(), out.numpy(),
                torch.get_num_threads(),
            )  # fmt: skip
            return out
        return _by_torch(images[rows.to(images.device)], draws, factors, normal, out)


def _by_torch(images: Tensor, draws: Draws, factors: Tensor | None, normal: Tensor, out: Tensor) -> Tensor:
    out.copy_(_crop_flip(images, draws.boxes, draws.flips))
    out = out.mul_(1 / 255) if factors is None else _jitter(out, factors.to(out.device))
    centre, spread = normal.to(out.device)[:, :, None, None].unbind(1)
    return out.sub_(centre).div_(spread)


def crop_boxes(count: int, height: int, width: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Return the boxes of torchvision's ``RandomResizedCrop``: top, left, height and width, int64 (count, 4).

    Each is the first of ten draws that fits into the image, or else the largest allowed box in the middle.

    Args:
        count: Number of boxes.
        height: Of the image.
        width: Of the image.
        scale: Smallest and largest share of the image's area; the aspect ratio is from 3/4 to 4/3.
        generator: CPU generator.
    """
    areas = height * width * (scale[0] + torch.rand(count, TRIES, generator=generator) * (scale[1] - scale[0]))
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    ratios = torch.exp(low + torch.rand(count, TRIES, generator=generator) * (high - low))
    sides = torch.stack([(areas / ratios).sqrt().round(), (areas * ratios).sqrt().round()], 2).long()
    room = torch.tensor([height, width]) - sides
    fits = ((sides > 0) & (room >= 0)).all(2)
    corners = torch.floor(torch.rand(count, TRIES, 2, generator=generator) * (room + 1)).long()
    first = fits.int().argmax(1)
    boxes = torch.cat([corners, sides], 2)[torch.arange(count), first]
    widest, tallest = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    middle = torch.tensor([(height - tallest) // 2, (width - widest) // 2, tallest, widest])
    return torch.where(fits.any(1)[:, None], boxes, middle)


def _crop_flip(images: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """Crop and mirror image by image: quicker than a gather, whose indices are eight times as large as the pixels."""
    size, cropped = images.shape[-2:], torch.zeros_like(images)
    items = zip(images, cropped, boxes.tolist(), flips.tolist(), strict=True)
    for image, target, (top, left, height, width), flip in items:
        part = image[:, max(top, 0) : top + height, max(left, 0) : left + width]
        if (height, width) != size:
            part = _resize(part, size)
        row, column = max(-top, 0), max(-left, 0)
        if flip:
            part, column = part.flip(-1), size[1] - column - part.shape[-1]
        target[:, row : row + part.shape[-2], column : column + part.shape[-1]] = part
    return cropped


def _resize(image: Tensor, size: torch.Size) -> Tensor:
    """Resize bilinearly: a CPU in uint8, other devices in floats that are rounded, as torchvision does."""
    batch = image[None] if image.device.type == "cpu" else image[None].float()
    resized = functional.interpolate(batch, tuple(size), mode="bilinear", antialias=True)
    return (resized if resized.dtype == torch.uint8 else resized.round().clamp(0, 255).to(torch.uint8))[0]


def _jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of float images in [0, 255] in place; the result is in [0, 1]."""
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    channels = images.shape[1]
    luma = images.new_tensor(LUMA if channels == 3 else (1.0,))
    images.mul_(brightness / 255).clamp_(max=1)
    mean = (images.mean((2, 3)) @ luma)[:, None, None, None]  # the mean luma is the luma of the means
    images.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, 1)
    if channels == 3:
        grey = torch.matmul(luma, images.flatten(2)).view(-1, 1, *images.shape[2:])
        images.mul_(saturation).add_(grey.mul_(1 - saturation)).clamp_(0, 1)
    return images


AUGMENTATIONS = {
    "none": Augmentation(flip=False),
    "flip": Augmentation(),
    "crop": Augmentation(shift=1 / 8),
    "standard": Augmentation(scale=(0.5, 1.0), brightness=0.4, contrast=0.4, saturation=0.4),
}


def get_augmentation(name: str) -> Augmentation:
    """Return an augmentation by name.

    Args:
        name: "none"; "flip": mirror; "crop": shift by up to an eighth of the side (4 of CIFAR's 32 pixels), and mirror;
            "standard": at least half of the area, mirror, colour jitter of 0.4, as in the code of Minimax Diffusion (Gu
            et al., CVPR 2024).

    Raises:
        OptionError: Another name.

    Example:
        >>> get_augmentation("crop").shift
        0.125
    """
    check_choice("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]
