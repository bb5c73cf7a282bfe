"""``dap.evaluate`` and ``dap.measure``: what a distilled set is worth, by training on it and without."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dap.config import check_path, check_whole
from dap.data.builtin import recorded_builtin
from dap.data.hub import download_set, is_hub_set
from dap.data.label_order import reorder_labels
from dap.data.manifest import read_manifest
from dap.data.names import escape
from dap.data.open import SourceLike, open_source
from dap.data.shard_paths import PACKED
from dap.data.source import Source
from dap.dataset import DistilledDataset
from dap.errors import OptionError
from dap.evaluation import EvaluationResult, evaluate_source, judge_source, teacher_from_options
from dap.evaluation.run import check_options
from dap.features import encoder_by_name
from dap.loading import load
from dap.metrics import MetricsResult, measure_set, overlap
from dap.metrics.sets import chosen_metrics
from dap.priors import PriorLike
from dap.run import Rank, own_device, own_rank, worker_processes
from dap.short_memory import memory_for
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from torch import nn

    from dap.features import Encoder

__all__ = ["evaluate", "measure"]

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
    train, manifest = _evaluated(distilled)
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


@own_torch_state()
@memory_for("to measure the set", "smaller images, other features, or another device")
def measure(
    distilled: DistilledDataset | SourceLike,
    real: SourceLike | None = None,
    *,
    features: str | Encoder | None = None,
    features_options: Mapping[str, object] | None = None,
    prior: PriorLike | None = None,
    only: Collection[str] | None = None,
    against: SourceLike | None = None,
    judge: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> MetricsResult:
    """Measure a distilled set without training a classifier on it.

    ``docs/metrics.md`` has the formula and the source of each metric. Classes are matched by name.

    Args:
        distilled: A distilled dataset or a part of it (``distilled.take(10)``), the folder of a run, or anything else
            that :func:`dap.open_source` opens: images of any method.
        real: Real training images; if left out, those that a run's manifest names, where they are built in.
        features: What the metrics compare: "pixels", "vae", "prior", a model of timm by name, or a
            :class:`dap.features.Encoder`. If left out, "prior" if a prior is given, else "pixels". Only values of the
            same features can be compared.
        features_options: Options of the features by name, such as "size", "pretrained" and "weights" of timm's models.
        prior: The prior of "vae" and "prior"; "fashion-dit" if left out.
        only: Names of metrics to compute, such as ["fid", "kid"]; all if left out.
        against: Real test images. Those that are also training images, and distilled images that are also test or
            training images, are reported in ``overlaps``.
        judge: Also train the judge, a classifier, on the real images, and report the share of distilled images that it
            assigns to their own class (:mod:`dap.evaluation.judge`).
        seed: Seed of the noise of a prior's features, and of the judge.
        device: Where networks run; the GPU if there is one.

    Returns:
        Values with 95 % intervals, values of each class, and notes; ``table()`` and ``to_json()`` show them.

    Raises:
        DapError: A subclass of it, for an unknown source, metric or encoder, or classes that do not match.

    Example:
        >>> import dap
        >>> images = dap.open_source("fashion-mini", classes=["Bag", "Dress"])
        >>> chosen = images.select([*range(5), *range(1500, 1505)])
        >>> result = dap.measure(chosen, images, only=["nearest_real", "coverage"])
        >>> result["nearest_real"].value
        0.0
    """
    chosen_metrics(only)
    train, manifest = _evaluated(distilled)
    real = recorded_builtin(manifest) if real is None else real
    if real is None:
        raise OptionError("metrics compare with real images: give the real training images, real=")
    train = train.subset([train.class_names[label] for label in np.unique(train.labels)])
    training = open_source(real, classes=train.class_names)
    tests = None if against is None else open_source(against, split="test")
    if features is None:
        features = "pixels" if prior is None else "prior"
    if isinstance(features, str):
        prior = "fashion-dit" if prior is None and features in ("prior", "vae") else prior
        options = {"seed": seed} if features == "prior" else {}
        features = encoder_by_name(features, prior=prior, device=device, **options, **(features_options or {}))
    elif features_options or prior is not None:
        raise OptionError("features_options and prior belong to features by name; an Encoder has its own")
    result = measure_set(train, training, features, only=only)
    if tests is not None:
        sets = {"the distilled set": train, "the test set": tests, "the training set": training}
        pairs = itertools.combinations(sets.items(), 2)
        overlaps = (replace(overlap(a, b), first=name, second=other) for (name, a), (other, b) in pairs)
        result = replace(result, overlaps=tuple(overlaps))
    if not judge:
        return result
    recognition = judge_source(train, training, seed, device)
    shares = {train.class_names[label]: share for label, share in recognition.per_class.items()}
    return replace(result, recognised=recognition.share, recognised_per_class=shares)


def _evaluated(distilled: DistilledDataset | SourceLike) -> tuple[Source, Mapping[str, Any]]:
    """The images to evaluate, and the manifest of their run, which is empty for images without one."""
    if isinstance(distilled, DistilledDataset):
        return _as_evaluated(distilled), distilled.manifest
    if not isinstance(distilled, str | Path):
        return open_source(distilled), {}
    folder = download_set(str(distilled)) if is_hub_set(distilled) else Path(distilled).expanduser()
    if folder is None:  # another dataset of the hub
        return open_source(distilled), {}
    if (folder / PACKED).is_file():  # it has labels and a manifest
        return _evaluated(load(folder))
    return open_source(distilled), read_manifest(folder) or {}


def _as_evaluated(distilled: DistilledDataset) -> Source:
    """The set's images without classes that have none.

    A run's images are sorted as in its folder, so that ``evaluate`` returns the same numbers for the set and its path.
    """
    source = distilled.source
    if not distilled.manifest:
        return source.subset([source.class_names[label] for label in np.unique(source.labels)])
    source = reorder_labels(source, sorted(source.class_names, key=escape))
    return source.select(sorted(range(len(source)), key=lambda index: (source.labels[index], source.ids[index])))


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
