"""``dap bench packing``: the cases run with right results, wrong ones are named."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from dap.bench import packing
from dap.bench.fields import measure_field
from dap.bench.packing import CASES, list_packing_cases
from dap.bench.race import Contender
from dap.cli.main import dap

pytestmark = pytest.mark.filterwarnings("ignore")  # the rivals'
QUICK = list_packing_cases(quick=True, threads=(2,))


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_all_contenders_are_right(case):
    rows = measure_field(case, rounds=1)
    assert {row["role"] for row in rows} >= {"dap", "rival"}
    assert [row["reason"] for row in rows if row["reason"]] == []
    assert all(row["median_s"] > 0 for row in rows)


@pytest.mark.parametrize("task", list(CASES))
def test_a_wrong_result_is_named(task):
    (ours, *_), check = next(case for case in QUICK if case.task == task).field()
    right = ours.call()
    check(right, ours.rtol)
    if task == "write tar":
        shard = bytearray(right.read_bytes())
        shard[3 * 512] ^= 1  # the first byte of the first image
        right.write_bytes(shard)
        wrong = right
    elif task == "encode PNG":
        wrong = right[::-1]
    elif task.endswith("batches from tar"):
        wrong = [mean + 2 for mean in right]
    elif task == "augmented batches":
        wrong = [mean + 1.1 for mean in right]
    elif task == "read tar":
        wrong = [data[::-1] for data in right]
    else:
        wrong = [np.asarray(image) ^ 4 for image in right]
    with pytest.raises(ValueError, match=r"off by|other files|or others|or values"):
        check(wrong, ours.rtol)


def test_cases_of_files_have_the_same_sizes_whatever_the_threads():
    both = list_packing_cases(threads=(1, 2))
    assert sum(case.threads == 1 for case in both) == 14 and sum(case.threads == 2 for case in both) == 8
    assert {str(case) for case in both} >= {
        "write tar, 500 of 100 KB, 1 thread",
        "ADM crop, 64 of 256 × 256, 2 threads",
    }


def test_the_command_prints(monkeypatch):
    def field(*_):
        return [Contender("dap", lambda: 1, "dap"), Contender("other", lambda: 1)], lambda *_: None

    monkeypatch.setattr(packing, "CASES", dict.fromkeys(CASES, field))
    result = CliRunner().invoke(dap, ["bench", "packing", "--quick", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert "| read tar, 10 of 100 KB, 1 thread | dap | " in result.output
