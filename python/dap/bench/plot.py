"""The plot of ``dap bench kernels``: how many times dap's time each contender takes."""

from __future__ import annotations

import io
from typing import Any

from dap.bench.cases import Case
from dap.bench.kernels import Row
from dap.errors import OptionError

__all__ = ["check_format", "draw"]

_FORMATS = ("png", "svg", "pdf")
_MARKERS = "osD^vP*X<>phd"  # not as many as colours, or both would repeat together


def check_format(suffix: str) -> None:
    """Returns if a plot can be drawn in this format, to be called before the long work.

    Args:
        suffix: "png", "svg" or "pdf".

    Raises:
        OptionError: If matplotlib is not installed, with the command that installs it, or the format is another.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionError("--plot needs matplotlib: pip install 'dap-distill[bench]'") from error
    if suffix not in _FORMATS:
        raise OptionError(f"--plot: expected a file name that ends in .png, .svg or .pdf, got the suffix {suffix!r}")


def draw(rows: list[Row], suffix: str = "png") -> bytes:
    """Draws one line for each case and one point for each contender, on a logarithmic scale; right of 1 dap is faster.

    What is shown beside, and is no rival, is hollow.

    Args:
        rows: Those of :func:`dap.bench.kernels.measure`, of many cases.
        suffix: The format: "png", "svg" or "pdf".

    Returns:
        The bytes of the file.

    Raises:
        OptionError: As :func:`check_format`, and if dap has no time in any case.
    """
    check_format(suffix)
    from matplotlib.figure import Figure

    ours = [row for row in rows if row["role"] == "dap" and row["median_s"] and row["peak_beyond_inputs_mb"] is None]
    if not ours:
        raise OptionError("there is nothing to plot: dap has no time in any case")
    figure = Figure(figsize=(9, 1.8 + 0.42 * len(ours)), layout="constrained")
    axes = figure.subplots()
    points: dict[str, list[tuple[float, int]]] = {}
    for line, base in enumerate(ours):
        for row in rows:
            if row["median_s"] and row["peak_beyond_inputs_mb"] is None and Case.of_row(row) == Case.of_row(base):
                points.setdefault(_library(row), []).append((row["median_s"] / base["median_s"], line))
        if base["ratio_to_best_rival"]:
            axes.annotate(
                f"{base['ratio_to_best_rival']:.2f}", (base["ratio_to_best_rival"], line), xytext=(0, 7),
                textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
    beside = {row["contender"] for row in rows if row["role"] == "beside"}
    for number, (library, places) in enumerate(points.items()):
        style: dict[str, Any] = {"marker": _MARKERS[number % len(_MARKERS)], "s": 26, "edgecolors": f"C{number % 10}"}
        style |= {"facecolors": "none" if library in beside else f"C{number % 10}"}
        if library == "dap":
            style = {"marker": "|", "s": 160, "color": "black"}
        axes.scatter([x for x, _ in places], [y for _, y in places], label=library, alpha=0.85, **style)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(ours)), [_label(row) for row in ours], fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.06)
    axes.set_xlabel("time over dap's time (medians); the number is that of the best rival")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=5, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=150)
    return buffer.getvalue()


def _label(row: Row) -> str:
    dtype = "" if row["dtype"] == "float32" else f" {row['dtype']}"
    threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)}"
    return f"{row['kernel']} {row['reduction']}{dtype}\n{row['n']:,} × {row['m']:,} × {row['d']}, {threads}"


def _library(row: Row) -> str:
    """The legend's entry: chunk sizes are one library, what stands beside is its own."""
    name: str = row["contender"]
    return name if row["role"] == "beside" else name.split(",")[0]
