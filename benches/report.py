"""The tables and the plot of the docs, from the JSON of pytest-benchmark.

    pytest benches --benchmark-only --benchmark-json=bench.json
    python benches/report.py bench.json                       # one table for each file of benches
    python benches/report.py bench.json --file kernels --plot docs/kernels.png
    python benches/report.py one.json two.json                # the groups of several runs, with one thread and with two

The ratio is the best rival's time over dap's: above 1, dap is faster. The share is the limit's time over dap's: what
this machine needs for the bare product or copy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
"""One contender as pytest-benchmark writes it."""

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
MARKERS = "osD^vP*X<>phd"  # not as many as colours, or both would repeat together


def read(paths: Sequence[Path], file: str = "") -> list[Row]:
    """Return the rows of all files, those of ``benches/test_bench_<file>.py`` alone where a file is named."""
    rows = [row for path in paths for row in json.loads(path.read_text())["benchmarks"]]
    return [row for row in rows if f"test_bench_{file}" in row["fullname"]]


def describe(row: Row) -> str:
    """Return one line about the machine and the build."""
    facts = row["extra_info"]
    cpu = f"{facts['cpu']} (family {facts['family']}, model {facts['model']}, AVX-512 {facts['avx512']})"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items() if version)
    build = f"dap {facts['build']['version']} ({facts['build']['profile']}, {facts['build']['simd']})"
    return f"{cpu}, {facts['threads']} threads, load {facts['load']} at the start; {build}; {versions}"


def summary(rows: Sequence[Row]) -> str:
    """Return one line for each group: dap, the best rival, the ratio, and the share of the limit."""
    lines = ["| group | dap | best rival | its time | ratio | share of the limit |", "|---|---|---|---|---|---|"]
    for name, group in _groups(rows).items():
        dap, rival = _first(group, "dap"), _first(group, "rival")
        if dap is None:
            continue
        cells = [rival["extra_info"]["contender"], times(rival), f"**{ratio(dap, rival):.2f}**"] if rival else [""] * 3
        share = dap["extra_info"]["share_of_limit"]
        lines.append(" | ".join([f"| {name}", times(dap), *cells, f"{share:.0%} |" if share else " |"]))
    return "\n".join(lines)


def ratio(dap: Row, other: Row) -> float:
    """Return the other's median over dap's."""
    return other["stats"]["median"] / dap["stats"]["median"]


def times(row: Row) -> str:
    """Return the median with quartiles, in one unit: "12.3 ms (12.0–13.1)"."""
    stats = row["stats"]
    size, unit = next((pair for pair in UNITS if stats["median"] >= pair[0]), UNITS[-1])
    median, first, third = (stats[key] / size for key in ("median", "q1", "q3"))
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f} {unit} ({first:.{digits}f}–{third:.{digits}f})"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw each contender's time over dap's on a logarithmic scale; what is no rival is hollow."""
    from matplotlib.figure import Figure

    groups = [(name, group) for name, group in _groups(rows).items() if _first(group, "dap")]
    figure = Figure(figsize=(10, 1.8 + 0.36 * len(groups)), layout="constrained")
    axes = figure.subplots()
    points: dict[tuple[str, bool], list[tuple[float, int]]] = {}
    for line, (_, group) in enumerate(groups):
        dap = _first(group, "dap")
        for row in group:
            facts = row["extra_info"]
            hollow = facts["role"] in ("beside", "limit")
            library = facts["contender"] if hollow else facts["contender"].split(",")[0]
            points.setdefault((library, hollow), []).append((ratio(dap, row), line))
    for number, ((library, hollow), places) in enumerate(points.items()):
        color = f"C{number % 10}"
        style: dict[str, Any] = {"marker": MARKERS[number % len(MARKERS)], "s": 26, "edgecolors": color}
        style["facecolors"] = "none" if hollow else color
        if library.startswith("dap") and not hollow:
            style = {"marker": "|", "s": 160, "color": "black"}
        axes.scatter([x for x, _ in places], [y for _, y in places], label=library, alpha=0.85, **style)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(groups)), [name for name, _ in groups], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("time over dap's time (medians); right of 1 dap is faster")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=150)


def _groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each group, the fastest first; groups in the order in which they ran."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    return {name: sorted(group, key=lambda row: row["stats"]["median"]) for name, group in groups.items()}


def _first(group: Sequence[Row], role: str) -> Row | None:
    return next((row for row in group if row["extra_info"]["role"] == role), None)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables and the plot of the docs, from pytest-benchmark's JSON.")
    parser.add_argument("json", nargs="+", type=Path)
    parser.add_argument("--file", default="", help="the rows of benches/test_bench_FILE.py alone")
    parser.add_argument("--plot", type=Path, help="also draw the times over dap's")
    arguments = parser.parse_args()
    rows = read(arguments.json, arguments.file)
    if not rows:
        parser.error(f"no rows of test_bench_{arguments.file} in {', '.join(map(str, arguments.json))}")
    print(describe(rows[0]))
    for file in dict.fromkeys(row["fullname"].split("::")[0] for row in rows):
        of_file = [row for row in rows if row["fullname"].startswith(file)]
        print(f"\n## {file}\n\n{summary(of_file)}")
    if arguments.plot:
        draw(rows, arguments.plot)


if __name__ == "__main__":
    main()
