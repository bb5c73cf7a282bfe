"""Plots what ``compare_methods.py`` found in tuning: accuracy against scale and against the window, for each method.

python examples/compare_plots.py --out runs/tuning --plot docs/guidance.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from compare_methods import read
from compare_rows import TUNING

matplotlib.use("Agg")
from matplotlib import pyplot

WINDOWS = "each at its own scale"
SHARE = "share of the steps that is guided"

Curve = dict[float, list[float]]


def curves(entries: list[dict[str, Any]]) -> dict[str, dict[str, Curve]]:
    """Differences to dit of the same seed by panel, by line in it, by scale or by stop."""
    last = {(each["method"], each["seed"]): each["last"] for each in entries if each["ipc"] == 10}
    found: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for group, rows in TUNING.items():
        for name, options in rows.items():
            method = options["method"]
            if group == "windows":
                panel, line, at = WINDOWS, method, options["method_options"]["stop"]
            elif hasattr(method, "scale") and "scale=" in name:
                panel, line, at = name.split(" scale=")[0], f"{method.stop:g}", method.scale
            else:
                continue
            for (other, seed), value in last.items():
                if other == name and ("dit", seed) in last:
                    found[panel][line][at].append(value - last["dit", seed])
    return found


def standard_error(values: list[float]) -> float:
    """Of the mean; 0 for a single value, which has none."""
    return float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of compare_methods.py")
    parser.add_argument("--plot", type=Path, required=True)
    args = parser.parse_args()
    found = curves(read(args.out))
    panels = {name: lines for name, lines in found.items() if any(len(curve) > 1 for curve in lines.values())}
    columns = 3
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 3 * rows), squeeze=False)
    for axis, (name, lines) in zip(axes.flat, panels.items(), strict=False):
        for line, curve in sorted(lines.items()):
            scales = sorted(curve)
            means = np.array([np.mean(curve[scale]) for scale in scales])
            errors = [standard_error(curve[scale]) for scale in scales]
            axis.errorbar(scales, means, errors, marker="o", capsize=3, label=line)
        axis.axhline(0, color="grey", linewidth=0.8)
        axis.set(title=name, xlabel=SHARE if name == WINDOWS else "scale of the guidance")
        if name != WINDOWS:
            axis.set(xscale="log")
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
        axis.legend(fontsize=7, title=None if name == WINDOWS else SHARE, title_fontsize=7)
    for axis in list(axes.flat)[len(panels) :]:
        axis.axis("off")
    for row in axes:
        row[0].set_ylabel("accuracy minus dit, points")
    figure.tight_layout()
    figure.savefig(args.plot, dpi=90)


if __name__ == "__main__":
    main()
