"""Standard errors in parts, paired tables of evaluations, and the scores of DD-Ranking."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dap.cli.values import TABLES
from dap.errors import DapError, FormatError, OptionError, SourceError
from dap.evaluation import (
    EvaluationResult,
    Row,
    augmentation_robust_score,
    compare,
    crossed_difference,
    error_parts,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
    paired_difference,
)
from dap.evaluation.comparison import FORMATS
from dap.evaluation.comparison_plot import plot


def test_parts_are_those_of_the_analysis_of_variance() -> None:
    values = np.random.default_rng(0).normal(70, 2, (4, 3)) + np.array([[3.0], [0.0], [-2.0], [4.0]])
    mean, rows, columns = values.mean(), values.mean(1), values.mean(0)
    between_rows = 3 * ((rows - mean) ** 2).sum() / 3
    between_columns = 4 * ((columns - mean) ** 2).sum() / 2
    total = ((values - mean) ** 2).sum()
    residual = (total - 3 * between_rows - 2 * between_columns) / 6
    found = error_parts(values.tolist(), 500)
    assert found.mean == pytest.approx(mean)
    assert found.generation == pytest.approx(math.sqrt((between_rows - residual) / 3 / 4))
    training = max(0, between_columns - residual) / 4 / 3 + residual / 12
    assert found.training == pytest.approx(math.sqrt(training))
    assert found.test == pytest.approx(100 * stats.binom(500, mean / 100).std() / 500)
    assert found.total == pytest.approx(math.sqrt(found.generation**2 + found.training**2 + found.test**2))


def test_parts_find_the_variances_of_a_simulation() -> None:
    draw = np.random.default_rng(1)
    found = []
    for _ in range(400):
        values = 70 + draw.normal(0, 2, (6, 1)) + draw.normal(0, 1, (1, 5)) + draw.normal(0, 0.5, (6, 5))
        found.append(error_parts(values.tolist(), 10_000))
    assert np.mean([part.generation**2 for part in found]) == pytest.approx(4 / 6, rel=0.15)
    assert np.mean([part.training**2 for part in found]) == pytest.approx(1 / 5 + 0.25 / 30, rel=0.15)


def test_parts_of_single_seeds() -> None:
    one = error_parts([[70.0, 72.0]], 100)
    assert math.isnan(one.generation)
    assert one.training == pytest.approx(1.0)
    assert error_parts([[70.0], [72.0]], 100).generation == pytest.approx(1.0)
    assert math.isnan(error_parts([[70.0]], 100).training)
    assert error_parts([[100.0]], 100).total == 0.0
    for values in ([], [[]], [[1.0], [1.0, 2.0]]):
        with pytest.raises(OptionError, match="same number of trainings"):
            error_parts(values, 100)


def test_differences() -> None:
    a, b = [[71.0, 73.0, 72.5]], [[70.0, 71.0, 69.0]]
    assert astuple(crossed_difference(a, b)) == pytest.approx(astuple(paired_difference(a[0], b[0])))
    several = crossed_difference([a[0], [74.0, 75.0, 73.0]], b)  # each set against the one
    assert several.mean == pytest.approx(np.mean([72.1666666, 74.0]) - 70)
    assert several.n == 6
    assert several.high == math.inf or several.high > several.mean
    assert crossed_difference([[1.0]], [[0.5]]).high == math.inf
    for wrong in ([[1.0, 2.0]], [[1.0] * 3] * 2):
        with pytest.raises(OptionError, match="as many sets and trainings"):
            crossed_difference([[1.0, 2.0, 3.0]] * 3, wrong)


def test_intervals_with_several_sets_cover_the_truth() -> None:
    draw = np.random.default_rng(2)
    inside = 0
    for _ in range(300):
        noise = draw.normal(0, 1, (5, 1)) + draw.normal(0, 0.5, (5, 5))
        found = crossed_difference((72 + noise).tolist(), [[70.0] * 5])
        inside += found.low < 2 < found.high
    assert inside / 300 > 0.92


def result(*last: float, images: int = 100, random: tuple[float, ...] | None = None, **changes) -> EvaluationResult:
    rows = [] if random is None else [Row("random real", "convnet3", images, random, random, None)]
    best = tuple(value + 1 for value in last)
    rows.append(Row("distilled", "convnet3", images, last, best, None))
    settings = {"protocol": "small", "seed": 0, "repeats": len(last), "test_images": 1000, "class_names": ("a", "b")}
    return EvaluationResult(**(settings | changes), rows=tuple(rows))


RANDOM = (68.0, 70.0, 69.0)


def test_the_table_is_paired_and_says_what_is_noise() -> None:
    first, second = result(70, 71, 69.5, random=RANDOM), result(70.5, 70, 70, random=RANDOM)
    third = result(75, 76, 74.0, random=RANDOM)
    table = compare({"dit": first, "dap": second, "dap_set": third})
    assert [row.name for row in table.rows] == ["random real", "dit", "dap", "dap_set"]
    random, dit, dap, dap_set = table.rows
    assert dit.minus_first is None and random.minus_random is None
    assert astuple(random.minus_first) == pytest.approx(astuple(paired_difference(RANDOM, (70, 71, 69.5))))
    assert astuple(dap_set.minus_first) == pytest.approx(astuple(paired_difference((75, 76, 74), (70, 71, 69.5))))
    assert astuple(dap_set.minus_random) == pytest.approx(astuple(paired_difference((75, 76, 74), RANDOM)))
    assert dap.minus_first.in_noise and not dap_set.minus_first.in_noise
    assert astuple(dap.accuracy) == pytest.approx(astuple(error_parts([(70.5, 70, 70)], 1000)), nan_ok=True)
    assert dap.best == pytest.approx(np.mean([71.5, 71, 71]))
    line = table.table().splitlines()[4]
    assert line.startswith("dap ") and "in the noise" in line
    assert "± generation" not in table.table()  # one set each


def test_several_sets_of_a_method_have_a_generation_part() -> None:
    sets = [result(70, 71, 69.5, random=RANDOM), result(73, 74, 73.5, random=RANDOM)]
    table = compare({"dit": sets, "dap": [result(75, 76, 74), result(76, 77, 76)]})
    assert [row.name for row in table.rows] == ["random real", "dit", "dap"]
    assert table.rows[1].accuracy == error_parts([[70, 71, 69.5], [73, 74, 73.5]], 1000)
    assert table.rows[2].minus_first == crossed_difference(
        [[75, 76, 74], [76, 77, 76]], [[70, 71, 69.5], [73, 74, 73.5]]
    )
    assert table.rows[2].minus_random == crossed_difference([[75, 76, 74], [76, 77, 76]], [RANDOM])
    assert "± generation" in table.table()


def test_a_weighted_set_is_called_so() -> None:
    plain, weighted = result(70, 71, 69), replace(result(72, 73, 70), weighted=("distilled",))
    table = compare({"mgd3": weighted, "dit": plain})
    assert [row.name for row in table.rows] == ["mgd3 (weighted)", "dit"]
    assert table.rows[1].minus_first is not None and table.rows[0].minus_first is None
    table = compare({"runs/a (weighted)": plain, "dit": weighted})
    assert [row.name for row in table.rows] == ["runs/a (weighted)", "dit (weighted)"]
    assert table.rows[1].minus_first is not None
    with pytest.raises(OptionError, match="mgd3: some of its 2 results are weighted and some are not"):
        compare({"mgd3": [plain, weighted]})


def test_random_real_images_of_other_numbers_stand_apart() -> None:
    table = compare(
        {"ten": result(70, 71, 69, random=RANDOM), "fifty": result(80, 81, 82, images=500, random=(78.0, 77, 79))}
    )
    assert [row.name for row in table.rows] == ["random real", "random real, 500 images", "ten", "fifty"]
    assert astuple(table.rows[3].minus_random) == pytest.approx(astuple(paired_difference((80, 81, 82), (78, 77, 79))))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (result(1, 2, 3, protocol="hard"), "cannot be compared with a: protocol 'hard' and 'small'"),
        (result(1, 2, 3, class_names=("a", "c")), "classes"), (result(1, 2, 3, seed=5), "seed 5 and 0"),
        (result(1, 2), "number of repeats 2 and 3"),
        (result(1, 2, 3, test_images=9), "number of test images 9 and 1000"),
    ],
)  # fmt: skip
def test_results_of_other_protocols_are_refused(other: EvaluationResult, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        compare({"a": result(1, 2, 3), "b": other})


def test_files_that_are_refused(tmp_path: Path) -> None:
    stored = result(1, 2, 3).to_dict()
    wrong = tmp_path / "wrong.json"
    cases: list[tuple[str, type[DapError], str]] = [
        ("{", FormatError, "JSON"), ("[]", FormatError, "object"),
        (json.dumps({**stored, "repeats": "three"}), FormatError, "repeats"),
        (json.dumps({**stored, "repeats": 4}), FormatError, "has 3 of 4 repeats"),
    ]  # fmt: skip
    for text, kind, message in cases:
        wrong.write_text(text)
        with pytest.raises(kind, match=message):
            compare({"a": wrong})
    with pytest.raises(SourceError, match="no such file; expected a file that dap evaluate --json writes"):
        compare({"a": tmp_path / "none.json"})
    with pytest.raises(OptionError, match="got none"):
        compare({})
    with pytest.raises(OptionError, match="of one size"):
        compare({"a": [result(1, 2, 3), result(1, 2, 3, images=20)]})


def test_the_command_and_its_formats(command_line, tmp_path: Path) -> None:
    assert FORMATS == TABLES
    with pytest.raises(OptionError, match=r"unknown form of a table 'html'\. Known: csv, json, latex, markdown, text"):
        compare({"a": result(1, 2, 3)}).table("html")
    for name, values in (("dit_1", (70, 71, 69.5)), ("dap|2", (75, 76, 74.0))):
        (tmp_path / f"{name}.json").write_text(result(*values, random=RANDOM).to_json())
    files = [tmp_path / "dit_1.json", f"ours={tmp_path / 'dap|2.json'}"]
    tables = {}
    for form in FORMATS:
        code, tables[form], _ = command_line("compare", *files, "--format", form)
        assert code == 0
    assert "minus dit_1" in tables["text"].splitlines()[1]
    assert tables["markdown"].splitlines()[2].startswith("| method | network | images | accuracy |")
    assert "dit\\_1 & convnet3 & 100 & 70.2 $\\pm$" in tables["latex"]
    assert tables["latex"].count("\\\\") == 4
    rows = list(csv.DictReader(io.StringIO(tables["csv"])))
    assert [row["method"] for row in rows] == ["random real", "dit_1", "ours"]
    assert float(rows[2]["minus_first_mean"]) == pytest.approx(75 - 70.1667, abs=1e-3)
    assert rows[1]["minus_first_mean"] == "" and rows[1]["error_generation"] == ""
    stored = json.loads(tables["json"])
    assert stored["rows"][2]["minus_first"]["in_noise"] is False
    assert stored["rows"][2]["accuracy"]["generation"] is None
    code, _, error = command_line("compare", tmp_path / "dit_1.json", tmp_path / "no.json")
    assert code == 2 and "no.json: there is no such file" in error


def test_only_names_that_are_given_join_files(command_line, tmp_path: Path) -> None:
    files = {}
    for folder, values in (("a1", (70, 71, 69.5)), ("dit3", (75, 76, 74.0)), ("b/dit3", (72, 73, 71))):
        (tmp_path / folder).mkdir(parents=True)
        files[folder] = tmp_path / folder / "result.json"
        files[folder].write_text(result(*values).to_json())
    alone = tmp_path / "alone.json"
    alone.write_text(result(60, 61, 62).to_json())

    def methods(*arguments: object) -> list[str]:
        code, text, error = command_line("compare", *arguments, "--format", "csv")
        assert code == 0, error
        return [row["method"] for row in csv.DictReader(io.StringIO(text))]

    assert methods(files["a1"], files["dit3"], alone) == ["a1/result", "dit3/result", "alone"]
    base = tmp_path.name
    assert methods(files["dit3"], files["b/dit3"]) == [f"{base}/dit3/result", "b/dit3/result"]
    assert methods(f"dit={files['a1']}", f"dit={files['dit3']}") == ["dit"]
    assert methods(f"alone={files['a1']}", alone) == ["alone", f"{base}/alone"]
    for twice in ((alone, alone), (alone, tmp_path / "a1" / ".." / "alone.json"), (f"a={alone}", f"a={alone}")):
        code, text, error = command_line("compare", *twice)
        assert (code, text) == (2, "") and "expected each result of a method once, got" in error, twice
    assert methods(alone, f"again={alone}") == ["alone", "again"]
    with pytest.raises(OptionError, match=r"alone\.json twice; leave one of them out"):
        compare({"a": [alone, str(alone)]})


def test_scores_of_dd_ranking_name_their_unit() -> None:
    """-0.154 and 0.248 for HLR 20 and IOR 10: the package computes in points, its text says fractions."""
    hlr, ior = hard_label_recovery(90, 70), improvement_over_random(70, 60)
    assert (hlr, ior) == (20, 10)
    assert label_robust_score(hlr, ior) == pytest.approx(-0.154, abs=5e-4)
    assert label_robust_score(hlr, ior, unit="fractions") == pytest.approx(0.248, abs=5e-4)
    alpha = 0.3 * 0.1 - 0.7 * 0.2
    expected = (np.exp(alpha) - np.exp(-1)) / (np.exp(1) - np.exp(-1))
    assert label_robust_score(hlr, ior, weight=0.3, unit="fractions") == pytest.approx(expected)
    beta = 0.3 * 2 + 0.7 * -1
    expected = (np.exp(beta) - np.exp(-1)) / (np.exp(1) - np.exp(-1))
    assert augmentation_robust_score(2, -1, weight=0.3) == pytest.approx(expected)
    for call in (lambda: label_robust_score(1, 1, weight=2), lambda: label_robust_score(1, 1, unit="percent")):
        with pytest.raises(OptionError):
            call()


def test_the_picture(command_line, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.json").write_text(result(70, 71, 69.5, random=RANDOM).to_json())
    (tmp_path / "b$.json").write_text(result(75, 76, 74.0, random=RANDOM).to_json())
    files = [tmp_path / "a.json", tmp_path / "b$.json"]
    code, text, _ = command_line("compare", *files, "--plot", tmp_path / "plot.svg")
    assert code == 0 and "minus a" in text
    drawn = (tmp_path / "plot.svg").read_text()
    for words in ("random real", "b$", "minus a, points, 95 %", "3 trainings of each set"):
        assert f"<!-- {words}" in drawn or words in drawn, words
    plot(compare({"a": result(70.0)}), tmp_path / "one.png")  # neither errors nor differences
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.width > 300
    for file, message in (("plot.gif", "ends in .png, .pdf, .svg"), ("none/plot.png", "there is no folder")):
        code, text, error = command_line("compare", *files, "--plot", tmp_path / file)
        assert (code, text) == (2, "") and message in error
    monkeypatch.setattr("dap.pictures.find_spec", lambda name: None)
    code, _, error = command_line("compare", *files, "--plot", tmp_path / "plot.png")
    assert code == 2 and "pip install 'dap-distill[plot]'" in error
    assert not (tmp_path / "plot.png").exists()
