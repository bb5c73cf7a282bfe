"""A map of a set's features among those of real images, in two dimensions.

Its axes are the two directions in which the real images differ most: their first two principal components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from dap.report.findings import ClassFindings

__all__ = ["ClassDots", "FeatureMap", "feature_map"]

MOST_CLASSES = 10  # that have a colour and a name of their own
WIDTH, HEIGHT, MARGIN, EDGE = 640, 400, 12, 5
NAME = (110, 18)  # room of a name

Rows = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassDots:
    """The dots of one class, or of all where there are many classes; coordinates as paths of SVG.

    Attributes:
        name: The class; "" for all classes together.
        colour: Number of its colour.
        real: Of real images.
        made: Of the set's images.
        label: Place of its name, beside the middle of the set's images and apart from other names.
    """

    name: str
    colour: int
    real: str
    made: str
    label: tuple[int, int]


@dataclass(frozen=True)
class FeatureMap:
    """A map.

    Attributes:
        classes: The dots.
        share: Which share of the variance of the real images the two axes hold, in [0, 1].
        real: The number of real images.
        made: The number of the set's images.
    """

    classes: list[ClassDots]
    share: float
    real: int
    made: int
    width: int = WIDTH
    height: int = HEIGHT


def feature_map(findings: Sequence[ClassFindings]) -> FeatureMap | None:
    """Return the map of a set; None if its real images do not differ in two directions.

    Args:
        findings: Those of all classes, with their features.
    """
    real = [np.asarray(entry.real_features, np.float64) for entry in findings]
    made = [np.asarray(entry.features, np.float64) for entry in findings]
    middle = np.concatenate(real).mean(0)
    axes, variance = _axes(np.concatenate(real) - middle)
    if axes is None:
        return None
    places = [[(rows - middle) @ axes for rows in side] for side in (real, made)]
    originals = np.concatenate(places[0])  # alone, so that maps of several sets have one scale
    to_page = partial(_on_page, low=originals.min(0), high=originals.max(0))
    if len(findings) > MOST_CLASSES:
        groups = [("", np.concatenate(places[0]), np.concatenate(places[1]))]
    else:
        groups = [(entry.name, *pair) for entry, *pair in zip(findings, *places, strict=True)]
    labels = _apart([to_page(images).mean(0) for _, _, images in groups])
    dots = [
        ClassDots(name, number, _path(to_page(originals)), _path(to_page(images)), labels[number])
        for number, (name, originals, images) in enumerate(groups)
    ]
    return FeatureMap(dots, variance, sum(map(len, real)), sum(map(len, made)))


def _axes(rows: Rows) -> tuple[Rows | None, float]:
    """Return two principal directions of centred rows, (d, 2), and their share of the variance."""
    values, vectors = np.linalg.eigh(rows @ rows.T)
    if len(values) < 3 or values[-2] <= 1e-9 * values[-1]:
        return None, 0.0
    axes = rows.T @ vectors[:, [-1, -2]] / np.sqrt(values[[-1, -2]])
    signs = np.sign(axes[np.abs(axes).argmax(0), [0, 1]])  # an eigenvector has no sign of its own
    return axes * signs, float(values[-2:].sum() / values.clip(0).sum())


def _on_page(places: Rows, low: Rows, high: Rows) -> npt.NDArray[np.int64]:
    """Return places on the page, of one scale in both directions.

    The rectangle between ``low`` and ``high`` fills the page; what is farther out lies on the page's edge.
    """
    page = np.array([WIDTH, HEIGHT], np.float64)
    scale = ((page - 2 * MARGIN) / np.maximum(high - low, 1e-12)).min()
    placed = (places - low) * scale + (page - (high - low) * scale) / 2
    upright = np.stack([placed[:, 0], HEIGHT - placed[:, 1]], 1)
    return upright.clip(EDGE, page - EDGE).round().astype(np.int64)


def _path(places: npt.NDArray[np.int64]) -> str:
    """Return dots, which a stroke with round ends draws; the same dot once."""
    return "".join(f"M{x} {y}h0" for x, y in dict.fromkeys(map(tuple, places.tolist())))


def _apart(places: Sequence[Rows]) -> list[tuple[int, int]]:
    """Return places for names near the given ones, so that no name lies on another."""
    labels: dict[int, tuple[int, int]] = {}
    for number in sorted(range(len(places)), key=lambda index: float(places[index][1])):
        x, y = places[number].round().astype(int).tolist()
        for other_x, other_y in sorted(labels.values(), key=lambda label: label[1]):
            if abs(x - other_x) < NAME[0] and abs(y - other_y) < NAME[1]:
                y = other_y + NAME[1]
        labels[number] = (x, y)
    return [labels[number] for number in range(len(places))]
