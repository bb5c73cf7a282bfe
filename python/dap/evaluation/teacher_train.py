"""``dap.train_teacher``: trains the teacher of a set's soft labels on the real images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from dap import rng
from dap.bar import Bars
from dap.config import check_path, check_whole
from dap.data.names import some
from dap.data.open import SourceLike, open_source
from dap.data.source import Source
from dap.data.stack import read_images
from dap.device import resolve_device
from dap.errors import OptionError, SourceError
from dap.evaluation.leaks import TestHashes
from dap.evaluation.protocol import Published, TestImages, Training
from dap.evaluation.recipe import Case, Recipe
from dap.evaluation.source import check_not_blank
from dap.evaluation.training import train_network
from dap.nets import check_network
from dap.nets.teacher import Teacher
from dap.nets.teacher_file import open_teacher, write_teacher
from dap.short_memory import memory_for
from dap.storage.files import check_writable
from dap.torch_state import own_torch_state

__all__ = ["train_teacher"]

LARGEST = 224  # pixels


def _recipe(case: Case) -> Recipe:
    """The constants of a teacher's training: dap's own, after torchvision's reference training of ResNets."""
    return Recipe(
        size=min(case.side, LARGEST), margin=case.side >= LARGEST, own_size=True, norm="batch", width=None,
        grey_padding=1, epochs=100, batch_size=128, optimiser="sgd", lr=0.05, schedule="cosine", momentum=0.9,
        weight_decay=5e-4, decay_all=False, cadence="last", strips=1, crop=0.25, flip=True, jitter=0.0,
        lighting=0.0, cutmix=0.0, labels="hard", temperature=1.0, second_forward=False,
    )  # fmt: skip


TEACHER = Published("teacher", _recipe, "dap", "", "whole")


@own_torch_state()
@memory_for("to train the teacher", "a smaller network, smaller images or another device")
def train_teacher(
    source: SourceLike,
    *,
    out: str | Path,
    network: str = "resnet18",
    epochs: int = 100,
    test: SourceLike | None = None,
    options: Mapping[str, object] | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Teacher:
    """Train a classifier on real images, whose logits are then the labels of protocols ``rded`` and ``fkd``.

    After a stop the same call continues, and ends with the same weights. All images are held in memory as bytes: for
    ImageNet-1K at 224 pixels 193 GB. More than the machine has are refused before they are decoded.

    Args:
        source: Real training images, as for :func:`dap.distill`.
        out: The file to write, such as "teacher.safetensors". It has the classes, the network, the size, the
            normalisation, the accuracy and all constants of the training.
        network: One of :func:`dap.list_networks`, or "timm/NAME".
        epochs: Passes over the images.
        test: Labelled images on which the teacher is measured; if left out, the training images, on which every
            teacher is too good.
        options: Other constants of the training, fields of :class:`dap.evaluation.Recipe`, such as
            ``{"lr": 0.1, "size": 128}``. If left out: the images' own size, at most 224 pixels; SGD with rate 0.05 that
            falls to 0 along a cosine, weight decay 5e-4, batches of 128, random crops of a quarter of the area and
            more, and mirroring.
        seed: Seed of the weights, the order and the augmentation.
        device: Where to train; the GPU if there is one.
        progress: Show a progress bar.

    Returns:
        The teacher, opened from the file; ``accuracy`` is in per cent.

    Raises:
        DapError: A subclass of it, for an unknown source, network or option; ``out`` exists, or cannot be written;
            the images do not fit into memory.
        DivergedError: A loss is not finite.

    Example:
        >>> import dap
        >>> teacher = dap.train_teacher("imagenette/train", out="teacher.safetensors",
        ...                             test="imagenette/val")  # doctest: +SKIP
        >>> dap.evaluate("distilled", "imagenette/val", protocol="rded", teacher=teacher)  # doctest: +SKIP
    """
    check_whole("epochs", epochs)
    check_network(network)
    protocol = TEACHER.with_options({"epochs": epochs, **(options or {})})
    file = check_path("out", out)
    if file.suffix != ".safetensors":
        raise OptionError(f"out: expected a file that ends with .safetensors, got {str(file)!r}")
    check_writable(file.parent)
    if file.exists():
        raise OptionError(f"out: {file} is there already; take another name, or delete it")
    images = open_source(source)
    channels = images.appearance.channels
    case = Case(network, -(-len(images) // len(images.class_names)), len(images.class_names), images.appearance.size)
    recipe = protocol.recipe(case)
    if recipe.labels != "hard":
        raise OptionError(f"labels: expected 'hard', got {recipe.labels!r}: a teacher has no teacher")
    tests = None if test is None else _same_classes(open_source(test, split="test"), images)
    side, _ = protocol.sides(case, uniform=images.appearance.uniform)
    kept = "nothing is kept yet; the same command begins again"
    pixels = read_images(
        images, np.arange(len(images)), size=side, channels=channels, bars=Bars(shown=progress), kept=kept
    )
    check_not_blank(images, pixels)
    if tests is not None:
        hashes = TestHashes(tests, images.class_names, side=side, channels=channels)
        hashes.warn(images, np.arange(len(images)), "the training images", copies=pixels)
    key = json.dumps([network, asdict(recipe), seed, images.identity(), len(images)])
    checkpoint = file.with_name(f"{file.name}.{hashlib.sha256(key.encode()).hexdigest()[:12]}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    net, accuracies = train_network(
        recipe, pixels, images.labels, _test_images(tests or images, images.class_names, recipe, channels),
        Training(
            classes=len(images.class_names), network=network, generator=rng.generator(seed, "teacher", network),
            device=resolve_device(device), checkpoint=checkpoint, title=f"teacher {network}", bars=Bars(shown=progress),
        ),
    )  # fmt: skip
    write_teacher(
        file, net, network=network, class_names=images.class_names, channels=channels, size=recipe.size,
        margin=recipe.margin, width=recipe.width, norm=recipe.norm, grey_padding=recipe.grey_padding,
        accuracy=accuracies[-1],
        measured_on="the training images" if tests is None else "test images", images=len(tests or images),
        constants=protocol.constants(case),
    )  # fmt: skip
    checkpoint.unlink(missing_ok=True)
    return open_teacher(file)


def _same_classes(test: Source, images: Source) -> Source:
    if missing := [name for name in test.class_names if name not in images.class_names]:
        raise SourceError(
            f"{test.name}: has classes {some(missing)}, which {images.name} has not; classes are matched by name"
        )
    return test


def _test_images(source: Source, names: tuple[str, ...], recipe: Recipe, channels: int) -> TestImages:
    """Return a function that decodes test images, and the labels of all, as numbers of ``names``."""
    labels = np.array([names.index(name) for name in source.class_names], np.int64)[source.labels]
    return lambda rows: source.images(rows, size=recipe.test_side, channels=channels), labels
