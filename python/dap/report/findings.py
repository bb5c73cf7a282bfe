"""What a report finds in a set: for each image the nearest real one, and alerts about images and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dap.data.source import Source
from dap.evaluation import Judged
from dap.features import Encoder
from dap.metrics.distance import coverage, diversity
from dap.metrics.memorisation import nearest_real
from dap.metrics.rows import squared_distances
from dap.report.origin import are_real

__all__ = ["ClassFindings", "findings_of"]

FLAT = 3.0  # standard deviation in grey levels below which an image is blank
NEAR = 0.25  # of the usual distance between neighbouring real images: nearer is a copy
UNRECOGNISED = 0.5  # share of a class's images that the judge recognises, below which is an alert
NEIGHBOURS = 5  # of coverage
MOST_PAIRS = 20  # alerts about two images of a class
MOST_REAL = 1000  # real images of a class that are compared, drawn evenly
MOST_REAL_IN_ALL = 100_000  # of all classes
ON_MAP = 1000  # real images of all classes whose features are kept


@dataclass(frozen=True)
class ClassFindings:
    """One class of a set.

    Attributes:
        name: The class.
        images: The number of its images.
        pairs: Of each image that is shown, its index in the set and that of the nearest real image in its source.
        alerts: Sentences about its images.
        coverage: Share of real images with an image of the set in their neighbourhood; None with too few real ones.
        diversity: Mean distance between its images; None for a single one.
        compared: The number of real images with which its images were compared.
        features: Those of the images that are shown, float32 (n, d).
        real_features: Those of some of the real images, float32 (N, d).
    """

    name: str
    images: int
    pairs: list[tuple[int, int]]
    alerts: list[str]
    coverage: float | None
    diversity: float | None
    compared: int
    features: npt.NDArray[np.float32]
    real_features: npt.NDArray[np.float32]


def findings_of(
    source: Source,
    manifest: Mapping[str, Any],
    real: Source,
    encoder: Encoder,
    *,
    most: int,
    judged: Judged | None = None,
) -> list[ClassFindings]:
    """Return the findings of each class that has images.

    Args:
        source: The images.
        manifest: That of their run; empty for others.
        real: Real images with the same class names.
        encoder: Its features are compared.
        most: Images that are shown and compared in all, the same share of each class.
        judged: What a judge sees in each image of the set; None without a judge.
    """
    labels = np.unique(source.labels).tolist()
    shown = max(1, most // len(labels))
    counts = [len(source.of_class(label)) for label in labels]
    chosen_by_hand = isinstance(manifest.get("ipc"), dict)
    limits = _Limits(shown, min(MOST_REAL, max(1, MOST_REAL_IN_ALL // len(labels))), max(1, ON_MAP // len(labels)))
    found = []
    for label in labels:
        usual = 0 if chosen_by_hand else max(counts)
        entry = _class(source, real, encoder, label, limits, usual, copies=are_real(manifest))
        if judged is not None:
            share = float((judged.seen_as[source.of_class(label)] == label).mean())
            if share < UNRECOGNISED:
                entry.alerts.insert(0, f"the judge recognises {100 * share:.0f} % of its images")
        found.append(entry)
    return found


class _Limits(NamedTuple):
    """How many images of a class are shown, with how many real ones they are compared, and how many are on the map."""

    shown: int
    compared: int
    on_map: int


def _class(
    source: Source, real: Source, encoder: Encoder, label: int, limits: _Limits, usual: int, *, copies: bool
) -> ClassFindings:
    name = source.class_names[label]
    indices = source.of_class(label)[: limits.shown]
    real_indices = _evenly(real.of_class(real.class_names.index(name)), limits.compared)
    rows = encoder.rows(source, indices, label=label, cached=False)
    real_rows = encoder.rows(real, real_indices, label=label, cached=False)
    found = nearest_real(rows, real_rows)
    usual_distance = float(np.nanmedian(found.between_real)) if len(real_rows) > 1 else 0.0
    alerts = []
    total = len(source.of_class(label))
    if total < usual:
        alerts.append(f"{total} images, where other classes have up to {usual}")
    for number, index in enumerate(indices.tolist()):
        if source.pixels(index).std() < FLAT:
            alerts.append(f"image {number} is blank: all pixels have nearly the same value")
    if not copies:
        near = np.flatnonzero(found.distances < NEAR * usual_distance)
        alerts += [f"image {number} is nearly a copy of real image {real.ids[real_indices[found.indices[number]]]}"
                   for number in near.tolist()]  # fmt: skip
    alike = _pairs(rows, usual_distance)
    alerts += [f"images {first} and {second} are nearly the same" for first, second in alike[:MOST_PAIRS]]
    if len(alike) > MOST_PAIRS:
        alerts.append(f"{len(alike) - MOST_PAIRS} more pairs of images are nearly the same")
    return ClassFindings(
        name, total, list(zip(indices.tolist(), real_indices[found.indices].tolist(), strict=True)), alerts,
        coverage(rows, real_rows, NEIGHBOURS) if len(real_rows) > NEIGHBOURS else None,
        diversity(rows) if len(rows) > 1 else None, len(real_rows), rows, _evenly(real_rows, limits.on_map),
    )  # fmt: skip


def _evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many rows, at equal distances."""
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows)), dtype=int)]


def _pairs(rows: np.ndarray, usual_distance: float) -> list[tuple[int, int]]:
    """Numbers of images that are nearer to each other than neighbouring real images are."""
    pairs = []
    for first in range(len(rows) - 1):
        others = np.arange(first + 1, len(rows))
        distances = np.sqrt(squared_distances(np.repeat(rows[first : first + 1], len(others), 0), rows, others))
        pairs += [(first, int(other)) for other in others[distances < NEAR * usual_distance]]
    return pairs
