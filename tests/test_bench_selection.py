"""``dap bench selection``: the cases run with right results, wrong ones are named, the command writes its rows."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from dap.bench import selection
from dap.bench.fields import field_table, measure_field
from dap.bench.race import Contender
from dap.bench.selection import list_selection_cases
from dap.cli.main import dap


@pytest.mark.parametrize("case", list_selection_cases(quick=True, threads=(1,)), ids=str)
def test_all_contenders_are_right(case):
    rows = measure_field(case, rounds=1)
    assert {row["role"] for row in rows} >= {"dap", "rival"}
    assert [row["reason"] for row in rows if row["reason"]] == []
    assert all(row["median_s"] > 0 for row in rows)
    for row in rows:
        read = case.rows * case.columns * 2 if case.task == "index read to torch" else None
        assert row["gigabytes_per_second"] == (read and pytest.approx(1e-9 * read / row["median_s"]))
        assert (" GB/s | " in field_table([row])) == bool(read)


@pytest.mark.parametrize("task", list(selection.CASES))
def test_a_wrong_result_is_named(task):
    case = next(case for case in list_selection_cases(quick=True, threads=(1,)) if case.task == task)
    (ours, *_), check = selection.CASES[task](case)
    right = ours.call()
    check(right, ours.rtol)
    with pytest.raises(ValueError, match=r"off by|the first one's"):
        check(right[::-1] * 0 if task in ("k-means++", "herding") else right * 1.5, ours.rtol)


def test_the_command_prints_and_writes(monkeypatch, tmp_path):
    def quick(case):
        def fail():
            raise ArithmeticError("no")

        return [
            Contender("dap", lambda: 1, "dap"),
            Contender("slow", lambda: 1),
            Contender("bad", fail),
        ], lambda *_: None

    monkeypatch.setattr(selection, "CASES", dict.fromkeys(selection.CASES, quick))
    file = tmp_path / "rows.json"
    result = CliRunner().invoke(dap, ["bench", "selection", "--quick", "--threads", "1", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "| k-means of 2,000 × 64, 1 thread | bad | ArithmeticError: no | |" in result.output
    rows = json.loads(file.read_text())
    assert len(rows) == 21 and {row["contender"] for row in rows} == {"dap", "slow", "bad"}
