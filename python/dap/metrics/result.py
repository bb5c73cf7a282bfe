"""The metrics of a set: values, intervals, values by class, and notes; as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from dap.metrics.overlap import Overlap
from dap.result_text import columns, json_text, without_nan

__all__ = ["DIRECTIONS", "Measured", "MetricsResult"]

DIRECTIONS: Mapping[str, str] = {
    "representativeness": "lower", "diversity": "higher", "mmd2": "lower", "energy_distance": "lower", "fid": "lower",
    "kid": "lower", "precision": "higher", "recall": "higher", "density": "higher", "coverage": "higher",
    "vendi_score": "higher", "nearest_real": "", "authenticity": "higher", "minimax_representativeness": "higher",
    "minimax_diversity": "lower", "mgd3_representativeness": "lower", "mgd3_diversity": "higher",
    "manifold_gd_representativeness": "higher", "manifold_gd_diversity": "higher",
}  # fmt: skip
"""All metrics in the order in which they are shown, and whether lower or higher values are better (or more diverse)."""


@dataclass(frozen=True)
class Measured:
    """A metric of a set.

    Attributes:
        value: The metric; NaN if there are too few images.
        low: Lower end of the 95 % interval, over other distilled images of the same kind; NaN for none.
        high: Its upper end.
        per_class: The value of each class alone, NaN if it has too few images. The value of a set is the mean over its
            classes, or that of all images together.
    """

    value: float
    low: float
    high: float
    per_class: Mapping[str, float]


@dataclass(frozen=True)
class MetricsResult:
    """The metrics of a set; ``result["fid"].value`` is one of them.

    Attributes:
        images: Number of distilled images.
        real_images: Number of real images of their classes.
        class_names: The classes.
        features: What the features depend on (:meth:`dap.features.Encoder.describe`).
        metrics: The metrics by name.
        notes: What to know before values are compared.
        overlaps: Images that are in two of the sets; none if they were not searched.
        recognised: Share of the distilled images, in [0, 1], that the judge assigns to their class; None: no judge.
        recognised_per_class: The same share of each class.
    """

    images: int
    real_images: int
    class_names: tuple[str, ...]
    features: Mapping[str, object]
    metrics: Mapping[str, Measured]
    notes: tuple[str, ...]
    overlaps: tuple[Overlap, ...] = ()
    recognised: float | None = None
    recognised_per_class: Mapping[str, float] | None = None

    def __getitem__(self, name: str) -> Measured:
        """Return the metric of that name."""
        return self.metrics[name]

    def table(self, *, per_class: bool = False) -> str:
        """Return a plain text table: a row for each metric, and with ``per_class`` another table of each class."""
        lines = [["metric", "value", "95 % interval", "better"]]
        for name, metric in self.metrics.items():
            interval = "" if math.isnan(metric.low) else f"[{_number(metric.low)}, {_number(metric.high)}]"
            lines.append([name, _number(metric.value), interval, DIRECTIONS[name]])
        if self.recognised is not None:
            lines.append(["recognised by the judge", _number(self.recognised), "", "higher"])
        named = self.features.get("model", self.features["name"])
        text = [
            f"{self.images} images of {len(self.class_names)} classes against {self.real_images} real images, "
            f"features: {named}",
            *columns(lines),
        ]
        if per_class:
            measured = {name: metric.per_class for name, metric in self.metrics.items()}
            if self.recognised_per_class is not None:
                measured["recognised"] = self.recognised_per_class
            cells = [[_number(column[own]) for column in measured.values()] for own in self.class_names]
            rows = [[own, *row] for own, row in zip(self.class_names, cells, strict=True)]
            text += ["", *columns([["class", *measured], *rows])]
        text += [str(overlap) for overlap in self.overlaps]
        return "\n".join([*text, *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, object]:
        """Return the result in JSON's types; NaN becomes None."""
        values = asdict(self)
        values["overlaps"] = [overlap.to_dict() for overlap in self.overlaps]
        return {name: without_nan(value) for name, value in values.items()}

    def to_json(self) -> str:
        """Return :meth:`to_dict` as text."""
        return json_text(self.to_dict())


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"
