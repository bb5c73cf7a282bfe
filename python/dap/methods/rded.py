"""rded: each image is four crops of real images that a classifier is surest of.

Sun, Shi, Yu and Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation Paradigm"
(RDED), CVPR 2024, https://arxiv.org/abs/2312.03526, code at https://github.com/LINs-lab/RDED. Of each class, real
images are drawn, and of each image random resized crops of 1/g of the side (ratio 1, a share of the area from 0.08 to
1). A crop x, in the middle of an image that is otherwise of the mean colour, has the score

    ℓ(x) = −log p(class | x)     under a classifier, the teacher.

Each image keeps its crop of the lowest score, and of these the ipc · g² with the lowest scores are kept, in order. Crop
j · ipc + i goes to place j of image i; the places are numbered by rows. Sides that g does not divide have places of one
pixel more at the top and left, into which the crop is enlarged.

Published constants: 300 images a class, 5 crops, g = 2, a ResNet-18 as teacher, images of 224 pixels; for images of 32
and 64 pixels the released scripts have g = 1. They are the defaults and the preset "paper", but for the teacher: the
user gives it as ``teacher=``, a file or a name as for ``dap evaluate``. Otherwise the run trains a small classifier on
its real images. Neither the preset nor the small classifier was measured against the published accuracies.

No prior is needed: the pixels are real ones. The labels of its training are a teacher's too, those of protocol "rded".

Differences from the released code: its images are JPEG files, whose values were rounded down; here they are PNG, and
rounded to the nearest. A class with fewer than 300 images gives all it has; there it is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dap import rng
from dap.config import check_whole
from dap.errors import OptionError
from dap.methods.base import Context, Couples, Presets, Unit
from dap.methods.common.classifier import Classifier, ClassifierMethod
from dap.nets import normal_values
from dap.priors import Demand
from dap.selection import permutation

__all__ = ["RDED"]

AREA = (0.08, 1.0)  # torchvision's RandomResizedCrop
TRIES = 10
TOGETHER = 32  # images whose crops are scored together


class Box(NamedTuple):
    """A square of an image, in pixels."""

    top: int
    left: int
    side: int


@dataclass(frozen=True)
class RDED(ClassifierMethod):
    """Real crops, put together four in an image.

    Attributes:
        images: Real images of each class from which crops are cut; a class with fewer images gives all it has.
        crops: Crops of each image.
        grid: g, the crops along a side of an image; the released scripts have 1 for images of up to 64 pixels.
        teacher: The classifier: a file or a name as for :func:`dap.open_teacher`; None trains one on the real images.
        teacher_options, network, width, epochs: See :class:`dap.methods.common.classifier.ClassifierOptions`.

    Example:
        >>> import dap
        >>> distilled = dap.distill("fashion-mini", method="rded", out="distilled")  # doctest: +SKIP
    """

    name: ClassVar[str] = "rded"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "Sun et al., CVPR 2024, arXiv 2312.03526"
    year: ClassVar[int | None] = 2024
    couples: ClassVar[Couples] = "class"
    needs: ClassVar[tuple[str, ...]] = ("labels", "classifier")
    presets: ClassVar[Presets] = {"paper": {"images": 300, "crops": 5, "grid": 2}}

    images: int = 300
    crops: int = 5
    grid: int = 2

    def __post_init__(self) -> None:
        for option in ("images", "crops", "grid"):
            check_whole(option, getattr(self, option))
        self.choice()

    def prepare(self, context: Context) -> Classifier:
        """Open the teacher or train the classifier.

        Raises:
            OptionError: A class has too few images, an image has no room for the grid, or the teacher does not fit.
        """
        if context.size < self.grid:
            raise OptionError(f"grid: images of {context.size} pixels have no room for {self.grid} crops a side")
        for index, entry in enumerate(context.classes):
            wanted, there = context.ipc_of(index) * self.grid**2, len(context.source.of_class(index))
            if wanted > min(there, self.images):
                raise OptionError(
                    f"class {entry.name!r} gives {min(there, self.images)} crops, ipc={context.ipc_of(index)} needs "
                    f"{wanted}: choose a smaller ipc or grid, or raise images= if the class has more"
                )
        return self.choice().prepare(context)

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return nothing: no step is taken."""
        return ()

    def make(self, context: Context, unit: Unit, artefact: Classifier) -> Tensor:
        """Return the images of a unit, uint8."""
        made = torch.empty(len(unit.slots), context.channels, context.size, context.size, dtype=torch.uint8)
        for index, places in context.classes_of(unit):
            again = unit.slots[int(places[0])].again
            crops = self._best_crops(context, index, again, artefact, context.ipc_of(index) * self.grid**2)
            images = put_together(crops, self.grid, context.size)
            numbers = [unit.slots[place].number for place in places.tolist()]
            made[places] = (images[numbers] * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8)
            if context.callback_on_step_end is not None:
                context.callback_on_step_end(context.prior, index, 0, {"latents": images[numbers]})
        return made

    def steps_per_slot(self, context: Context) -> int:
        """Return 1: for the progress bar, a class is a step of its slots."""
        return 1

    def _best_crops(self, context: Context, index: int, again: int, classifier: Classifier, count: int) -> Tensor:
        """Return the crops of a class with the lowest scores, in order, float (count, channels, s, s) in [-1, 1]."""
        name, rows = context.classes[index].name, context.source.of_class(index)
        name_again = f"{name} {again}" if again else name
        chosen = rows[permutation(len(rows), context.seed, name_again)[: self.images]]
        best, scores = [], []
        for part in np.split(chosen, range(TOGETHER, len(chosen), TOGETHER)):
            crops = torch.stack([torch.stack(list(self._crops_of(context, row, again))) for row in part.tolist()])
            losses = classifier.surprise(padded(crops.flatten(0, 1), context.size), index, context.prior.device)
            lowest, place = losses.view(len(part), self.crops).min(1)
            best.append(crops[torch.arange(len(part)), place])
            scores.append(lowest)
        order = torch.cat(scores).argsort(stable=True)[:count]
        return torch.cat(best)[order]

    def _crops_of(self, context: Context, row: int, again: int) -> Iterator[Tensor]:
        """Yield the crops of a real image, float (channels, s, s) in [-1, 1]."""
        pixels = torch.from_numpy(context.source.pixels(row, channels=context.channels)).float() / 127.5 - 1
        generator = rng.generator(context.seed, "rded", context.source.ids[row], again)
        side = context.size // self.grid
        for _ in range(self.crops):
            box = random_square(pixels.shape[1], pixels.shape[2], generator)
            part = pixels[None, :, box.top : box.top + box.side, box.left : box.left + box.side]
            yield functional.interpolate(part, (side, side), mode="bilinear", antialias=True, align_corners=False)[0]


