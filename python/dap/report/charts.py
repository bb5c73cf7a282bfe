"""Charts of a report as coordinates for inline SVG: energies over the steps, and accuracies with their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dap.evaluation import Comparison

__all__ = ["AccuracyRow", "EnergyChart", "Line", "accuracy_rows", "energy_charts", "mean_energies"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 480, 220, 64, 28, 10
BAR = 200  # width of the picture of an accuracy


@dataclass(frozen=True)
class Line:
    """The energies of a run: its name, and the ``d`` of a path."""

    name: str
    path: str


@dataclass(frozen=True)
class EnergyChart:
    """The energies of one term in one or several runs.

    Attributes:
        term: Name of the term.
        lines: One for each run.
        ticks: Height and text of marks of the vertical axis.
        steps: The number of steps.
    """

    term: str
    lines: list[Line]
    ticks: list[tuple[float, str]]
    steps: int
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = HEIGHT - BOTTOM


@dataclass(frozen=True)
class AccuracyRow:
    """A row of an evaluation as text, with places for a picture of it.

    Attributes:
        cells: Name, network, number of images, accuracy with its standard error.
        minus_random: Difference to random real images with its 95 % interval; "" where it is not known.
        minus_first: Difference to the first set in the same way.
        middle: Place of the accuracy, from 0 to ``width``.
        low: Place of the accuracy minus its standard error.
        high: Place of the accuracy plus its standard error.
    """

    cells: tuple[str, str, str, str]
    minus_random: str
    minus_first: str
    middle: float
    low: float
    high: float
    width: int = BAR


def energy_charts(runs: Mapping[str, Mapping[str, Sequence[float | None]]]) -> list[EnergyChart]:
    """Return a chart for each term.

    Args:
        runs: For each run its terms, and for each term the mean energy of its slots in each step; None: it did not act.
    """
    terms = dict.fromkeys(term for energies in runs.values() for term in energies)
    return [_energy_chart(term, {name: own[term] for name, own in runs.items() if term in own}) for term in terms]


def mean_energies(manifest: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Return the mean energy of a run's latents in each step, by term; none where no energy was recorded."""
    return {term: _mean_of_units(list(units.values())) for term, units in manifest.get("energy", {}).items()}


def _mean_of_units(units: Sequence[Mapping[str, Any]]) -> list[float | None]:
    means: list[float | None] = []
    for step in range(max(len(unit["mean"]) for unit in units)):
        values = [(unit["slots"], unit["mean"][step]) for unit in units if step < len(unit["mean"])]
        known = [(slots, value) for slots, value in values if value is not None]
        total = sum(slots for slots, _ in known)
        means.append(sum(slots * value for slots, value in known) / total if total else None)
    return means


def _energy_chart(term: str, runs: Mapping[str, Sequence[float | None]]) -> EnergyChart:
    values = [value for energies in runs.values() for value in energies if value is not None]
    low, high = min(values), max(values)
    span = high - low or 1.0
    steps = max(map(len, runs.values()))

    def height(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / span * (HEIGHT - BOTTOM - TOP), 1)

    lines = []
    for name, energies in runs.items():
        places = [
            (LEFT + step / max(1, steps - 1) * (WIDTH - LEFT - 10), height(value))
            for step, value in enumerate(energies)
            if value is not None
        ]
        lines.append(Line(name, "M" + "L".join(f"{x:.1f} {y}" for x, y in places)))
    marks = [low, (low + high) / 2, high] if high > low else [low]
    return EnergyChart(term, lines, [(height(value), f"{value:.4g}") for value in marks], steps)


def accuracy_rows(comparison: Comparison) -> list[AccuracyRow]:
    """Return the rows of an evaluation, all on one scale."""
    ranges = [(row.accuracy.mean - row.accuracy.total, row.accuracy.mean + row.accuracy.total)
              for row in comparison.rows]  # fmt: skip
    least, most = min(low for low, _ in ranges), max(high for _, high in ranges)
    span = most - least or 1.0

    def place(value: float) -> float:
        return round(6 + (value - least) / span * (BAR - 12), 1)

    return [
        AccuracyRow(
            (row.name, row.network, str(row.images), f"{row.accuracy.mean:.1f} ± {row.accuracy.total:.1f}"),
            str(row.minus_random or ""), str(row.minus_first or ""), place(row.accuracy.mean), place(low),
            place(high),
        )
        for row, (low, high) in zip(comparison.rows, ranges, strict=True)
    ]  # fmt: skip
