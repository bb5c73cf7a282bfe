"""Compares evaluations: a row for each method and network, with differences paired by training seed.

The same protocol, test images, classes, seed and number of repeats are required: accuracies of different protocols
cannot be compared (one method has 34.7 and 39.0 % on ImageWoof under two published protocols).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypeAlias, TypedDict

from dap.errors import FormatError, OptionError, SourceError
from dap.evaluation.comparison import ComparedRow, Comparison
from dap.evaluation.error_parts import crossed_difference, error_parts
from dap.evaluation.result import EvaluationResult
from dap.storage.checked_json import (
    ANYTHING,
    NOTHING,
    NUMBER,
    TEXT,
    check_shape,
    either,
    fields,
    items,
    mapping,
    read_json,
    whole,
)

__all__ = ["Evaluation", "compare"]

RANDOM = "random real"

Evaluation: TypeAlias = EvaluationResult | str | Path
"""A result, or the JSON file of one."""

_ROW = fields(
    {
        "set_name": TEXT, "network": TEXT, "images": whole(1), "last": items(NUMBER, 1), "best": items(NUMBER, 1),
    },
    {"checks": either(NOTHING, whole(1))},
    more=True,
)  # fmt: skip
_RESULT = fields(
    {
        "protocol": TEXT, "seed": whole(), "repeats": whole(1), "test_images": whole(1), "class_names": items(TEXT, 1),
        "rows": items(_ROW, 1),
    },
    {"protocol_options": mapping(ANYTHING), "teacher": either(NOTHING, mapping(ANYTHING)), "weighted": items(TEXT)},
    more=True,
)  # fmt: skip
WEIGHTED = " (weighted)"  # after the name of a method whose images count by their weights
_ADVICE = "expected a file that dap evaluate --json writes"


class _Row(TypedDict):
    """A row of a result's file, as far as it is read here."""

    set_name: str
    network: str
    images: int
    last: list[float]
    best: list[float]
    checks: NotRequired[int | None]


class _Record(TypedDict):
    """A result's file, as far as it is read here."""

    protocol: str
    protocol_options: NotRequired[dict[str, object]]
    teacher: NotRequired[dict[str, object] | None]
    seed: int
    repeats: int
    test_images: int
    class_names: list[str]
    weighted: NotRequired[list[str]]
    rows: list[_Row]


@dataclass(frozen=True)
class _Sets:
    """The sets of one method that were evaluated with one network; a row of accuracies for each set."""

    method: str
    name: str
    network: str
    images: int
    last: list[list[float]]
    best: list[list[float]]
    checks: int | None


def compare(results: Mapping[str, Evaluation | Sequence[Evaluation]]) -> Comparison:
    """Compare evaluated methods with the first one, and with random real images where these were evaluated.

    Args:
        results: Results of :func:`dap.evaluate`, or their JSON files, by the name of the method. Several results of a
            method are those of sets that were generated with different seeds, in the same order for each method.

    Returns:
        A row for each method and network: mean accuracy after the last step, its ± in parts, the mean of the best of k
        checks, and the differences with 95 % intervals.

    Raises:
        OptionError: The results have different protocols, test images, classes, seeds or numbers of repeats, or a
            method has a file twice.
        FormatError: A file is no result.
        SourceError: A file is not there.

    Example:
        >>> from dap.evaluation import Row
        >>> def result(*last):
        ...     row = Row("distilled", "convnet3", 100, last, last, None)
        ...     return EvaluationResult("small", 0, 3, 1000, ("a", "b"), (row,))
        >>> table = compare({"dit": result(70.0, 71.0, 69.0), "dap": result(72.0, 73.0, 71.5)})
        >>> table.rows[1].minus_first.mean.__round__(3), table.rows[1].minus_first.in_noise
        (2.167, False)
    """
    if not results:
        raise OptionError("expected results to compare, got none")
    methods = {name: [_read(name, value) for value in _listed(values)] for name, values in results.items()}
    first_name, (first, *_) = next(iter(methods.items()))
    for name, records in methods.items():
        for record in records:
            _check_same(first_name, first, name, record)
    sets = _random_real(methods) + [part for name, records in methods.items() for part in _sets(name, records)]
    networks = list(dict.fromkeys(part.network for part in sets))
    rows = []
    for network in networks:
        own = [part for part in sets if part.network == network]
        base = next((part for part in own if part.method == first_name), None)
        randoms = {part.images: part for part in own if part.method == RANDOM}
        rows += [_row(part, base, randoms.get(part.images), first["test_images"]) for part in own]
    changes = "".join(f", {name}={value}" for name, value in first.get("protocol_options", {}).items())
    return Comparison(
        f"{first['protocol']}{changes}", first["test_images"], len(first["class_names"]), first["seed"],
        first["repeats"], first_name, tuple(rows),
    )  # fmt: skip


