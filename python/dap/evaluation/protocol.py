"""The seam of protocols: how a network is trained on a set and tested, and what that depends on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from dap.bar import NO_BARS, Bars
from dap.config import plain
from dap.errors import OptionError
from dap.evaluation.recipe import Case, Recipe
from dap.nets import Network
from dap.registry import unknown_name_error
from dap.seams import Seam

__all__ = ["ImagesOf", "LabelledImages", "Outcome", "Protocol", "Published", "TestImages", "Training"]

LabelledImages = tuple[np.ndarray, np.ndarray]
ImagesOf = Callable[[np.ndarray], np.ndarray]
TestImages = tuple[np.ndarray | ImagesOf, np.ndarray]
"""Images, or a function that returns those with some indices, and the labels of all."""


class Outcome(NamedTuple):
    """Test accuracies of one training in per cent: at its end, and the best of those measured on the way."""

    last: float
    best: float


@dataclass(frozen=True)
class Training:
    """The surroundings of one training.

    Attributes:
        classes: Number of classes.
        network: Name of the network.
        generator: CPU generator of the initial weights, the order and the augmentation.
        device: Where to train.
        teacher: Maps normalised images to logits; None: there is none.
        soft_labels: A folder of stored soft labels; None: protocols that store them compute them anew.
        weights: Factors of the images' losses, float32 (N,); None: all 1.
        checkpoint: A file from which a training that was stopped continues; None: it starts anew.
        title: Of the progress bar.
        bars: Opens the progress bar.
    """

    classes: int
    network: str
    generator: torch.Generator
    device: torch.device
    teacher: nn.Module | None = None
    soft_labels: Path | None = None
    weights: np.ndarray | None = None
    checkpoint: Path | None = None
    title: str = "training"
    bars: Bars = NO_BARS


class Protocol(Seam):
    """A protocol; a subclass is a frozen dataclass."""

    seam = "protocol"

    @abstractmethod
    def with_options(self, options: Mapping[str, object]) -> Protocol:
        """Return the protocol with other constants; raise OptionError for a name or value that it does not take."""

    @abstractmethod
    def sides(self, case: Case, *, uniform: bool) -> tuple[int, int]:
        """Return the side of the images to train on and that of test images, in pixels.

        Args:
            case: The network and the set.
            uniform: Whether all images of the set are squares of the same size.
        """

    @abstractmethod
    def network(self, case: Case, *, channels: int, generator: torch.Generator) -> Network:
        """Build the network of a case on the CPU; raise OptionError if it does not take images of its size."""

    def check_set(self, case: Case, *, images: int, channels: int) -> None:
        """Raise OptionError if the network of a case cannot be trained on so many images; all can by default."""
        return

    @abstractmethod
    def number_of_checks(self, case: Case) -> int:
        """Return how many accuracies ``best`` is the best of."""

    @abstractmethod
    def constants(self, case: Case) -> dict[str, object]:
        """Return the constants of a training, with the changes of :meth:`with_options`."""

    def label_bytes(self, case: Case, images: int) -> int | None:
        """Return the bytes of the soft labels of a set of ``images`` images; None if they are not stored."""
        return None

    @abstractmethod
    def check(self, *, teacher: bool, soft_labels: bool) -> None:
        """Raise OptionError if the protocol needs a teacher and there is none, or the other way round.

        Args:
            teacher: Whether there is a teacher.
            soft_labels: Whether there is a folder of stored soft labels.
        """

    @abstractmethod
    def run(self, train: LabelledImages, test: TestImages, training: Training) -> Outcome:
        """Train one network on a set of uint8 images (N, C, S, S) and test it."""


@dataclass(frozen=True)
class Published(Protocol):
    """A protocol of the literature.

    Attributes:
        name: Its name.
        recipe_of: Returns the constants of a case, each beside the line that it was read from.
        source: The paper and the code.
        differs: How results differ from those of the code all the same.
        known: "partly" if the authors did not release all of it.
        options: Constants that were changed, by name.
    """

    name: str
    recipe_of: Callable[[Case], Recipe]
    source: str
    differs: str
    known: Literal["whole", "partly"]
    options: Mapping[str, object] = field(default_factory=dict)

    def with_options(self, options: Mapping[str, object]) -> Published:
        """Return the protocol with other constants, fields of :class:`dap.evaluation.recipe.Recipe`."""
        changed = Published(self.name, self.recipe_of, self.source, self.differs, self.known, dict(options))
        changed.recipe(Case("convnet3", 10, 10, 32))
        return changed

    def recipe(self, case: Case) -> Recipe:
        """Return the constants of a case."""
        names = [field.name for field in fields(Recipe)]
        for name in self.options:
            if name not in names:
                raise unknown_name_error(f"option of protocol {self.name!r}", name, names)
        changes: dict[str, Any] = {name: plain(value) for name, value in self.options.items()}
        return replace(self.recipe_of(case), **changes)

    def sides(self, case: Case, *, uniform: bool) -> tuple[int, int]:
        """Return the sides of the images to train on and to test on, in pixels."""
        recipe = self.recipe(case)
        return case.side if recipe.own_size and uniform else recipe.size, recipe.test_side

    def network(self, case: Case, *, channels: int, generator: torch.Generator) -> Network:
        """Build the network of a case on the CPU."""
        return self.recipe(case).network(case.network, channels=channels, classes=case.classes, generator=generator)

    def check_set(self, case: Case, *, images: int, channels: int) -> None:
        """Raise OptionError if the batch normalisation of a network cannot take the last step of an epoch."""
        self.recipe(case).check_parts(case.network, images=images, channels=channels, classes=case.classes)

    def number_of_checks(self, case: Case) -> int:
        """Return how many accuracies ``best`` is the best of."""
        return self.recipe(case).checks

    def constants(self, case: Case) -> dict[str, object]:
        """Return all constants by name; the accumulation only if a step has several parts."""
        constants = asdict(self.recipe(case))
        if constants["accumulation"] == 1:
            del constants["accumulation"]
        return constants

    def label_bytes(self, case: Case, images: int) -> int | None:
        """Return the bytes of the soft labels of a set of ``images`` images; None if they are not stored."""
        return self.recipe(case).label_bytes(images, case.classes)

    def check(self, *, teacher: bool, soft_labels: bool) -> None:
        """Raise OptionError unless there is a teacher exactly if the labels are a teacher's."""
        labels = self.recipe(Case("convnet3", 10, 10, 32)).labels
        if labels == "hard" and teacher:
            raise OptionError(f"protocol {self.name!r} trains on hard labels: leave teacher= out, or take 'rded'")
        if soft_labels and labels != "stored":
            raise OptionError(f"protocol {self.name!r} stores no soft labels: leave soft_labels= out, or take 'fkd'")
        if labels != "hard" and not (teacher or soft_labels):
            raise OptionError(
                f"protocol {self.name!r} trains on the labels of a teacher: give teacher=, such as the file of `dap "
                "teacher train`, or a network that maps normalised images to logits; or the option labels='hard'"
            )

    def run(self, train: LabelledImages, test: TestImages, training: Training) -> Outcome:
        """Train one network and test it."""
        from dap.evaluation.training import train_and_test

        images, labels = train
        case = Case(training.network, -(-len(labels) // training.classes), training.classes, images.shape[2])
        return train_and_test(self.recipe(case), images, labels, test, training)
