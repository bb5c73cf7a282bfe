"""The result of an evaluation: a row for each set and network, as a table and as JSON."""

from __future__ import annotations

import html
import math
from dataclasses import asdict, dataclass, field

from dap.evaluation.statistics import Difference, Summary, summary
from dap.result_text import columns, html_table, json_text, without_nan
from dap.storage.space import size_text

__all__ = ["EvaluationResult", "Row"]


@dataclass(frozen=True)
class Row:
    """The trainings of one network on one set. All accuracies are in per cent.

    Attributes:
        set_name: Name of the set.
        network: Name of the network.
        images: Number of images in the set.
        last: Test accuracy at the end of each repeat: the number to report.
        best: The best test accuracy measured during each repeat.
        difference: ``last`` minus ``last`` of the first set, paired by repeat; None for the first set.
        checks: Number of test accuracies that ``best`` is the best of; None: not known.
        constants: All constants of the trainings by name; None for protocol "small".
        label_bytes: Bytes of the soft labels of all epochs; None where they are not stored.
    """

    set_name: str
    network: str
    images: int
    last: tuple[float, ...]
    best: tuple[float, ...]
    difference: Difference | None
    checks: int | None = None
    constants: dict[str, object] | None = None
    label_bytes: int | None = None

    @property
    def last_summary(self) -> Summary:
        """Mean, standard error and n of ``last``."""
        return summary(self.last)

    @property
    def best_summary(self) -> Summary:
        """Mean, standard error and n of ``best``."""
        return summary(self.best)


@dataclass(frozen=True, repr=False)
class EvaluationResult:
    """All rows of one evaluation, the first set's first.

    Attributes:
        protocol: Name of the protocol.
        seed: Root seed of all repeats.
        repeats: Trainings per row; repeat r starts from the same generator in every row of a network.
        test_images: Number of test images.
        class_names: Names of the classes, in label order.
        rows: One per set and network.
        recognised: Share of the set's images, in [0, 1], that the judge assigns to their class; None without a judge.
        recognised_per_class: The same share of each class, by its name.
        protocol_options: The constants of the protocol that were changed, by name.
        teacher: Of the teacher, if there is one: name, accuracy in per cent on the test images (None if only its stored
            labels were at hand), and the hash of its weights (sha256).
        weighted: Names of the sets whose images count by weights of their own.
    """

    protocol: str
    seed: int
    repeats: int
    test_images: int
    class_names: tuple[str, ...]
    rows: tuple[Row, ...]
    recognised: float | None = None
    recognised_per_class: dict[str, float] | None = None
    protocol_options: dict[str, object] = field(default_factory=dict)
    teacher: dict[str, object] | None = None
    weighted: tuple[str, ...] = ()

    def row(self, set_name: str, network: str = "convnet3") -> Row:
        """The row of a set and a network.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if (row.set_name, row.network) == (set_name, network):
                return row
        raise KeyError((set_name, network))

    def table(self) -> str:
        """A plain text table: accuracies in per cent with ± one standard error, differences with 95 % intervals.

        With one repeat there are neither errors nor intervals.
        """
        return "\n".join([self._caption(), *columns(self._lines()), *self._notes()])

    def __repr__(self) -> str:
        sets = ", ".join(dict.fromkeys(row.set_name for row in self.rows))
        return (
            f"EvaluationResult(protocol {self.protocol!r}, {sets}: {len(self.rows)} rows, n = {self.repeats}, "
            f"seed {self.seed}; print its .table())"
        )

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self._notes())
        return html_table(self._lines(), self._caption()) + notes

    def _caption(self) -> str:
        changes = "".join(f", {name}={value}" for name, value in self.protocol_options.items())
        return (
            f"protocol {self.protocol}{changes}: accuracy in % on {self.test_images} test images of "
            f"{len(self.class_names)} classes, mean ± standard error, n = {self.repeats}, seed {self.seed}"
        )

    def _lines(self) -> list[list[str]]:
        first = self.rows[0].set_name
        lines = [["set", "network", "images", "last", "best", f"last - {first}"]]
        for row in self.rows:
            difference = row.difference
            lines.append(
                [
                    row.set_name,
                    row.network,
                    str(row.images),
                    _with_error(row.last_summary),
                    _with_error(row.best_summary) + ("" if row.checks is None else f" of {row.checks}"),
                    "" if difference is None else _with_interval(difference),
                ]
            )
        if all(row.difference is None for row in self.rows):
            lines = [line[:-1] for line in lines]
        return lines

    def _notes(self) -> list[str]:
        text = []
        if self.teacher is not None:
            accuracy = self.teacher["accuracy"]
            measured = f": {accuracy:.1f} % of the test images" if isinstance(accuracy, float) else ", by stored labels"
            text.append(f"teacher {self.teacher['name']}{measured}")
        sizes = {row.set_name: row.label_bytes for row in self.rows if row.label_bytes is not None}
        if sizes:
            text.append("soft labels: " + ", ".join(f"{size_text(size)} of {name}" for name, size in sizes.items()))
        if self.weighted:
            text.append(f"images count by their weights in: {', '.join(self.weighted)}")
        if self.recognised is not None:
            text.append(f"recognised by the judge: {100 * self.recognised:.1f} %")
        return text

    def to_dict(self) -> dict[str, object]:
        """The result in JSON's types; values that are not finite (the standard error of one repeat) become None."""
        values = asdict(self)
        for row, row_values in zip(self.rows, values["rows"], strict=True):
            row_values["last_summary"] = asdict(row.last_summary)
            row_values["best_summary"] = asdict(row.best_summary)
            if row.constants is None:
                del row_values["checks"], row_values["constants"]
            if row.label_bytes is None:
                del row_values["label_bytes"]
        if not self.protocol_options:
            del values["protocol_options"]
        if self.teacher is None:
            del values["teacher"]
        if not self.weighted:
            del values["weighted"]
        return {name: without_nan(value) for name, value in values.items()}

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json_text(self.to_dict())


def _with_error(accuracy: Summary) -> str:
    error = "" if math.isnan(accuracy.standard_error) else f" ± {accuracy.standard_error:.1f}"
    return f"{accuracy.mean:.1f}{error}"


def _with_interval(difference: Difference) -> str:
    interval = f" [{difference.low:+.1f}, {difference.high:+.1f}]" if math.isfinite(difference.high) else ""
    return f"{difference.mean:+.1f}{interval}"
