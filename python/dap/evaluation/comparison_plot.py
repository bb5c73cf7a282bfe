"""The picture of a comparison: accuracies, and differences to the first method with their intervals."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

from dap.evaluation.comparison import ComparedRow, Comparison
from dap.pictures import check_picture
from dap.storage.files import write_atomic

__all__ = ["plot"]


def plot(comparison: Comparison, file: str | Path) -> None:
    """Draw a comparison into a file: accuracies ± standard error, and differences with 95 % intervals.

    A hollow point is a difference whose interval contains zero. A single training has no errors and no intervals.

    Args:
        comparison: The comparison.
        file: A name that ends in ".png", ".pdf" or ".svg".

    Raises:
        OptionError: The file has another ending, its folder is missing, or there is no matplotlib.
    """
    file = Path(file)
    check_picture(file)
    from matplotlib.figure import Figure

    rows = comparison.rows
    columns = 1 + any(row.minus_first for row in rows)
    figure = Figure(figsize=(5 * columns + 1, 1.6 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for place, row in enumerate(rows):
        color = f"C{[*dict.fromkeys(other.name for other in rows)].index(row.name) % 10}"
        error = row.accuracy.total
        axes[0].errorbar(
            row.accuracy.mean, place, xerr=error if math.isfinite(error) else None, marker="o", capsize=3, color=color
        )
        if (gap := row.minus_first) is not None:
            half = gap.high - gap.mean
            axes[-1].errorbar(
                gap.mean, place, xerr=half if math.isfinite(half) else None, marker="o", capsize=3, color=color,
                markerfacecolor="white" if gap.in_noise else color,
            )  # fmt: skip
    axes[0].set_yticks(range(len(rows)), _names(rows))
    axes[0].invert_yaxis()
    axes[0].set_xlabel("accuracy in %, ± standard error")
    if columns == 2:
        axes[1].axvline(0, color="grey", linewidth=0.8)
        axes[1].set_xlabel(f"minus {comparison.first}, points, 95 %")
    trainings = f"{comparison.repeats} trainings of each set"
    figure.suptitle(f"{comparison.protocol}: {comparison.test_images} test images, {trainings}", fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format=file.suffix.removeprefix("."), dpi=120)
    write_atomic(file, picture.getvalue())


def _names(rows: Sequence[ComparedRow]) -> list[str]:
    """Return a label for each row: its method, and its network if there are several."""
    several = len({row.network for row in rows}) > 1
    return [(f"{row.name}, {row.network}" if several else row.name).replace("$", r"\$") for row in rows]
