"""A case of ``dap bench selection`` or ``packing``: a field of contenders, measured and put into a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from dap import _core
from dap.bench.race import Contender, race
from dap.bench.threads import equal_threads
from dap.errors import OptionError

__all__ = ["Case", "Field", "field_table", "measure_field"]

Field: TypeAlias = tuple[list[Contender], Callable[[Any, float], None]]
"""Contenders, and the check of what they give."""


class Case(Protocol):
    """One task at one size; its text is one line for people."""

    @property
    def threads(self) -> int:
        """Threads of every contender."""

    @property
    def bytes_read(self) -> int | None:
        """Of a task that does nothing but read them."""

    def field(self) -> Field:
        """Prepares what the contenders start from."""


def measure_field(case: Case, rounds: int) -> list[dict[str, Any]]:
    """All contenders in one case, the fastest first, then those that failed, with the ``reason``.

    ``ratio_to_best_rival`` is the median of the best rival over that of the row: above 1, the row is faster.

    Raises:
        OptionError: If dap is a debug build, or a rival's library is not installed.
    """
    if _core.build_info()["profile"] != "release":
        raise OptionError("dap is built for debugging, which measures nothing: build it with --release")
    try:
        contenders, check = case.field()
    except ImportError as error:
        raise OptionError(f"{error}: pip install 'dap-distill[bench]'") from error
    with equal_threads(case.threads):
        timings, failures = race(contenders, rounds, check)
    roles = {contender.name: contender.role for contender in contenders}
    medians = {name: timing.quartiles[1] for name, timing in timings.items()}
    best = min((medians[name] for name in medians if roles[name] == "rival"), default=None)
    rows: list[dict[str, Any]] = []
    for name in sorted(medians, key=lambda name: medians[name]):
        first, median, third = timings[name].quartiles
        rows.append(
            {"case": str(case), "contender": name, "role": roles[name], "threads": case.threads,
             "rounds": len(timings[name].seconds), "median_s": median, "q1_s": first, "q3_s": third,
             "ratio_to_best_rival": best / median if best else None, "reason": None,
             "gigabytes_per_second": case.bytes_read and 1e-9 * case.bytes_read / median}
        )  # fmt: skip
    absent = {"median_s": None, "q1_s": None, "q3_s": None, "ratio_to_best_rival": None, "rounds": 0}
    return rows + [
        {"case": str(case), "contender": name, "role": roles[name], "threads": case.threads, "reason": reason} | absent
        for name, reason in failures.items()
    ]


def field_table(rows: list[dict[str, Any]]) -> str:
    """The rows of one or more cases as a Markdown table; above 1 a row is faster than the best rival.

    Example:
        >>> print(field_table([]))
        | case | contender | median (quartiles) | × best rival |
        |---|---|---|---|
    """
    lines = ["| case | contender | median (quartiles) | × best rival |", "|---|---|---|---|"]
    for row in rows:
        if row["median_s"] is None:
            lines.append(f"| {row['case']} | {row['contender']} | {row['reason']} | |")
            continue
        median, first, third = (1e3 * row[key] for key in ("median_s", "q1_s", "q3_s"))
        ratio = row["ratio_to_best_rival"]
        ratio = "" if ratio is None else f"**{ratio:.2f}**" if row["role"] == "dap" else f"{ratio:.2f}"
        times = f"{median:.1f} ms ({first:.1f}–{third:.1f})"
        if speed := row["gigabytes_per_second"]:
            times += f", {speed:.1f} GB/s"
        lines.append(f"| {row['case']} | {row['contender']} | {times} | {ratio} |")
    return "\n".join(lines)
