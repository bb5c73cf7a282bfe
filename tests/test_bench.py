"""The benches: contenders take turns, wrong results are refused, the report reads what pytest-benchmark wrote."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHES = Path(__file__).parents[1] / "benches"
sys.path.insert(0, str(BENCHES))

import machine  # noqa: E402
import report  # noqa: E402
import turns  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the rivals'


def load(name):
    """A module of benches under a name of its own: tests have a conftest too."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", BENCHES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the contenders move, and who was called in which order."""
    monkeypatch.setattr(turns, "PAUSE_SECONDS", 0)
    now, order = [0.0], []

    def taking(name, *seconds):
        waits = iter(seconds)

        def call():
            order.append(name)
            now[0] += next(waits)

        return call

    return lambda: now[0], taking, order


def test_contenders_take_turns_forwards_and_backwards(clock):
    read, taking, order = clock
    calls = {"a": taking("a", 1, 2, 3), "b": taking("b", 2, 2, 2), "c": taking("c", 3, 1, 4)}
    seconds = turns.take_turns(calls, min_rounds=3, max_time=0.0, clock=read)
    assert order == list("abccbaabc")
    assert seconds == {"a": [1, 2, 3], "b": [2, 2, 2], "c": [3, 1, 4]}


def test_a_slow_contender_leaves_after_the_first_round(clock):
    read, taking, _ = clock
    calls = {"quick": taking("q", 0.5, 0.5, 0.5), "fair": taking("f", 2.5, 2.5, 2.5), "lost": taking("l", 2.6)}
    seconds = turns.take_turns(calls, min_rounds=3, max_time=0.0, clock=read)
    assert {name: len(times) for name, times in seconds.items()} == {"quick": 3, "fair": 3, "lost": 1}


@pytest.mark.parametrize(("each", "rounds"), [(0.3, 5), (0.1, 10), (0.001, 15)])
def test_quick_contenders_get_more_rounds(clock, each, rounds):
    read, taking, _ = clock
    seconds = turns.take_turns({"a": taking("a", *[each] * 15)}, min_rounds=5, max_time=1.01, clock=read)
    assert len(seconds["a"]) == rounds


def test_threads_are_equal_inside_and_as_before_outside():
    before = torch.get_num_threads()
    with turns.equal_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
    assert turns.thread_count() >= 1


PLUGIN = """
from turns import Contender, Group
ORDER = open("order", "a")


def says(name, result):
    def call(data):
        ORDER.write(name + " ")
        ORDER.flush()
        if result is None:
            raise ImportError("No module named 'rival'")
        return result

    return call


def check(data, result, rtol):
    if result != data:
        raise ValueError(f"{result} is not {data}")


def groups(quick):
    assert quick is QUICK
    contenders = {
        "dap": Contender(says("dap", 4), "dap"),
        "right": Contender(says("right", 4)),
        "wrong": Contender(says("wrong", 5)),
        "missing": Contender(says("missing", None)),
        "bare": Contender(says("bare", 0), "limit"),
    }
    return [Group("sum, 2 × 2", lambda: 4, contenders, check)]


def test_sum(take_turns, group, contender):
    take_turns(group, contender)
