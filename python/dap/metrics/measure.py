"""The metrics of a set, in features of an encoder, or of a prior: mean-pooled, at its recommended block and t = 100."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dap.features import Encoder
from dap.features.encoders import PriorEncoder, with_labels
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
def measure(distilled: Source, real: Source, features: Prior | Encoder, *, seed: int = 0) -> Measures:
    """Return the representativeness, diversity and coverage of a set of images.

    Args:
        distilled: The set, for example ``open_source("distilled")``.
        real: Real images with the same class names, for example ``open_source("fashion-mini")``.
        features: The prior that computes the features, at the block that it recommends; or an encoder, for classes that
            no prior knows (:class:`dap.features.Encoder`). Values of different features cannot be compared.
        seed: Seed of the noise that is added to images for step t = 100 of a prior.

    Raises:
        OptionError: ``real`` lacks a class of ``distilled``, or the prior does not know one.

    Example:
        >>> import dap
        >>> from dap.priors import load_prior
        >>> real = dap.open_source("fashion-mini", split="test", classes=["Dress"])
        >>> measures = measure(real, real, load_prior("fashion-dit"))
        >>> 0 < measures.representativeness < measures.diversity
        True
    """
    real = real.subset(distilled.class_names)
    given = features if isinstance(features, Encoder) else PriorEncoder(features, seed=seed)
    encoder, labels = with_labels(given, distilled)

    def rows(source: Source, name: str, label: int) -> npt.NDArray[np.float32]:
        indices = source.of_class(source.class_names.index(name))
        return encoder.rows(source, indices, label=label, cached=False)

    names = zip(distilled.class_names, labels, strict=True)
    pairs = [(rows(distilled, *name), rows(real, *name)) for name in names]
    return Measures(
        float(np.mean([representativeness(made, given) for made, given in pairs])),
        float(np.mean([diversity(made) for made, _ in pairs])),
        float(np.mean([coverage(made, given, min(5, len(given) - 1)) for made, given in pairs])),
    )
