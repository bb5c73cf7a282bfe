"""filtered: several candidates for each slot by another method; a classifier keeps one of them.

The first stage of CaO2 (Wang et al., ICCV 2025, https://arxiv.org/abs/2506.22637) for other methods: it draws more
samples than are wanted and keeps those that a classifier assigns to their class and is surest of. There the samples of
a class compete for all places of the class. Here the candidates of one slot compete for this slot, so that a method
whose slots have modes of their own (``mgd3``) keeps an image of each mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from dap.config import check_whole
from dap.errors import OptionError
from dap.methods.base import AnyMethod, Context, Couples, Method, Presets, Record, Remakes, Unit
from dap.methods.common.classifier import Classifier, ClassifierOptions
from dap.methods.common.registry import get_method
from dap.methods.dit import DiT
from dap.priors import Demand

__all__ = ["Filtered"]

Prepared = tuple[object, Classifier]  # what the method prepared, and the classifier


@dataclass(frozen=True)
class Filtered(ClassifierOptions, Method[Prepared]):
    """The best of several images for each slot, by a classifier. A finished run cannot be extended to more images.

    Attributes:
        method: The method that makes the candidates: a name, a preset such as "mgd3:paper", a mapping of its name and
            options, or an object. A prior has to make its images, and each slot by itself or in a set that can be made
            again. The networks of "lgd" are trained on the images that it makes alone, not on those that are kept.
        candidates: Images made for each slot, at least 1. The first one is what the method alone would make, except for
            a slot that is made again.
        surest: Keep the candidate of which the classifier is surest, among those that it assigns to the class;
            otherwise the one of which it is least sure. If it assigns none to the class, the candidate with the largest
            probability of the class is kept, in both cases.
        teacher: The classifier: a file or a name as for :func:`dap.open_teacher`; None trains one on the real images.
        teacher_options, network, width, epochs: See :class:`dap.methods.common.classifier.ClassifierOptions`.

    Example:
        >>> Filtered(method={"name": "mgd3", "scale": 0.5}, candidates=2).method.scale
        0.5
        >>> import dap
        >>> distilled = dap.distill(  # doctest: +SKIP
        ...     "fashion-mini", method="filtered", method_options={"method": "mgd3"}, out="distilled"
        ... )
    """

    name: ClassVar[str] = "filtered"
    version: ClassVar[int] = 2
    paper: ClassVar[str] = "after Wang et al., ICCV 2025, arXiv 2506.22637"
    year: ClassVar[int | None] = None
    couples: ClassVar[Couples] = "class"
    needs: ClassVar[tuple[str, ...]] = ("prior", "labels", "classifier")
    presets: ClassVar[Presets] = {}

    method: AnyMethod = field(default_factory=DiT)
    candidates: int = 4
    surest: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", _method(self.method))
        check_whole("candidates", self.candidates)
        if not isinstance(self.surest, bool):
            raise OptionError(f"surest: expected true or false, got {self.surest!r}")
        self.choice()

    def versions(self) -> Mapping[str, int]:
        """Return the version of the method, and of the one that makes the candidates."""
        return {**super().versions(), **self.method.versions()}

    def prepare(self, context: Context) -> Prepared:
        """Prepare the method, and open the teacher or train the classifier.

        Raises:
            OptionError: The teacher does not fit, or the method cannot be prepared.
        """
        return self.method.prepare(context), self.choice().prepare(context)

    def make(self, context: Context, unit: Unit, artefact: Prepared) -> Tensor:
        """Return the candidate of each slot that the classifier keeps: latents, or uint8 images."""
        prepared, classifier = artefact
        made: list[Tensor] = []
        for number in range(self.candidates):
            slots = tuple(replace(slot, again=slot.again * self.candidates + number) for slot in unit.slots)
            images = self.method.make(context, Unit(unit.index, slots), prepared)
            made.append(images if isinstance(images, Tensor) else torch.stack(list(images)))
        judged = [
            classifier.probabilities(self._pixels(context, images), context.prior.device).split(1) for images in made
        ]
        kept = []
        for place, (slot, own) in enumerate(zip(unit.slots, zip(*judged, strict=True), strict=True)):
            kept.append(made[_chosen(torch.cat(own), slot.class_index, self.surest)][place])
        return torch.stack(kept)

    @staticmethod
    def _pixels(context: Context, made: Tensor) -> Tensor:
        """Return candidates as the classifier takes them, float in [-1, 1]."""
        return (context.prior.decode(made) if made.is_floating_point() else made).float() / 127.5 - 1

    def record(self, context: Context, artefact: Prepared) -> Record:
        """Return what the method says, and what the classifier is."""
        prepared, classifier = artefact
        return {"method": self.method.record(context, prepared), "classifier": classifier.record}

    def weights(self, context: Context, artefact: Prepared) -> Mapping[str, Sequence[float]]:
        """Return the weights of the method's slots."""
        return self.method.weights(context, artefact[0])

    def files(self, context: Context, artefact: Prepared) -> Mapping[str, bytes]:
        """Return the method's files."""
        return self.method.files(context, artefact[0])

    def order(self, context: Context, artefact: Prepared, class_index: int, images: Tensor) -> list[int] | None:
        """Return the method's order of the slots."""
        return self.method.order(context, artefact[0], class_index, images)

    def ignored(self) -> tuple[str, ...]:
        """Return what changes nothing with the method."""
        return self.method.ignored()

    def shared(self) -> str | None:
        """Return what all classes of the method share, or the classifier that the run trains."""
        return self.method.shared() or self.choice().shared()

    def remakes(self) -> Remakes:
        """Return that a slot can be made again, with other candidates."""
        return "slot"

    def slots_at_once(self, ipc: int) -> int:
        """Return the number of slots of a class that the method samples together."""
        return self.method.slots_at_once(ipc)

    def demands(self, context: Context) -> tuple[Demand, ...]:
        """Return what the method needs of the prior."""
        return self.method.demands(context)

    def preparation_bytes(self, context: Context) -> int:
        """Return the larger memory of the method's preparation and of training the classifier."""
        return max(self.method.preparation_bytes(context), self.choice().preparation_bytes(context))

    def disk(self, context: Context) -> int:
        """Return about how many bytes the method's preparation writes to the cache."""
        return self.method.disk(context)

    def steps_per_slot(self, context: Context) -> int:
        """Return the denoiser steps of all candidates."""
        return self.candidates * self.method.steps_per_slot(context)


