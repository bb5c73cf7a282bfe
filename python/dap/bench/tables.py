"""The tables that ``dap bench kernels`` prints, in Markdown."""

from __future__ import annotations

from dap.bench.cases import Case
from dap.bench.kernels import Row

__all__ = ["case_table", "memory_line", "ratio_table"]

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def case_table(rows: list[Row]) -> str:
    """One case: all its contenders, from the fastest; times are medians with quartiles, ratios are to dap's median."""
    ours = next((row["median_s"] for row in rows if row["role"] == "dap"), None)
    lines = [
        f"### {Case.of_row(rows[0])}",
        "",
        "| contender | rounds | median (quartiles) | × dap |",
        "|---|---|---|---|",
    ]
    for row in rows:
        beside = ", shown beside" if row["role"] == "beside" else ""
        if row["median_s"] is None:
            lines.append(f"| {row['contender']}{beside} | 0 | {_cell(row['reason'])} | |")
            continue
        ratio = f"{row['median_s'] / ours:.2f}" if ours else ""
        lines.append(f"| {row['contender']}{beside} | {row['rounds']} | {_times(row)} | {ratio} |")
    return "\n".join(lines)


def ratio_table(rows: list[Row]) -> str:
    """All cases: dap beside the best rival of each. Above 1 dap is faster."""
    lines = ["| case | dap | best rival | its time | ratio |", "|---|---|---|---|---|"]
    for ours in (row for row in rows if row["role"] == "dap" and row["peak_beyond_inputs_mb"] is None):
        case = Case.of_row(ours)
        if ours["median_s"] is None:
            lines.append(f"| {case} | {_cell(ours['reason'])} | | | |")
            continue
        rival = next((row for row in rows if Case.of_row(row) == case and row["contender"] == ours["best_rival"]), None)
        if rival is None:
            lines.append(f"| {case} | {_times(ours)} | none | | |")
            continue
        ratio = f"**{ours['ratio_to_best_rival']:.2f}**"
        lines.append(f"| {case} | {_times(ours)} | {rival['contender']} | {_times(rival)} | {ratio} |")
    return "\n".join(lines)


def memory_line(row: Row) -> str:
    """How far dap raised the peak of memory."""
    peak, seconds = f"{row['peak_beyond_inputs_mb']:.1f} MB", f"{row['median_s']:.2f} s"
    return f"{Case.of_row(row)}: peak memory {peak} beyond the inputs, in {seconds} (one call in a new process)"


def _times(row: Row) -> str:
    """The median with quartiles, in one unit.

    Example:
        >>> _times({"median_s": 0.0123, "q1_s": 0.012, "q3_s": 0.0131})
        '12.3 ms (12.0–13.1)'
    """
    size, unit = next((pair for pair in _UNITS if row["median_s"] >= pair[0]), _UNITS[-1])
    median, first, third = (row[key] / size for key in ("median_s", "q1_s", "q3_s"))
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f} {unit} ({first:.{digits}f}–{third:.{digits}f})"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
