"""``dap bench kernels``: the rules of the race, the rivals' answers, and what is printed and written."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dap.bench import race as race_module
from dap.bench import rivals, rivals_torch
from dap.bench.cases import Case, Referee, list_cases
from dap.bench.contenders import line_up
from dap.bench.kernels import measure, measure_memory
from dap.bench.memory import peak_bytes, rise_of_peak
from dap.bench.plot import draw
from dap.bench.race import Contender, Timing, race
from dap.bench.tables import case_table, ratio_table
from dap.bench.threads import equal_threads
from dap.cli.main import dap
from dap.errors import OptionError
from dap.kernels import backend_rust

REQUIRED = ["kernel", "reduction", "contender", "n", "m", "d", "dtype", "threads", "median_s", "q1_s", "q3_s"]
QUICK = list_cases(quick=True, threads=(2,))


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when a contender lets it: ``clock[0] += seconds``."""
    now = [0.0]
    monkeypatch.setattr(race_module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(race_module.time, "sleep", lambda seconds: None)
    return now


def accept(result, rtol):
    """A check that finds everything right."""


def test_contenders_take_turns_forwards_and_backwards(clock):
    calls = []
    contenders = [Contender(name, lambda name=name: calls.append(name)) for name in "abc"]
    times, failures = race(contenders, 3, accept)
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert [len(timing.seconds) for timing in times.values()] == [3, 3, 3] and not failures


def test_the_warm_up_is_not_timed_but_for_lost_causes(clock):
    def taking(*seconds):
        left = list(seconds)

        def call():
            clock[0] += left.pop(0)

        return call

    contenders = [
        Contender("steady", taking(1.5, *[0.25] * 9)),  # slow to warm up, as what allocates is
        Contender("near", taking(7.0, *[3.0] * 9)),  # less than five times as slow as the fastest warm-up
        Contender("lost", taking(8.0, 9.0, 10.0)),
        Contender("hopeless", taking(21.0)),
    ]
    times, _ = race(contenders, 9, accept)
    assert {name: timing.seconds for name, timing in times.items()} == {
        "steady": (0.25,) * 9,
        "near": (3.0,) * 9,
        "lost": (8.0, 9.0, 10.0),
        "hopeless": (21.0,),
    }


def test_a_slow_spell_of_milliseconds_is_no_lost_cause(clock):
    def call():
        clock[0] += 0.9

    times, _ = race([Contender("fast", lambda: None), Contender("slow", call)], 5, accept)
    assert len(times["slow"].seconds) == 5


def test_wrong_and_failing_contenders_are_named_and_not_timed(clock):
    def check(result, rtol):
        if abs(result - 1.0) > rtol:
            raise ValueError(f"off by {result - 1.0:.0e}")

    def fail():
        raise MemoryError("too large")

    calls = []
    contenders = [
        Contender("right", lambda: 1.0),
        Contender("wrong", lambda: calls.append(1) or 1.001),
        Contender("coarse", lambda: 1.001, rtol=1e-2),
        Contender("failing", fail),
    ]
    times, failures = race(contenders, 4, check)
    assert list(times) == ["right", "coarse"]
    assert failures == {"wrong": "ValueError: off by 1e-03", "failing": "MemoryError: too large"}
    assert len(calls) == 1


def test_quartiles_are_those_of_numpy():
    seconds = tuple(np.random.default_rng(0).random(9))
    np.testing.assert_allclose(Timing(seconds).quartiles, np.quantile(seconds, [0.25, 0.5, 0.75]), rtol=1e-14)
    assert Timing((2.0,)).quartiles == (2.0, 2.0, 2.0)


def test_the_cases_are_those_of_the_issue():
    cases = {(case.kernel, case.reduction, case.n, case.m, case.d, case.dtype) for case in list_cases()}
    assert cases == {
        *(("rbf", "row_means", 20_000, 2_000, d, "float32") for d in (64, 384, 1152)),
        *(("laplacian", "row_means", 20_000, 2_000, d, "float32") for d in (64, 384, 1152)),
        ("rbf", "mmd2", 4_000, 4_000, 384, "float32"),
        ("linear", "mean_distance", 20_000, 2_000, 384, "float32"),
        ("euclidean", "nearest", 20_000, 2_000, 64, "float32"),
        ("rbf", "row_means", 20_000, 2_000, 384, "float16"),
        ("rbf", "row_means", 20_000, 2_000, 384, "bfloat16"),
    }


def test_one_thread_is_shown_beside_for_the_rbf_row_means(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    single = [case for case in list_cases() if case.threads == 1]
    assert [(case.kernel, case.reduction, case.d) for case in single] == [
        ("rbf", "row_means", d) for d in (64, 384, 1152)
    ]
    assert [case.threads for case in list_cases(threads=(3, 1, 3))] == [3] * 11 + [1] * 11


def test_equal_threads_reach_every_library_and_are_put_back():
    import threadpoolctl

    def counts():
        pools = [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]
        return [torch.get_num_threads(), *pools]

    with equal_threads(2):
        assert set(counts()) == {2}
        with pytest.raises(KeyError), equal_threads(1):
            assert set(counts()) == {1}
            raise KeyError
        assert set(counts()) == {2}


def definition(case, x, y):
    """The result by loops over pairs, in float64."""
    x, y = x.double().numpy(), y.double().numpy()

    def k(a, b):
        if case.kernel == "laplacian":
            return math.exp(-np.abs(a - b).sum() / case.bandwidth)
        return math.exp(-((a - b) ** 2).sum() / (2 * case.bandwidth**2))

    if case.reduction == "mmd2":
        within = [
            np.mean([k(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j])
            for rows in (x, y)
        ]
        return sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])
    distances = np.array([[np.linalg.norm(a - b) for b in y] for a in x])
    if case.reduction == "nearest":
        return np.sort(distances, axis=1)[:, :10]
    return (
        distances.mean(1) if case.reduction == "mean_distance" else np.array([[k(a, b) for b in y] for a in x]).mean(1)
    )


@pytest.mark.parametrize("case", [case for case in QUICK if case.d != 72], ids=str)
def test_every_contender_gives_the_definition(case):
    case = replace(case, n=70, m=70 if case.reduction == "mmd2" else 40)
    x, y = case.rows()
    expected = definition(case, x, y)
    referee = Referee(case, x, y)
    contenders, missing = line_up(case, x, y, with_compiled=False)
    names = [contender.name.split(",")[0] for contender in contenders]
    assert names[0] == "dap" and "torch" in {name.split(".")[0] for name in names}
    assert set(missing) <= {"torch.compile", "KeOps", "faiss"}
    for contender in contenders:
        result = contender.call()
        referee.check(result, contender.rtol)
        values = result[0] if case.reduction == "nearest" else result
        np.testing.assert_allclose(np.asarray(values), expected, rtol=contender.rtol, err_msg=contender.name)


@pytest.mark.parametrize("case", [QUICK[0], QUICK[6], QUICK[7], QUICK[8]], ids=str)
def test_the_referee_refuses_what_is_wrong(case):
    x, y = case.rows()
    referee = Referee(case, x, y)
    contenders, _ = line_up(case, x, y, with_compiled=False)
    right = contenders[0].call()
    referee.check(right, 1e-4)
    if case.reduction == "nearest":
        values, indices = right
        with pytest.raises(ValueError, match="result: off by"):
            referee.check((values * 1.001, indices), 1e-4)
        with pytest.raises(ValueError, match="rows at the indices: off by"):
            referee.check((values, np.roll(indices, 1, axis=0)), 1e-4)
        return
    with pytest.raises(ValueError, match=r"off by 1\.0e-03 of the value, more than 1e-04"):
        referee.check(np.asarray(right) * 1.001, 1e-4)
    with pytest.raises(ValueError, match="off by nan"):
        referee.check(np.asarray(right) * math.nan, 1e-4)
    if case.reduction != "mmd2":
        with pytest.raises(ValueError, match="expected 300 rows"):
            referee.check(right[:-1], 1e-4)
        elsewhere = np.array(right)
        elsewhere[1] *= 1.01  # row 1 of 300 is not among the 64 sampled
        with pytest.raises(ValueError, match="beside the others'"):
            referee.check(elsewhere, 1e-4)


def test_ratios_and_the_best_rival_come_from_the_medians(monkeypatch, clock):
    def contenders(case, x, y, with_compiled):
        seconds = {"dap": 2.0, "slow": 4.0, "quick": 3.0, "cheat": 1.0}
        result = definition(case, x, y)

        def taking(time):
            def call():
                clock[0] += time
                return result

            return call

        roles = {"dap": "dap", "cheat": "beside"}
        made = [Contender(name, taking(time), roles.get(name, "rival")) for name, time in seconds.items()]
        return made, {"other": "not\ninstalled"}

    monkeypatch.setattr("dap.bench.kernels.line_up", contenders)
    case = Case("rbf", "row_means", 70, 40, 8, threads=1)
    rows = measure(case, rounds=9)
    assert [row["contender"] for row in rows] == ["cheat", "dap", "quick", "slow", "other"]
    assert [row["ratio_to_best_rival"] for row in rows] == [3.0, 1.5, 1.0, 0.75, None]
    assert {row["best_rival"] for row in rows[:4]} == {"quick"}
    assert rows[-1]["reason"] == "not\ninstalled" and rows[-1]["rounds"] == 0
    assert "| slow | 9 | 4.00 s (4.00–4.00) | 2.00 |" in case_table(rows)
    assert "| cheat, shown beside | 9 |" in case_table(rows)
    assert "| other | 0 | not installed | |" in case_table(rows)
    assert ratio_table(rows).endswith(f"| {case} | 2.00 s (2.00–2.00) | quick | 3.00 s (3.00–3.00) | **1.50** |")


def test_what_is_not_installed_is_listed_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    rows = measure(next(case for case in QUICK if case.reduction == "nearest"), rounds=1, with_compiled=False)
    (row,) = (row for row in rows if row["contender"] == "faiss")
    assert "pip install 'dap-distill[bench]'" in row["reason"] and row["median_s"] is None


def test_a_dap_that_fails_is_listed_too(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("broken")

    monkeypatch.setattr(backend_rust, "row_sums", fail)
    rows = measure(QUICK[0], rounds=1, with_compiled=False)
    (row,) = (row for row in rows if row["contender"] == "dap")
    assert row["reason"] == "RuntimeError: broken"
    assert "RuntimeError: broken" in ratio_table(rows)


def test_dap_gets_the_threads_of_the_case(monkeypatch):
    seen = []
    for name in ("row_sums", "mean_distance", "nearest"):
        call = getattr(backend_rust, name)
        spy = lambda *a, call=call, threads, **o: seen.append(threads) or call(*a, threads=threads, **o)  # noqa: E731
        monkeypatch.setattr(backend_rust, name, spy)
    for case in QUICK[6:9]:
        case = replace(case, threads=3)
        line_up(case, *case.rows(), with_compiled=False)[0][0].call()
    assert seen == [3] * 5  # MMD² has three sums


def test_symmetric_sums_are_asked_for_as_such(monkeypatch):
    seen = []
    call = backend_rust.row_sums
    monkeypatch.setattr(backend_rust, "row_sums", lambda x, y, *a, **o: seen.append(y is None) or call(x, y, *a, **o))
    line_up(QUICK[6], *QUICK[6].rows(), with_compiled=False)[0][0].call()
    assert seen == [True, True, False]


def test_a_debug_build_is_refused(monkeypatch):
    monkeypatch.setattr("dap.bench.kernels.build_info", lambda: {"profile": "debug"})
    with pytest.raises(OptionError, match="debug"):
        measure(QUICK[0], rounds=1)


def test_torch_compile_is_a_contender_for_all_that_it_can_fuse(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)  # the expression itself, not its compiler
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    for case in (QUICK[0], QUICK[3], QUICK[7]):
        x, y = case.rows()
        referee = Referee(case, x, y)
        made = rivals_torch.compiled(case)
        assert len(made) == (2 if case.kernel == "laplacian" else 3)
        for sums in made.values():
            referee.check(sums(x, y) / case.m, 1e-4)
    assert not rivals_torch.compiled(QUICK[8])


def test_keops_gets_its_flags_and_leaves_none_behind(monkeypatch):
    import os

    seen = {}

    class Finder:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("pykeops"):
                seen[name] = os.environ["CXXFLAGS"]

    monkeypatch.setenv("CXXFLAGS", "-O2")
    monkeypatch.setenv("PYKEOPS_VERBOSE", "0")
    for name in [name for name in sys.modules if name.split(".")[0] == "pykeops"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder()])  # so that nothing is found, installed or not
    with pytest.raises(ImportError):
        rivals.keops(QUICK[0])
    assert seen == {"pykeops": "-O2 -march=native -ffast-math"}
    assert os.environ["CXXFLAGS"] == "-O2"


def test_the_peak_rises_with_what_a_call_allocates_even_under_a_large_parent():
    ballast = np.ones(40_000_000)  # 320 MB: a child that inherits this peak sees no rise of its own
    program = (
        "import json, numpy as np\n"
        "from dap.bench.memory import rise_of_peak\n"
        "print(json.dumps(rise_of_peak(lambda: np.ones(10_000_000).sum())))"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    rise, seconds = json.loads(done.stdout)
    assert 75e6 < rise < 120e6 and seconds > 0
    assert peak_bytes() > ballast.nbytes
    assert rise_of_peak(lambda: None)[0] < 1e6


def test_memory_of_row_means_is_measured_in_a_process_of_its_own():
    row = measure_memory(threads=2, quick=True)
    assert 0 < row["peak_beyond_inputs_mb"] < 200 and row["contender"] == "dap" and row["threads"] == 2


def test_the_command_prints_writes_and_plots(tmp_path):
    json_file, plot = tmp_path / "rows.json", tmp_path / "plot.svg"
    arguments = ["bench", "kernels", "--quick", "--rounds", "1", "--threads", "1"]
    done = CliRunner().invoke(dap, [*arguments, "--json", str(json_file), "--plot", str(plot)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads(json_file.read_text())
    assert all(set(REQUIRED) < set(row) for row in rows)
    ours = [row for row in rows if row["role"] == "dap"]
    assert len(ours) == 12 and not [row for row in ours if row["reason"]]
    assert not [row["reason"] for row in rows if row["reason"] and "Error" in row["reason"]]
    for row in ours[:-1]:
        rivals_of = [other for other in rows if other["role"] == "rival" and Case.of_row(other) == Case.of_row(row)]
        best = min(other["median_s"] for other in rivals_of if other["median_s"])
        assert row["ratio_to_best_rival"] == pytest.approx(best / row["median_s"])
        assert str(Case.of_row(row)) in done.output
    assert "peak memory" in done.output and "| ratio |" in done.output
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--plot", "plot.txt", "expected a file name that ends in .png, .svg or .pdf, got the suffix 'txt'"),
        ("--plot", "missing/plot.png", "there is no folder"),
        ("--json", "missing/rows.json", "there is no folder"),
    ],
)
def test_bad_files_are_refused_before_the_work(tmp_path, monkeypatch, option, value, message):
    monkeypatch.setattr("dap.bench.kernels.measure", None)
    with pytest.raises(OptionError, match=message):
        CliRunner().invoke(dap, ["bench", "kernels", option, str(tmp_path / value)], catch_exceptions=False)


def test_a_missing_library_is_one_line_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionError, match=r"--plot needs matplotlib: pip install 'dap-distill\[bench\]'"):
        draw([])
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with pytest.raises(OptionError, match=r"needs threadpoolctl: pip install 'dap-distill\[bench\]'"), equal_threads(1):
        pass


def test_the_command_line_does_not_import_the_bench():
    program = "import sys, dap.cli.main; assert not {'torch', 'dap.bench'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_examples_in_the_docstrings():
    import doctest
    import importlib

    for module in ("cases", "kernels", "memory", "race", "tables", "threads"):
        tested = doctest.testmod(importlib.import_module(f"dap.bench.{module}"))
        assert tested.failed == 0, module