def _chosen(probabilities: Tensor, class_index: int, surest: bool) -> int:
    """Return which candidate of a slot is kept, by the probabilities of each class, (candidates, classes)."""
    own = probabilities[:, class_index]
    right = probabilities.argmax(1) == class_index
    if not right.any():
        return int(own.argmax())
    return int(own.where(right, -1).argmax() if surest else own.where(right, 2).argmin())


def _method(given: object) -> AnyMethod:
    """Return the method that makes the candidates, from its name, its name and options, or as it is.

    Raises:
        OptionError: It is unknown, or its images cannot be candidates.
    """
    if isinstance(given, Mapping):
        options = dict(given)
        if not isinstance(name := options.pop("name", None), str):
            raise OptionError(f"method: expected the name of a method among its options, got {dict(given)!r}")
        given = get_method(name, options)
    if isinstance(given, str) and given[:1] in "{[":
        raise OptionError(f"method: expected a name, or a name and options as JSON, got {given!r}")
    method = get_method(given)  # type: ignore[arg-type]  # it checks the type
    if isinstance(method, Filtered) or not method.uses_prior():
        reason = "it is a filter itself" if isinstance(method, Filtered) else "no prior makes its images"
        raise OptionError(f"method: 'filtered' cannot take {method.name!r}: {reason}")
    if method.couples == "sequence" or method.remakes() != "slot":
        raise OptionError(
            f"method: 'filtered' cannot take {method.name!r}: it cannot make a slot again beside others that stay"
        )
    return method
