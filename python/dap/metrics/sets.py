"""The metrics of a whole set of images against real ones: features, values by class and of all, intervals, notes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dap.bar import progress_bar
from dap.config import check_choice
from dap.errors import OptionError
from dap.features.encoders import with_labels
from dap.kernels import nearest
from dap.metrics.estimates import FAMILIES, Estimate, Family
from dap.metrics.intervals import Interval, around, bootstrap
from dap.metrics.result import DIRECTIONS, Measured, MetricsResult

if TYPE_CHECKING:
    from dap.data.source import Source
    from dap.features import Encoder

__all__ = ["chosen_metrics", "measure_set"]

logger = logging.getLogger(__name__)

Rows = npt.NDArray[np.float32]

_ALL_PAIRS = ("precision", "recall", "density", "coverage")
_LONG = 1e14  # products: hours of two cores

_NO_INTERVAL = Interval(math.nan, math.nan)


def chosen_metrics(only: Collection[str] | None) -> tuple[str, ...]:
    """Return the names of the metrics to compute, in the order in which they are shown; all for None.

    Raises:
        OptionError: A name is unknown, or there is none.

    Example:
        >>> chosen_metrics(["kid", "fid"])
        ('fid', 'kid')
    """
    if only is None:
        return tuple(DIRECTIONS)
    if isinstance(only, str) or not only:
        raise OptionError(f"only: expected names of metrics, such as ['fid', 'kid'], got {only!r}")
    for name in only:
        check_choice("metric", name, DIRECTIONS)
    return tuple(name for name in DIRECTIONS if name in only)


class _Features(NamedTuple):
    """The features of all images, (n, d), and the place of each class in them."""

    rows: Rows
    places: list[slice]

    def of_class(self, number: int) -> Rows:
        return self.rows[self.places[number]]


def measure_set(
    distilled: Source, real: Source, encoder: Encoder, *, only: Collection[str] | None = None
) -> MetricsResult:
    """Return the metrics of a set; see :func:`dap.measure`.

    Args:
        distilled: The set.
        real: Real images with the same class names; their features are cached.
        encoder: It turns images into features; a prior has to know the classes.
        only: Names of the metrics; None: all.
    """
    names = chosen_metrics(only)
    classes = distilled.class_names
    real = real.subset(classes)
    encoder, labels = with_labels(encoder, distilled)
    with progress_bar("features", total=len(distilled) + len(real), unit="image") as bar:
        x = _features(distilled, classes, encoder, labels, bar.update)
        y = _features(real, classes, encoder, labels, bar.update, cached=True)
    if len(y.rows) ** 2 * y.rows.shape[1] > _LONG and (slow := [name for name in names if name in _ALL_PAIRS]):
        logger.warning("%s compare all pairs of %d real images, which takes hours", ", ".join(slow), len(y.rows))
    metrics: dict[str, Measured] = {}
    for family in FAMILIES:
        if any(name in names for name in family.names):
            metrics |= _family(family, x, y, classes)
    metrics = {name: metrics[name] for name in names}
    notes = tuple(_notes(metrics, x.rows, y.rows, len(classes)))
    return MetricsResult(len(distilled), len(real), classes, encoder.describe(), metrics, notes)


def _features(
    source: Source,
    classes: Sequence[str],
    encoder: Encoder,
    labels: Sequence[int],
    on_batch: Callable[[int], object],
    *,
    cached: bool = False,
) -> _Features:
    parts = [source.of_class(source.class_names.index(name)) for name in classes]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    places = [slice(end - len(part), end) for end, part in zip(ends, parts, strict=True)]
    found: Rows | None = None
    for part, label, place in zip(parts, labels, places, strict=True):
        rows = encoder.rows(source, part, label=label, cached=cached, on_batch=on_batch)
        found = np.empty((ends[-1], rows.shape[1]), np.float32) if found is None else found
        found[place] = rows
    assert found is not None
    return _Features(found, places)


def _family(family: Family, x: _Features, y: _Features, classes: Sequence[str]) -> dict[str, Measured]:
    """Return the metrics of a family, those of each class too."""
    numbers = range(len(classes))
    by_class = [_estimates(family, x.of_class(c), y.of_class(c), family.by_class) for c in numbers]
    metrics = {}
    whole = None if family.by_class or len(classes) == 1 else _estimates(family, x.rows, y.rows, True)
    for place, name in enumerate(family.names):
        parts = [estimates[place] for estimates in by_class]
        per_class = {own: part.value for own, part in zip(classes, parts, strict=True)}
        used = [part for part in parts if not math.isnan(part.value)] if whole is None else [whole[place]]
        value = float(np.mean([part.value for part in used])) if used else math.nan
        metrics[name] = Measured(value, *_interval(used, value), per_class)
    return metrics


def _estimates(family: Family, x: Rows, y: Rows, spread: bool) -> Sequence[Estimate]:
    if len(x) < family.least or len(y) < family.least_real:
        return [Estimate(math.nan)] * len(family.names)
    return family.compute(x, y, spread)


def _interval(parts: Sequence[Estimate], value: float) -> Interval:
    """Return the interval of the mean of independent estimates."""
    images = [part.images for part in parts if part.images is not None]
    if images and min(map(len, images)) > 1:
        return bootstrap(*images)
    variance = sum(part.variance for part in parts) / max(1, len(parts)) ** 2
    return _NO_INTERVAL if math.isnan(variance) or not parts else around(value, variance)


def _notes(metrics: Mapping[str, Measured], x: Rows, y: Rows, classes: int) -> Iterator[str]:
    """Yield what to know before the values are compared."""
    for rows, kind in ((x, "distilled"), (y, "real")):
        if len(rows) > 1 and (rows == rows[0]).all():
            yield f"all {len(rows)} {kind} images have the same features: they are blank, or copies of one image"
    if "fid" in metrics:
        yield (
            f"fid is too high for few images: with {len(x)} of them, compare it only with sets of as many images and "
            "the same features; kid and mmd2 have no such bias"
        )
    if "fid" in metrics or "kid" in metrics:
        yield "fid and kid are in the features named above; published values are in those of Inception-v3"
    if "vendi_score" in metrics:
        yield "vendi_score, recall and coverage rise with the number of images: compare sets of one size"
    if "authenticity" in metrics and (copies := int((nearest(x, y, 1)[0] == 0).sum())):
        yield f"{copies} of the {len(x)} distilled images have exactly the features of a real image"
    missing = [name for name, metric in metrics.items() if math.isnan(metric.value)]
    lacking = {name: sum(map(math.isnan, metrics[name].per_class.values())) for name in metrics if name not in missing}
    for count in sorted({count for count in lacking.values() if count}):
        named = ", ".join(name for name in lacking if lacking[name] == count)
        yield f"too few images in {count} of {classes} classes for their values of {named}"
    if missing:
        yield f"too few images for {', '.join(missing)}"
