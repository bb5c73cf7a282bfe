"""``dap.evaluate``: what classifiers learn from a distilled set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dap.config import check_path, check_whole
from dap.data.builtin import recorded_builtin
from dap.data.open import SourceLike, open_source
from dap.data.source import Source
from dap.dataset import DistilledDataset
from dap.errors import OptionError
from dap.evaluation import EvaluationResult, evaluate_source, teacher_from_options
from dap.evaluation.run import check_options
from dap.loading import images_of_set, load
from dap.run import Rank, own_device, own_rank, worker_processes
from dap.short_memory import memory_for
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from torch import nn


__all__ = ["evaluate"]

logger = logging.getLogger(__name__)


@own_torch_state()
def evaluate(
    distilled: DistilledDataset | SourceLike,
    test: SourceLike,
    *,
    real: SourceLike | None = None,
    protocol: str = "small",
    networks: Sequence[str] = ("convnet3",),
    repeats: int = 3,
    seed: int = 0,
    judge: bool = False,
    device: str | torch.device | None = None,
    protocol_options: Mapping[str, object] | None = None,
    teacher: nn.Module | str | Path | None = None,
    teacher_options: Mapping[str, object] | None = None,
    soft_labels: str | Path | None = None,
    weighted: bool = False,
    checkpoints: str | Path | None = None,
    workers: int = 1,
) -> EvaluationResult:
    """Trains classifiers on a distilled set and tests them on real images.

    Classifiers are also trained on random real subsets of the same size, with the same seeds, if the real training
    images are known: from ``real``, or from a manifest that names a built-in source. A folder that a manifest names is
    not opened unless ``real`` names it, because somebody else may have written the manifest.

    Args:
        distilled: A distilled dataset or a part of it (``distilled.take(10)``), the folder of a run, or anything else
            that :func:`dap.open_source` opens.
        test: Real images to test on, for example "fashion-mini" (its test split is taken) or "path/to/val".
        real: Real training images to compare with.
        protocol: Name of an evaluation protocol: "small", which is dap's own, or a published one, "hard", "hard:idc",
            "hard:mgd3", "hard:igd", "rded", "fkd" or "fkd:d4m" (``docs/evaluation.md``).
        networks: Names of networks (:func:`dap.list_networks`), or "timm/" and the name of a model of timm.
        repeats: Number of training seeds.
        seed: Root seed of the trainings.
        judge: Also train the judge, a classifier, on all real training images, and report the share of distilled images
            that it assigns to their own class (:mod:`dap.evaluation.judge`).
        device: Where to train; the GPU if there is one.
        protocol_options: Other constants of the protocol by name, such as ``{"few_steps": 800}`` of "small" or
            ``{"epochs": 100, "size": 64}`` of a published protocol; the result has them.
        teacher: For protocols whose labels are a teacher's: a file or a name that :func:`dap.open_teacher` opens, or a
            network that maps normalised images to logits of the set's classes; of a run, in the order of its sorted
            folder names. It is measured on the test images first, and refused if its classes are in another order.
        teacher_options: Options of :func:`dap.open_teacher`, such as ``{"network": "resnet18"}``.
        soft_labels: A folder in which protocol "fkd" keeps the soft labels of each set; later evaluations, also of
            other networks, take them from there, without a teacher if all are there. Without a folder they are computed
            in each training.
        weighted: Multiply the loss of each image by its weight (:attr:`dap.DistilledDataset.weights`): how many real
            images it stands for, relative to the others of its class. Random real images have no weights.
        checkpoints: A folder from which the same call continues after a stop, with the same numbers. Processes that
            make the same call with one folder share its trainings, as under torchrun or SLURM.
        workers: Processes of this machine that share the trainings, with this one, each on a GPU of its own if there
            are several, or with its part of the CPU's threads. The set, the sources and the teacher have to pickle, as
            names and paths do.

    Returns:
        Accuracies in per cent with mean, standard error and n; ``table()`` and ``to_json()`` show them.

    Raises:
        DapError: A subclass of it, for an unknown source, protocol or network, or classes that do not match.

    Example:
        >>> import dap
        >>> dap.evaluate("distilled", "fashion-mini", repeats=3).table()  # doctest: +SKIP
    """
    check_options(
        protocol, networks, repeats, protocol_options, teacher=teacher is not None, soft_labels=soft_labels is not None
    )
    if isinstance(teacher, str | Path):
        teacher = teacher_from_options(teacher, teacher_options or {})
    elif teacher_options:
        raise OptionError("teacher_options belong to a teacher by name or file; leave them out")
    if not isinstance(weighted, bool):
        raise OptionError(f"weighted: expected True or False, got {weighted!r}")
    workers, rank = check_whole("workers", workers), own_rank()
    if workers > 1 and rank.world > 1:
        raise OptionError(f"workers: torchrun or SLURM has started {rank.world} processes already; leave it out")
    with ExitStack() as stack:
        if workers > 1 and checkpoints is None:
            checkpoints = stack.enter_context(TemporaryDirectory(prefix="dap-evaluate-"))
        arguments = {
            "distilled": distilled, "test": test, "real": real, "protocol": protocol, "networks": networks,
            "repeats": repeats, "seed": seed, "judge": judge, "device": device, "protocol_options": protocol_options,
            "teacher": teacher, "weighted": weighted,
            "soft_labels": None if soft_labels is None else check_path("soft_labels", soft_labels),
            "checkpoints": None if checkpoints is None else check_path("checkpoints", checkpoints),
        }  # fmt: skip
        stack.enter_context(worker_processes(workers, _evaluate, {**arguments, "judge": False}))
        return _evaluate(Rank(0, 0, workers) if workers > 1 else rank, arguments)


@own_torch_state()
@memory_for("to evaluate the set", "a smaller network or images, fewer workers=, or another device")
def _evaluate(rank: Rank, arguments: Mapping[str, Any]) -> EvaluationResult:
    """Evaluate in one of several processes; the arguments are those of :func:`evaluate`."""
    distilled, test, real, device = (arguments[name] for name in ("distilled", "test", "real", "device"))
    train, manifest = images_of_set(distilled)
    weights = _weights_of(distilled, train) if arguments["weighted"] else None
    if real is None:
        real, name = recorded_builtin(manifest), manifest["source"]["name"] if manifest else ""
        if real is None and rank.number == 0:
            # a dataset in memory has a name too, which nothing can open
            given = f"real={name!r}" if name and Path(name).exists() else "real="
            logger.warning("not compared with random real images: give the real training images, %s", given)
    own = ("distilled", "test", "real", "device", "weighted")
    others = {key: value for key, value in arguments.items() if key not in own}
    return evaluate_source(
        train, open_source(test, split="test"),
        real=None if real is None else open_source(real, classes=train.class_names), device=own_device(device, rank),
        weights=weights, **others,
    )  # fmt: skip


def _weights_of(distilled: DistilledDataset | SourceLike, train: Source) -> np.ndarray:
    """The weights of the images to evaluate, float32 (N,)."""
    loaded = distilled if isinstance(distilled, DistilledDataset) else load(distilled)
    if (weights := loaded.weights) is None:
        raise OptionError(
            f"weighted: the images of {loaded.source.name} have no weights: leave it out, take a method that records "
            "them (mgd3, d4m, coda, or filtered with one of them), or save the set with tensors={'weights': ...}"
        )
    images = zip(loaded.source.labels, loaded.source.ids, weights, strict=True)
    by_image = {(loaded.class_names[label], name): weight for label, name, weight in images}
    names = zip(train.labels, train.ids, strict=True)
    return np.array([by_image[train.class_names[label], name] for label, name in names], np.float32)