"""


def run(folder, *options, quick=False):
    for name in ("conftest", "turns", "machine"):
        shutil.copy(BENCHES / f"{name}.py", folder)
    (folder / "test_bench_sum.py").write_text(PLUGIN.replace("QUICK", str(quick)))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rA",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--benchmark-json=o.json",
        *options,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True).stdout


def test_the_plug_in_feeds_pytest_benchmark_from_turns(tmp_path):
    output = run(tmp_path, "--benchmark-only", "--benchmark-min-rounds=4", "--benchmark-max-time=0")
    assert "3 passed" in output and "1 failed" in output and "1 skipped" in output, output
    assert "ValueError: 5 is not 4" in output
    assert "No module named 'rival': pip install '.[bench]'" in output
    warm_up, rounds = "dap right wrong missing bare", ["dap right bare", "bare right dap"] * 2
    assert (tmp_path / "order").read_text().split() == " ".join([warm_up, *rounds]).split()
    rows = {row["extra_info"]["contender"]: row for row in json.loads((tmp_path / "o.json").read_text())["benchmarks"]}
    assert set(rows) == {"dap", "right", "bare"} and {row["group"] for row in rows.values()} == {"sum, 2 × 2"}
    for row in rows.values():
        facts, stats = row["extra_info"], row["stats"]
        assert stats["rounds"] == 4 and 0 < stats["median"] < 1
        assert facts["share_of_limit"] == pytest.approx(rows["bare"]["stats"]["median"] / stats["median"])
        assert facts["cpu"] and facts["threads"] >= 1 and facts["avx512"] in ("full", "half", "none", "unknown")
        assert facts["build"]["profile"] == "release" and isinstance(facts["flags"], list)
    assert "| sum, 2 × 2 | " in report.summary(report.read([tmp_path / "o.json"]))


def test_one_contender_can_be_run_alone_and_quickly(tmp_path):
    output = run(tmp_path, "--quick", "-k", "right", quick=True)
    assert "1 passed" in output, output
    assert (tmp_path / "order").read_text().split() == ["right", "right"]


def test_without_timing_each_result_is_checked_once(tmp_path):
    output = run(tmp_path, "--benchmark-disable")
    assert "3 passed" in output and "1 failed" in output, output
    assert (tmp_path / "order").read_text().split() == ["dap", "right", "wrong", "missing", "bare"]


def test_a_debug_build_is_refused(monkeypatch):
    conftest = load("conftest")
    monkeypatch.setattr(conftest._core, "build_info", lambda: {"profile": "debug"})
    with pytest.raises(pytest.UsageError, match="debug build"):
        conftest.pytest_configure(None)


def every_group():
    files = ("batches", "guided_step", "images", "index", "kernels", "selection", "tar")
    groups = [group for file in files for group in load(f"test_bench_{file}").groups(quick=True)]
    return {group.name: group for group in groups}


GROUPS = every_group()


@pytest.mark.parametrize("group", GROUPS.values(), ids=[name.replace("×", "x") for name in GROUPS])
def test_every_check_refuses_a_wrong_result(group):
    (ours,) = [contender for contender in group.contenders.values() if contender.role == "dap"]
    data = group.prepare()
    result = ours.call(data)
    group.check(data, result, ours.rtol)
    with pytest.raises(ValueError, match=r"off by|first|other|others|outside|not those|guidance|apart"):
        group.check(data, wrong(group.name, result), ours.rtol)


def wrong(task, result):
    if isinstance(result, Path):  # a tar: the first byte of the first image
        data = bytearray(result.read_bytes())
        data[3 * 512] ^= 1
        result.write_bytes(data)
        return result
    if task.startswith(("k-means", "herding")):
        return result[::-1] * 0
    if isinstance(result, tuple):  # distances and indices
        return result[0], torch.as_tensor(result[1]).roll(1, 0)
    if isinstance(result, list):
        return result[::-1] if isinstance(result[0], bytes) else [altered(item) for item in result]
    return result * 1.01


def altered(item):
    return item + 2.0 if isinstance(item, float) else np.asarray(item) ^ 4


def test_no_rival_is_forgotten():
    kernels = load("test_bench_kernels")
    names = {name for group in kernels.groups(quick=True) for name in group.contenders}
    assert names >= {
        "dap rust",
        "dap torch",
        "dap numpy",
        "torch.cdist",
        "numpy",
        "scikit-learn",
        "SciPy cdist",
        "faiss",
    }
    assert {"KeOps", "torch.compile"} <= {name for group in kernels.groups(quick=False) for name in group.contenders}
    names = {name for group in GROUPS.values() for name in group.contenders}
    assert names >= {"faiss Flat", "OpenCV", "torchvision.io", "Pillow", "simplejpeg", "webdataset", "ImageFolder"}


@pytest.mark.parametrize(
    ("wide", "narrow", "rate"), [(110.0, 60.0, "full"), (66.0, 60.0, "half"), (None, 60.0, "unknown")]
)
def test_the_rate_of_512_bit_products_is_measured(monkeypatch, wide, narrow, rate):
    monkeypatch.setattr(machine, "_sgemm", {"SkylakeX": wide, "Haswell": narrow}.get)
    assert machine.avx512_rate(["avx2", "avx512f"]) == rate
    assert machine.avx512_rate(["avx2"]) == "none"


def row(contender, role, seconds, share=None, group="rbf"):
    facts = {"contender": contender, "role": role, "share_of_limit": share, "cpu": "Fast", "family": 25, "model": 17}
    facts |= {"avx512": "half", "threads": 2, "load": 0.1, "versions": {"torch": "2.15", "pykeops": None}}
    facts["build"] = {"version": "0.1.0", "profile": "release", "simd": "avx512"}
    stats = {"median": seconds, "q1": 0.9 * seconds, "q3": 1.1 * seconds, "rounds": 9}
    return {"group": group, "fullname": "benches/test_bench_kernels.py::x", "extra_info": facts, "stats": stats}


ROWS = [
    row("dap rust", "dap", 0.02, 0.5),
    row("slow", "rival", 0.1, 0.1),
    row("best", "rival", 0.03, 0.33),
    row("dap torch", "beside", 0.005, 2.0),
    row("product", "limit", 0.01, 1.0),
    row("dap rust", "dap", 2.0, group="alone"),
]


def test_the_report_has_the_best_rival_and_the_share_of_the_limit(tmp_path, capsys, monkeypatch):
    (tmp_path / "o.json").write_text(json.dumps({"benchmarks": ROWS}))
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "o.json"), "--plot", str(tmp_path / "plot.svg")])
    report.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Fast (family 25, model 17, AVX-512 half), 2 threads") and "pykeops" not in lines[0]
    assert "| rbf | 20.0 ms (18.0–22.0) | best | 30.0 ms (27.0–33.0) | **1.50** | 50% |" in lines
    assert "| alone | 2.00 s (1.80–2.20) |  |  |  |  |" in lines
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
    assert not report.read([tmp_path / "o.json"], "selection")


def test_the_plan_of_a_large_prior_knows_every_method():
    scale = load("scale")
    prior = scale.DiTPrior(scale.pipeline(64, scale.shaped, tiny=True), name="tiny")
    given = scale.context(prior)
    for name, options in scale.METHODS.items():
        demands = scale.get_method(name.split(",")[0], options).demands(given)
        assert scale.step_operations(prior, name, demands, given) > 0
