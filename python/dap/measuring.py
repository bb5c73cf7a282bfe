"""``dap.measure``: what a distilled set is worth, without training on it."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from dap.data.builtin import recorded_builtin
from dap.data.open import SourceLike, open_source
from dap.dataset import DistilledDataset
from dap.errors import OptionError
from dap.evaluation import judge_source
from dap.features import encoder_by_name
from dap.loading import images_of_set
from dap.metrics import MetricsResult, measure_set, overlap
from dap.metrics.sets import chosen_metrics
from dap.priors import PriorLike
from dap.short_memory import memory_for
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from dap.features import Encoder

__all__ = ["measure"]


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
    train, manifest = images_of_set(distilled)
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
