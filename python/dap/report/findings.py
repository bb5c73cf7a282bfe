"""What a report finds in a set: for each image the nearest real one, and alerts about images and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dap.data.source import Source
from dap.features import Encoder
from dap.metrics.distance import coverage, diversity
from dap.metrics.memorisation import nearest_real
from dap.metrics.rows import squared_distances
from dap.report.origin import are_real

__all__ = ["ClassFindings", "findings_of", "without_alerts"]

FLAT = 3.0  # standard deviation in grey levels below which an image is blank
NEAR = 0.25  # of the usual distance between neighbouring real images: nearer is a copy
UNRECOGNISED = 0.5  # share of a class's images that the judge recognises, below which is an alert
NEIGHBOURS = 5  # of coverage
MOST_PAIRS = 20  # alerts about two images of a class
MOST_REAL = 1000  # real images of a class that are compared, drawn evenly


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
    """

    name: str
    images: int
    pairs: list[tuple[int, int]]
    alerts: list[str]
    coverage: float | None
    diversity: float | None


def findings_of(
    source: Source,
    manifest: Mapping[str, Any],
    real: Source,
    encoder: Encoder,
    *,
    most: int,
    recognised: Mapping[str, float] | None = None,
) -> list[ClassFindings]:
    """Return the findings of each class that has images.

    Args:
        source: The images.
        manifest: That of their run; empty for others.
        real: Real images with the same class names.
        encoder: Its features are compared.
        most: Images that are shown and compared in all, the same share of each class.
        recognised: Share of each class's images that a judge recognises; None without a judge.
    """
    labels = np.unique(source.labels).tolist()
    shown = max(1, most // len(labels))
    counts = [len(source.of_class(label)) for label in labels]
    chosen_by_hand = isinstance(manifest.get("ipc"), dict)
    found = [
        _class(source, real, encoder, label, shown, 0 if chosen_by_hand else max(counts), copies=are_real(manifest))
        for label in labels
    ]
    for entry in found:
        share = (recognised or {}).get(entry.name, 1.0)
        if share < UNRECOGNISED:
            entry.alerts.insert(0, f"the judge recognises {100 * share:.0f} % of its images")
    return found


def _class(
    source: Source, real: Source, encoder: Encoder, label: int, shown: int, usual: int, *, copies: bool
) -> ClassFindings:
    name = source.class_names[label]
    indices = source.of_class(label)[:shown]
    real_indices = real.of_class(real.class_names.index(name))
    real_indices = real_indices[np.linspace(0, len(real_indices) - 1, min(MOST_REAL, len(real_indices)), dtype=int)]
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
        diversity(rows) if len(rows) > 1 else None,
    )  # fmt: skip


def _pairs(rows: np.ndarray, usual_distance: float) -> list[tuple[int, int]]:
    """Numbers of images that are nearer to each other than neighbouring real images are."""
    pairs = []
    for first in range(len(rows) - 1):
        others = np.arange(first + 1, len(rows))
        distances = np.sqrt(squared_distances(np.repeat(rows[first : first + 1], len(others), 0), rows, others))
        pairs += [(first, int(other)) for other in others[distances < NEAR * usual_distance]]
    return pairs


def without_alerts(findings: Sequence[ClassFindings]) -> bool:
    """Whether nothing was found that needs a look."""
    return not any(entry.alerts for entry in findings)
