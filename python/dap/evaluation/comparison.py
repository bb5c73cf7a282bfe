"""The table of a comparison as text, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import asdict, dataclass

from dap.config import check_choice
from dap.evaluation.error_parts import ErrorParts
from dap.evaluation.statistics import Difference
from dap.result_text import columns, json_text

__all__ = ["FORMATS", "ComparedRow", "Comparison"]

FORMATS = ("text", "markdown", "latex", "csv", "json")

_NOISE = "in the noise"


@dataclass(frozen=True)
class ComparedRow:
    """A method with one network. Accuracies are in per cent, differences in per cent points.

    Attributes:
        name: Name of the method.
        network: Name of the network.
        images: Number of images of each of its sets.
        accuracy: Mean accuracy after the last step, with the parts of its standard error.
        best: Mean of the best of ``checks`` test accuracies of each training.
        checks: How many test accuracies that were; None: the result does not say.
        minus_first: Difference to the first method; None for that itself, or where it lacks the network.
        minus_random: Difference to as many random real images; None where these were not evaluated.
    """

    name: str
    network: str
    images: int
    accuracy: ErrorParts
    best: float
    checks: int | None
    minus_first: Difference | None
    minus_random: Difference | None


@dataclass(frozen=True)
class Comparison:
    """A row for each method and network; see :func:`dap.evaluation.compare`.

    Attributes:
        protocol: Name of the protocol, with the constants that were changed.
        test_images: Number of test images.
        classes: Number of classes.
        seed: Root seed of the trainings.
        repeats: Trainings of each set.
        first: Name of the method with which the others are compared.
        rows: The rows.
    """

    protocol: str
    test_images: int
    classes: int
    seed: int
    repeats: int
    first: str
    rows: tuple[ComparedRow, ...]

    def table(self, form: str = "text") -> str:
        """Return the table in one of :data:`FORMATS`; raise OptionError for another."""
        check_choice("form of a table", form, FORMATS)
        return {
            "text": self._text, "markdown": self._markdown, "latex": self._latex, "csv": self._csv, "json": self._json
        }[form]()  # fmt: skip

    @property
    def caption(self) -> str:
        """What the numbers are, in one sentence."""
        return (
            f"Protocol {self.protocol}, {self.test_images} test images of {self.classes} classes, {self.repeats} "
            f"trainings of each set, seed {self.seed}: accuracy in % after the last step ± standard error, its parts "
            "by generation seeds, training seeds and test images, and differences with 95 % intervals."
        )

    def _cells(self) -> list[list[str]]:
        head = ["method", "network", "images", "accuracy", "± generation", "± training", "± test", "best"]
        lines = [[*head, f"minus {self.first}", "minus random real"]]
        for row in self.rows:
            parts = row.accuracy
            lines.append(
                [
                    row.name, row.network, str(row.images), f"{parts.mean:.1f} ± {parts.total:.1f}",
                    *map(_number, (parts.generation, parts.training, parts.test)),
                    f"{row.best:.1f}" + ("" if row.checks is None else f" of {row.checks}"),
                    str(row.minus_first or ""), str(row.minus_random or ""),
                ]
            )  # fmt: skip
        used = [column for column in zip(*lines, strict=True) if any(cell not in ("", "–") for cell in column[1:])]
        return [list(line) for line in zip(*used, strict=True)]

    def _text(self) -> str:
        return "\n".join([self.caption, *columns(self._cells())])

    def _markdown(self) -> str:
        head, *lines = [[cell.replace("|", "\\|") for cell in line] for line in self._cells()]
        rows = [head, ["---"] * len(head), *lines]
        return "\n".join([self.caption, "", *(f"| {' | '.join(line)} |" for line in rows)])

    def _latex(self) -> str:
        head, *lines = [[_in_latex(cell) for cell in line] for line in self._cells()]
        rows = [f"{' & '.join(line)} \\\\" for line in (head, *lines)]
        return "\n".join(
            [
                f"% {self.caption}", f"\\begin{{tabular}}{{{'l' * len(head)}}}", "\\hline", rows[0], "\\hline",
                *rows[1:], "\\hline", "\\end{tabular}",
            ]
        )  # fmt: skip

    def _csv(self) -> str:
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        ends = [f"{name}_{end}" for name in ("minus_first", "minus_random") for end in ("mean", "low", "high")]
        writer.writerow(
            [
                "method", "network", "images", "sets", "trainings", "accuracy", "error", "error_generation",
                "error_training", "error_test", "best", "checks", *ends,
            ]
        )  # fmt: skip
        for row in self.rows:
            parts = row.accuracy
            differences = [
                "" if difference is None else _plain(value)
                for difference in (row.minus_first, row.minus_random)
                for value in ((0.0,) * 3 if difference is None else (difference.mean, difference.low, difference.high))
            ]
            errors = map(_plain, (parts.mean, parts.total, parts.generation, parts.training, parts.test, row.best))
            checks = "" if row.checks is None else row.checks
            writer.writerow(
                [row.name, row.network, row.images, parts.sets, parts.trainings, *errors, checks, *differences]
            )
        return file.getvalue().removesuffix("\n")

    def _json(self) -> str:
        values = asdict(self)
        for row, stored in zip(self.rows, values["rows"], strict=True):
            stored["accuracy"]["total"] = row.accuracy.total
            for name, difference in (("minus_first", row.minus_first), ("minus_random", row.minus_random)):
                if difference is not None:
                    stored[name]["in_noise"] = difference.in_noise
        return json_text(values)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _plain(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else ""


def _in_latex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("±", "$\\pm$").replace("–", "--")
