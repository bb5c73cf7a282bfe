"""The metrics of a set, in mean-pooled features of the prior at its recommended block and step t = 100."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from dap.data.classmap import build_class_map
from dap.features import Tap, default_block, real_features
from dap.metrics.distance import coverage, diversity, representativeness
from dap.torch_state import own_torch_state

if TYPE_CHECKING:
    from dap.data.source import Source
    from dap.priors import Prior

__all__ = ["Measures", "measure"]


@dataclass(frozen=True)
class Measures:
    """Means over the classes of the metrics in :mod:`dap.metrics.distance`.

    Attributes:
        representativeness: Mean distance to the class's real images; lower is better.
        diversity: Mean distance between images of a class; higher is more diverse.
        coverage: Share of the class's real images with a distilled image no farther away than their fifth-nearest real
            image (the farthest, if there are fewer than 6 real images); higher is better.
    """

    representativeness: float
    diversity: float
    coverage: float


@own_torch_state()
def measure(distilled: Source, real: Source, prior: Prior, *, seed: int = 0) -> Measures:
    """Return the representativeness, diversity and coverage of a set of images.

    Args:
        distilled: The set, for example ``open_source("distilled")``.
        real: Real images with the same class names, for example ``open_source("fashion-mini")``.
        prior: The prior that computes the features, at the block that it recommends.
        seed: Seed of the noise that is added to images for step t = 100.

    Raises:
        OptionError: ``real`` lacks a class of ``distilled``.
        ClassMapError: The prior does not know a class.

    Example:
        >>> import dap
        >>> from dap.priors import load_prior
        >>> real = dap.open_source("fashion-mini", split="test", classes=["Dress"])
        >>> measures = measure(real, real, load_prior("fashion-dit"))
        >>> 0 < measures.representativeness < measures.diversity
        True
    """
    real = real.subset(distilled.class_names)
    channels, size, _ = prior.image_shape
    prior = prior.for_classes(distilled.class_names)
    tap = Tap(default_block(prior))

    def features(source: Source, name: str, label: int) -> np.ndarray:
        indices = source.of_class(source.class_names.index(name))
        images = torch.from_numpy(source.images(indices, size=size, channels=channels))
        ids = [source.ids[i] for i in indices]
        return real_features(prior, images, ids, label=label, tap=tap, seed=seed).numpy()

    pairs = [
        (features(distilled, entry.name, entry.label), features(real, entry.name, entry.label))
        for entry in build_class_map(distilled, prior.labels_of(distilled.class_names))
    ]
    return Measures(
        float(np.mean([representativeness(rows, real_rows) for rows, real_rows in pairs])),
        float(np.mean([diversity(rows) for rows, _ in pairs])),
        float(np.mean([coverage(rows, real_rows, min(5, len(real_rows) - 1)) for rows, real_rows in pairs])),
    )