def _listed(values: Evaluation | Sequence[Evaluation]) -> Sequence[Evaluation]:
    if isinstance(values, EvaluationResult | str | Path):
        return [values]
    if not values:
        raise OptionError("expected at least one result of each method, got none")
    files = [Path(value).resolve() for value in values if not isinstance(value, EvaluationResult)]
    if twice := [file for place, file in enumerate(files) if file in files[:place]]:
        raise OptionError(f"expected each result of a method once, got {twice[0]} twice; leave one of them out")
    return values


def _read(name: str, value: Evaluation) -> _Record:
    """Return a checked result in JSON's types."""
    if isinstance(value, EvaluationResult):
        record: _Record = json.loads(value.to_json())
        check_shape(Path(name), record, _RESULT)
    else:
        try:
            record = read_json(Path(value), _RESULT, advice=_ADVICE)
        except (FileNotFoundError, IsADirectoryError) as error:
            raise SourceError(f"{value}: there is no such file; {_ADVICE}") from error
    for row in record["rows"]:
        if {len(row["last"]), len(row["best"])} != {record["repeats"]}:
            raise FormatError(f"{name}: row {row['set_name']!r} has {len(row['last'])} of {record['repeats']} repeats")
    return record


def _check_same(first_name: str, first: _Record, name: str, record: _Record) -> None:
    for text, a, b in (
        ("protocol", first["protocol"], record["protocol"]),
        (
            "changed constants of the protocol",
            first.get("protocol_options") or {},
            record.get("protocol_options") or {},
        ),
        ("teacher", (first.get("teacher") or {}).get("sha256"), (record.get("teacher") or {}).get("sha256")),
        ("classes", sorted(first["class_names"]), sorted(record["class_names"])),
        ("number of test images", first["test_images"], record["test_images"]),
        ("seed", first["seed"], record["seed"]),
        ("number of repeats", first["repeats"], record["repeats"]),
    ):
        if a != b:
            raise OptionError(
                f"{name} cannot be compared with {first_name}: {text} {_short(b)} and {_short(a)}; evaluate both alike"
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _random_real(methods: Mapping[str, list[_Record]]) -> list[_Sets]:
    """Return the random real images, once where several files have the same."""
    found: dict[tuple[object, ...], _Sets] = {}
    for name, records in methods.items():
        for record in records:
            for row in record["rows"]:
                key = (row["network"], row["images"], *row["last"])
                if row["set_name"] != RANDOM or key in found:
                    continue
                same = [part for part in found.values() if part.network == row["network"]]
                label = f"{RANDOM}, {row['images']} images"
                if any(part.images == row["images"] for part in same):
                    label = f"{RANDOM} of {name}"
                found[key] = _of_row(RANDOM, label if same else RANDOM, row)
    return list(found.values())


def _of_row(method: str, label: str, *rows: _Row) -> _Sets:
    first = rows[0]
    return _Sets(
        method, label, first["network"], first["images"], [row["last"] for row in rows], [row["best"] for row in rows],
        first.get("checks"),
    )  # fmt: skip


def _sets(name: str, records: Sequence[_Record]) -> list[_Sets]:
    """Return the sets of a method, one entry for each network."""
    parts: dict[tuple[str, str], list[_Row]] = {}
    for record in records:
        for row in record["rows"]:
            if row["set_name"] != RANDOM:
                parts.setdefault((row["set_name"], row["network"]), []).append(row)
    several = len({set_name for set_name, _ in parts}) > 1
    weighted = WEIGHTED if any(record.get("weighted") for record in records) else ""
    if weighted and not all(record.get("weighted") for record in records):
        raise OptionError(f"{name}: some of its {len(records)} results are weighted and some are not")
    for (set_name, network), rows in parts.items():
        if len(rows) < len(records) or len({row["images"] for row in rows}) > 1:
            raise OptionError(
                f"{name}: expected set {set_name!r} of one size with network {network} in each of its "
                f"{len(records)} results"
            )
    label = f"{name}{weighted}"
    return [_of_row(name, f"{label}/{key[0]}" if several else label, *rows) for key, rows in parts.items()]


def _row(part: _Sets, base: _Sets | None, random: _Sets | None, test_images: int) -> ComparedRow:
    best = error_parts(part.best, test_images).mean
    return ComparedRow(
        part.name, part.network, part.images, error_parts(part.last, test_images), best, part.checks,
        None if base is None or base is part else crossed_difference(part.last, base.last),
        None if random is None or random is part else crossed_difference(part.last, random.last),
    )  # fmt: skip
