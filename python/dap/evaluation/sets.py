"""Trains networks on several sets of images and tests them on real images; repeats are paired across the sets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from dap.bar import Bars, progress_bar
from dap.data.names import escape
from dap.device import resolve_device
from dap.errors import OptionError
from dap.evaluation.kept import Kept
from dap.evaluation.labelling import measured, plan_labels
from dap.evaluation.protocol import LabelledImages, Outcome, Protocol, TestImages
from dap.evaluation.recipe import Case
from dap.evaluation.result import EvaluationResult, Row
from dap.evaluation.run import check_options, run_protocol
from dap.evaluation.soft_labels import stored_teacher
from dap.evaluation.statistics import paired_difference
from dap.evaluation.teacher_check import fitted
from dap.evaluation.together import Together, together

if TYPE_CHECKING:
    from torch import nn

__all__ = ["evaluate_sets"]

AnySet: TypeAlias = LabelledImages | Callable[[int], LabelledImages]
"""Images and labels, or a function that draws them for the number of a repeat."""


def evaluate_sets(
    sets: Mapping[str, AnySet],
    test: TestImages,
    *,
    class_names: Sequence[str],
    protocol: str = "small",
    protocol_options: Mapping[str, object] | None = None,
    networks: Sequence[str] = ("convnet3",),
    repeats: int = 3,
    seed: int = 0,
    device: str | torch.device | None = None,
    teacher: nn.Module | None = None,
    soft_labels: str | Path | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    checkpoints: str | Path | None = None,
) -> EvaluationResult:
    """Trains every network on every set, ``repeats`` times, and compares the sets with the first one.

    Args:
        sets: Images and labels (as for :func:`run_protocol`) by the set's name. For a set that is drawn anew in each
            repeat: a function that returns them for the number of the repeat. All sets are compared with the first.
        test: Images, or a function that returns those with some indices, and labels to test on.
        class_names: Name of each class, in label order.
        protocol: Name of the protocol.
        protocol_options: Other constants of the protocol by name.
        networks: Names of the classifiers, all different.
        repeats: Trainings of each network on each set, at least 1.
        seed: Root seed of all repeats.
        device: Where to train; None: the GPU if there is one.
        teacher: Maps normalised images to logits, for protocols with a teacher's labels. It is measured on the test
            images first, and refused if its classes are in another order (:mod:`dap.evaluation.teacher_check`).
        soft_labels: A folder, made if it is not there, in which protocols that store soft labels keep those of sets.
        weights: Of sets by name: the factor of each image's loss, with a mean of 1 in each class, float32 (N,).
        checkpoints: A folder, made if it is not there, from which an evaluation that was stopped continues with the
            same numbers: the outcomes of its trainings, and the last checkpoint of an unfinished one.
            Several processes may make the same call with one folder: each training is made by one of them.

    Returns:
        One row per network and set. Repeat r uses the same seed for every set, so that differences are paired.

    Raises:
        OptionError: A name is unknown, a network is named twice, there is no set or network, ``repeats`` is less than
            1, images or labels have another shape or dtype, the teacher does not fit, or the soft labels are of another
            set.
        DivergedError: A loss is not finite.
    """
    changed = check_options(
        protocol, networks, repeats, protocol_options, teacher=teacher is not None, soft_labels=soft_labels is not None
    )
    if not sets:
        raise OptionError("expected at least one set to evaluate, got none")
    record = None
    if teacher is not None:
        teacher = fitted(teacher, class_names)
        fixed = (data for data in sets.values() if not callable(data))
        images, _ = next(fixed, None) or _drawn(next(iter(sets.values())), 0)
        case = _case(networks[0], images, len(class_names))
        record = measured(teacher, changed, case, test, class_names, resolve_device(device))
    labels_folder = None if soft_labels is None else Path(soft_labels)
    plan_labels(sets, changed, networks[0], len(class_names), teacher, labels_folder, repeats)
    trainings = _Trainings(
        protocol=protocol, changed=changed, test=test, classes=len(class_names), repeats=repeats, seed=seed,
        device=device, teacher=teacher, labels_folder=labels_folder, weights=weights or {},
        kept=None if checkpoints is None else Kept(Path(checkpoints), test, len(class_names), teacher),
    )  # fmt: skip
    rows: list[Row] = []
    first: dict[str, tuple[float, ...]] = {}
    with (
        nullcontext() if checkpoints is None else together(Path(checkpoints)) as others,
        progress_bar("evaluate", total=len(networks) * len(sets) * repeats, unit="training") as progress,
    ):
        made: dict[tuple[str, str, int], Outcome] = {}
        if others is not None:  # first what no other process is at
            for network, (name, any_set), repeat in itertools.product(networks, sets.items(), range(repeats)):
                drawn = _drawn(any_set, repeat)
                outcome = trainings.outcome(name, any_set, drawn, network, repeat, others, wait=False)
                if outcome is not None:
                    made[network, name, repeat] = outcome
                    progress.update()
        for network, (name, any_set) in itertools.product(networks, sets.items()):
            outcomes = []
            for repeat in range(repeats):
                outcome = made.get((network, name, repeat))
                if outcome is None or repeat == repeats - 1:  # the row is about the last set that was drawn
                    drawn = _drawn(any_set, repeat)
                outcome = outcome or trainings.outcome(name, any_set, drawn, network, repeat, others, wait=True)
                assert outcome is not None
                outcomes.append(outcome)
                if teacher is None and (folder := trainings.labels_of(name, repeat, drawn=callable(any_set))):
                    record = record or stored_teacher(folder)
                progress.update((network, name, repeat) not in made)
            images = drawn[0]
            last, best = (tuple(accuracies) for accuracies in zip(*outcomes, strict=True))
            difference = paired_difference(last, first[network]) if network in first else None
            first.setdefault(network, last)
            case = _case(network, images, len(class_names))
            row = Row(name, network, len(images), last, best, difference, checks=changed.number_of_checks(case))
            if protocol != "small":
                constants, size = changed.constants(case), changed.label_bytes(case, len(images))
                row = replace(row, constants=constants, label_bytes=size)
            rows.append(row)
    return EvaluationResult(
        protocol, seed, repeats, len(test[1]), tuple(class_names), tuple(rows),
        protocol_options=dict(protocol_options or {}), teacher=record, weighted=tuple(weights or ()),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Trainings:
    """What all trainings of an evaluation share: arguments of :func:`evaluate_sets`, checked."""

    protocol: str
    changed: Protocol
    test: TestImages
    classes: int
    repeats: int
    seed: int
    device: str | torch.device | None
    teacher: nn.Module | None
    labels_folder: Path | None
    weights: Mapping[str, np.ndarray]
    kept: Kept | None

    def labels_of(self, name: str, repeat: int, *, drawn: bool) -> Path | None:
        """Return the folder of a set's soft labels; None: they are not kept."""
        if self.labels_folder is None:
            return None
        return self.labels_folder / escape(name + (f", seed {self.seed}, repeat {repeat + 1}" if drawn else ""))

    def outcome(
        self, name: str, any_set: AnySet, drawn: LabelledImages, network: str, repeat: int, others: Together | None, *,
        wait: bool,
    ) -> Outcome | None:  # fmt: skip
        """Return the outcome of a training, which is kept or made; None if another process is at it."""
        images, labels = drawn
        folder = self.labels_of(name, repeat, drawn=callable(any_set))
        constants = self.changed.constants(_case(network, images, self.classes))
        key: tuple[object, ...] = (self.protocol, constants, network, self.seed, repeat)
        if self.teacher is None and folder is not None:
            key = (*key, stored_teacher(folder))
        weights = self.weights.get(name)
        if weights is not None:
            key = (*key, weights.tolist())
        entry = None if self.kept is None else self.kept.entry(key, images, labels)

        def train() -> Outcome:
            return run_protocol(
                images, labels, *self.test, classes=self.classes, protocol=self.changed, network=network,
                seed=self.seed, repeat=repeat, device=self.device, teacher=self.teacher, soft_labels=folder,
                weights=weights, checkpoint=None if entry is None else entry.checkpoint,
                title=f"{network} on {name}, repeat {repeat + 1} of {self.repeats}",
                bars=Bars(shown=self.protocol != "small"),
            )  # fmt: skip

        if entry is None or others is None:
            return train()
        return others.outcome(entry, entry.name if folder is None else escape(folder.name), train, wait=wait)


def _case(network: str, images: np.ndarray, classes: int) -> Case:
    """Return what the constants of a training depend on."""
    return Case(network, -(-len(images) // classes), classes, images.shape[2])


def _drawn(any_set: AnySet, repeat: int) -> LabelledImages:
    return any_set(repeat) if callable(any_set) else any_set
