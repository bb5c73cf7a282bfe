"""The constants of one training, and the schedules and cadences that they name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch

from dap.config import check_choice, check_number, check_whole
from dap.errors import OptionError
from dap.nets import Network, create_net
from dap.nets.teacher import resized_side

__all__ = ["CADENCES", "SCHEDULES", "Case", "Recipe"]

SCHEDULES: Mapping[str, Callable[[int, int], float]] = {
    "steps": lambda epoch, epochs: 0.2 ** ((epoch >= 2 * epochs // 3) + (epoch >= 5 * epochs // 6)),
    "half cosine": lambda epoch, epochs: 0.5 * (1 + math.cos(math.pi * epoch / (2 * epochs))),
    "cosine": lambda epoch, epochs: 0.5 * (1 + math.cos(math.pi * epoch / epochs)),
    "constant": lambda epoch, epochs: 1.0,
}
"""The learning rate of an epoch, counted from 0, as a share of the first one."""

CADENCES: Mapping[str, Callable[[int, int], bool]] = {
    "hundredth": lambda epoch, epochs: (epoch + 1) % max(epochs // 100, 1) == 0,
    "epoch": lambda epoch, epochs: True,
    "tenth": lambda epoch, epochs: epoch % 10 == 0,
    "fiftieth": lambda epoch, epochs: epoch % 50 == 0,
    "tenth, late": lambda epoch, epochs: epoch % 10 == 9 and epoch > 0.8 * epochs,
    "last": lambda epoch, epochs: False,
}
"""Whether the network is tested after an epoch, counted from 0; after the last epoch it always is."""


@dataclass(frozen=True)
class Case:
    """What the constants of a protocol depend on.

    Attributes:
        network: Name of the network.
        ipc: Images of a class, on average and rounded up.
        classes: Number of classes.
        side: Short side of the images to train on, in pixels.
    """

    network: str
    ipc: int
    classes: int
    side: int


@dataclass(frozen=True)
class Recipe:
    """All constants of the training of one network on one set.

    An image is cut into strips that are shuffled, cropped at random and resized, mirrored, changed in colour, lit and
    normalised, in this order (:mod:`dap.evaluation.augment`); then the images of a batch are mixed.

    Attributes:
        size: Side of the network's images in pixels.
        margin: Test images are resized to ``size // 7 * 8`` and the middle is cut out (256 → 224), or to ``size``;
            to ``size`` also where the first is less.
        own_size: Images to train on are cropped at random from their own size if all are squares of one size, else,
            and always if False, they are first resized to ``size``.
        norm: Normalisation of ConvNets, ResNetAP and ResNets: "instance" or "batch".
        width: Channels of ConvNets and ResNetAP; None: the network's own.
        grey_padding: Padding of the first convolution of a ConvNet for grey images.
        epochs: Passes over the set.
        batch_size: Most images in a step; the last step of an epoch has the rest.
        optimiser: "sgd" or "adamw" (with betas 0.9 and 0.999).
        lr: Learning rate of the first epoch.
        schedule: How it falls by epoch, one of :data:`SCHEDULES`.
        momentum: Of SGD.
        weight_decay: Coupled for SGD, decoupled for AdamW.
        decay_all: Whether biases and the weights of norms decay too.
        cadence: When the network is tested, one of :data:`CADENCES`.
        strips: Vertical and horizontal strips into which images are cut and which are shuffled; 1: none.
        crop: Smallest share of the area of a random crop; None: 1 / ``strips``.
        flip: Whether to mirror left to right with probability 1/2.
        jitter: Largest change of brightness, contrast and saturation.
        lighting: Standard deviation of the noise along the principal colours of ImageNet.
        cutmix: Probability of CutMix in a step.
        labels: "hard"; "teacher": the teacher's probabilities for the mixed images; or "stored": the same, of crops and
            mixes that are drawn once for all trainings (:mod:`dap.evaluation.soft_labels`).
        temperature: Of the teacher's and the network's logits, with labels of a teacher.
        second_forward: Whether each batch goes through the network once more before the step, as in RDED's code, where
            running statistics of batch normalisation therefore move twice.
        precision: "float32", or "bfloat16" for autocast.
        accumulation: Parts of a step, each of ``batch_size`` / ``accumulation`` images, with batch statistics of their
            own, whose losses are divided by this number.

    Raises:
        OptionError: A value is out of its range.
    """

    size: int
    margin: bool
    own_size: bool
    norm: str
    width: int | None
    grey_padding: int
    epochs: int
    batch_size: int
    optimiser: str
    lr: float
    schedule: str
    momentum: float
    weight_decay: float
    decay_all: bool
    cadence: str
    strips: int
    crop: float | None
    flip: bool
    jitter: float
    lighting: float
    cutmix: float
    labels: str
    temperature: float
    second_forward: bool
    precision: str = "float32"
    accumulation: int = 1

    def __post_init__(self) -> None:
        for name in ("size", "epochs", "batch_size", "grey_padding", "strips", "accumulation"):
            check_whole(name, getattr(self, name))
        if self.width is not None:
            check_whole("width", self.width)
        for name in ("lr", "temperature"):
            check_number(name, getattr(self, name), above=0)
        for name in ("weight_decay", "lighting"):
            check_number(name, getattr(self, name), 0)
        check_number("momentum", self.momentum, 0, below=1)
        for name in ("jitter", "cutmix"):
            check_number(name, getattr(self, name), 0, 1)
        if self.crop is not None:
            check_number("crop", self.crop, most=1, above=0)
        for name, choices in (
            ("norm", ("instance", "batch")), ("optimiser", ("sgd", "adamw")), ("schedule", SCHEDULES),
            ("cadence", CADENCES), ("labels", ("hard", "teacher", "stored")), ("precision", ("float32", "bfloat16")),
        ):  # fmt: skip
            check_choice(name, getattr(self, name), choices)
        for field in fields(self):
            if field.type == "bool" and not isinstance(getattr(self, field.name), bool):
                raise OptionError(f"{field.name}: expected true or false, got {getattr(self, field.name)!r}")
        if self.batch_size % self.accumulation:
            raise OptionError(
                f"batch_size: expected a multiple of accumulation={self.accumulation}, got {self.batch_size}"
            )
        if self.labels == "stored" and (self.strips > 1 or self.jitter or self.lighting):
            raise OptionError("stored labels keep crops, mirroring and CutMix: leave strips=1, jitter=0 and lighting=0")

    @property
    def test_side(self) -> int:
        """Side in pixels to which test images are resized before the middle of ``size`` is cut out."""
        return resized_side(self.size) if self.margin else self.size

    def network(self, name: str, *, channels: int, classes: int, generator: torch.Generator) -> Network:
        """Build a network on the CPU; raise OptionError if it does not take images of this size."""
        return create_net(
            name, channels=channels, classes=classes, size=self.size, generator=generator, width=self.width,
            norm=self.norm, first_padding=self.grey_padding if channels == 1 else 1,
        )  # fmt: skip

    def check_parts(self, name: str, *, images: int, channels: int, classes: int) -> None:
        """Raise OptionError if a part of a step has one image, and the batch normalisation of a network needs more.

        Args:
            name: The network.
            images: Images of the set.
            channels: Their channels.
            classes: Number of classes.
        """
        part = min(self.batch_size // self.accumulation, images)
        if (images % part or part) > 1:
            return
        net = self.network(name, channels=channels, classes=classes, generator=torch.Generator())
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                net.train()(torch.zeros(1, channels, self.size, self.size))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise OptionError(
                f"batch_size: a step with one of {images} images is too small for the batch normalisation of {name}; "
                f"choose another than {self.batch_size}, or a larger size"
            ) from error

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * SCHEDULES[self.schedule](epoch, self.epochs)

    def is_tested(self, epoch: int) -> bool:
        """Whether the network is tested after an epoch, counted from 0."""
        return epoch == self.epochs - 1 or CADENCES[self.cadence](epoch, self.epochs)

    def label_bytes(self, images: int, classes: int) -> int | None:
        """Return the bytes of the stored logits of all epochs in float16; None if labels are not stored."""
        return 2 * self.epochs * images * classes if self.labels == "stored" else None

    @property
    def checks(self) -> int:
        """How often the network is tested: ``best`` is the best of so many accuracies."""
        return sum(self.is_tested(epoch) for epoch in range(self.epochs))