def random_square(height: int, width: int, generator: torch.Generator) -> Box:
    """Return a random square as torchvision's RandomResizedCrop with ratio 1 draws it.

    Its area is a share of the image's, uniform from 0.08 to 1. If the square does not fit in ten tries, as may happen
    in an image that is no square, it is the largest in the middle.
    """
    for _ in range(TRIES):
        share = AREA[0] + (AREA[1] - AREA[0]) * float(torch.rand((), generator=generator))
        side = round(math.sqrt(height * width * share))
        if 0 < side <= min(height, width):
            top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in (height, width))
            return Box(top, left, side)
    side = min(height, width)
    return Box((height - side) // 2, (width - side) // 2, side)


def padded(crops: Tensor, size: int) -> Tensor:
    """Return crops (N, channels, s, s) in [-1, 1] in the middle of images of ``size`` in the mean colour."""
    count, channels, side, _ = crops.shape
    mean = 2 * torch.tensor(normal_values(channels)[0]) - 1
    images = mean[:, None, None].repeat(count, 1, size, size).view(count, channels, size, size)
    start = (size - side) // 2
    images[:, :, start : start + side, start : start + side] = crops
    return images


def put_together(crops: Tensor, grid: int, size: int) -> Tensor:
    """Return images (n, channels, size, size) of n · grid² crops: crop j · n + i is at place j of image i."""
    count = len(crops) // grid**2
    sides = [size // grid + (place < size % grid) for place in range(grid)]
    images = torch.empty(count, crops.shape[1], size, size)
    top, places = 0, iter(crops.split(count))
    for height in sides:
        left = 0
        for width in sides:
            part = functional.interpolate(next(places), (height, width))
            images[:, :, top : top + height, left : left + width] = part
            left += width
        top += height
    return images
