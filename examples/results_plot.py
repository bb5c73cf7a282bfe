"""Draws the accuracy of each method against its time, from the table of docs/results.md.

    python examples/results_plot.py --plot docs/results.png

Rows without a time are left out, but for real images. The methods of the frontier are printed too.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
REAL = ("k_medoids", "random")  # real images, which take no time: lines in place of points
LINE = re.compile(
    r"^\| `(?P<method>[\w:]+)`(?P<remark>[^|]*)\| (?P<mean>[\d.]+) ± (?P<error>[\d.]+) \| \d+ \| (?P<time>[\d.]*) ?\|",
    re.M,
)


class Point(NamedTuple):
    """A method: its accuracy in per cent with the standard error, and its time per image divided by that of `dit`."""

    method: str
    accuracy: float
    error: float
    time: float


def read_table(text: str) -> tuple[list[Point], dict[str, float]]:
    """Return the methods with a time, and the accuracies of the real images, from the text of the page.

    A method that stands in several rows, with other options, is taken from the first.
    """
    points, real = dict[str, Point](), dict[str, float]()
    for row in LINE.finditer(text):
        if row["method"] in REAL:
            real.setdefault(row["method"], float(row["mean"]))
        elif row["time"]:
            point = Point(row["method"], float(row["mean"]), float(row["error"]), float(row["time"]))
            points.setdefault(point.method, point)
    return list(points.values()), real


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the methods that no other one beats in as little time, by time."""
    best = list[Point]()
    for point in sorted(points, key=lambda point: (point.time, -point.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


def plot(points: Sequence[Point], real: dict[str, float], file: Path) -> None:
    """Draw the points with their errors and the frontier; names where there is room, those of the frontier first."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    best = frontier(points)
    figure, axis = pyplot.subplots(figsize=(10, 6))
    for name, accuracy in real.items():
        axis.axhline(accuracy, color="grey", linewidth=0.8, linestyle="--")
        axis.text(24, accuracy - 0.1, f"{name}, real images", fontsize=8, color="grey", ha="right", va="top")
    axis.step(*zip(*[(point.time, point.accuracy) for point in best], strict=True), where="post", color="C0", alpha=0.5)
    axis.set(xscale="log", xlim=(0.6, 25), xlabel="time to make an image, relative to dit", ylabel="accuracy, %")
    axis.set_xticks([1, 2, 5, 10], ["1", "2", "5", "10"])
    axis.minorticks_off()
    taken = list[tuple[float, float]]()
    for point in sorted(points, key=lambda point: (point not in best, point.method != "dit", -point.accuracy)):
        colour = "C0" if point in best else "C1"
        axis.errorbar(point.time, point.accuracy, point.error, marker="o", markersize=4, capsize=2, color=colour)
        if all(abs(point.accuracy - y) > 0.4 or not 0.77 < point.time / x < 1.3 for x, y in taken):
            axis.annotate(point.method, (point.time, point.accuracy), (6, 3), textcoords="offset points", fontsize=8)
            taken.append((point.time, point.accuracy))
    axis.set_title("Ten images a class of Fashion-MNIST, ConvNet-3: accuracy and its standard error, against time")
    figure.tight_layout()
    figure.savefig(file, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=Path, required=True, help="file of the picture")
    args = parser.parse_args()
    points, real = read_table(PAGE.read_text(encoding="utf-8"))
    plot(points, real, args.plot)
    for point in frontier(points):
        print(f"{point.method}: {point.accuracy} % in {point.time} times the time of dit")


if __name__ == "__main__":
    main()
