"""Commands that cannot go on, or are interrupted: one line, and what is written stays whole."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_lines import (  # noqa: F401 - fixtures
    COMMAND,
    ENVIRONMENT,
    fixture_of_quick,
    fixture_of_run,
    fixture_of_tree,
    options,
    python,
    said,
)
from test_resume import ledger_lines

BAD_OPTIONS = {
    "method": (["--method", "dapp"], "unknown method 'dapp'; did you mean 'dap'"),
    "preset": (["--method", "dap:papr"], "did you mean 'paper'"),
    "method's option": (["--set", "scal=1"], "'scal'; did you mean 'scale'"),
    "method's value": (["--set", "scale=high"], "scale takes float, got 'high'"),
    "no value": (["--set", "scale"], "expected name=value, got 'scale'"),
    "option": (["--methd", "dit"], "--methd"),
    "ipc 0": (["--ipc", 0], "ipc: expected a whole number of at least 1, got 0"),
    "ipc many": (["--ipc", "many"], "'many'"),
    "class": (["--classes", "Bag,Dres"], "unknown class 'Dres'; did you mean 'Dress'"),
    "scheduler": (["--scheduler", "dpm+"], "unknown scheduler 'dpm+'; did you mean 'dpm++'"),
    "device": (["--device", "gpu"], "device"),
    "prior": (["--prior", "/nowhere/prior"], "/nowhere/prior"),
}


@pytest.mark.parametrize(("arguments", "named"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_input_is_one_line_and_leaves_nothing_behind(run, tree, tiny_folder, tmp_path, arguments, named):
    code, out, err = run("distill", tree, *options(tiny_folder, tmp_path / "out"), *arguments)
    assert (code, out, len(err)) == (2, "", 1), err
    assert named in err[0]
    assert err[0].startswith("dap: error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["source", "out"])
def test_a_missing_argument_is_one_line(run, tree, tmp_path, missing):
    arguments = {"source": ["--out", tmp_path / "out"], "out": [tree]}[missing]
    code, out, err = run("distill", *arguments)
    assert (code, out, len(err)) == (2, "", 1), err
    assert missing in err[0].lower()


def test_an_unknown_command_is_one_line(run):
    code, out, err = run("distil", "x")
    assert (code, out, len(err)) == (2, "", 1), err
    assert "distil" in err[0]


@pytest.mark.parametrize("method", ["random", "dap"])
def test_bad_sources_are_one_line_and_leave_nothing_behind(run, tree, tiny_folder, tmp_path, method):
    damaged = Path(shutil.copytree(tree, tmp_path / "damaged"))
    (damaged / "Bag" / "2.png").write_bytes((tree / "Bag" / "2.png").read_bytes()[:100])
    unknown = Path(shutil.copytree(tree, tmp_path / "unknown"))
    (unknown / "Bag").rename(unknown / "zebra")
    (tmp_path / "empty").mkdir()
    cases = {damaged: "Bag/2.png", tmp_path / "empty": "empty", tmp_path / "nothing": "nothing"}
    cases |= {unknown: "'zebra'"} if method == "dap" else {}
    for source, named in cases.items():
        common = ["--method", method, "--ipc", 6, "--out", tmp_path / "out"]
        common += ["--prior", tiny_folder] if method == "dap" else []
        code, out, err = run("distill", source, *common)
        assert (code, out, len(err)) == (2, "", 1), err
        assert named in err[0]
        assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_one_line(run, tree, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, out, err = run("distill", tree, "--method", "random", "--out", tmp_path / "file" / "out")
    assert (code, out, len(err)) == (2, "", 1)
    assert "file" in err[0]
    assert (tmp_path / "file").read_text() == "mine"


def test_another_run_is_refused_in_one_line(run, tree, tmp_path):
    common = ["distill", tree, "--method", "random", "--ipc", 1, "--out", tmp_path / "out"]
    assert run(*common)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    code, _, err = run(*common, "--seed", 1)
    assert (code, len(err)) == (2, 1)
    assert "options.seed: there 0, now 1" in err[0]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["/nowhere", "--test", "TREE"], "/nowhere"),
        (["TREE", "--test", "/nowhere"], "/nowhere"),
        (["TREE", "--test", "fashion-mimi"], "did you mean 'fashion-mini'"),
        (["TREE", "--test", "TREE", "--protocol", "smal"], "did you mean 'small'"),
        (["TREE", "--test", "TREE", "--network", "convnet9"], "unknown network 'convnet9'; did you mean"),
        (["TREE", "--test", "TREE", "--repeats", "0"], "repeats: expected a whole number of at least 1"),
        (["TREE", "--test", "TREE", "--judge"], "judge"),
        (["TREE", "--test", "TREE", "--device", "gpu"], "device"),
        (["TREE", "--test", "TREE", "--json", "/nowhere/result.json"], "/nowhere/result.json"),
    ],
    ids=str,
)
def test_bad_evaluations_are_one_line(run, tree, quick, arguments, named):
    code, out, err = run("evaluate", *(tree if argument == "TREE" else argument for argument in arguments))
    assert (code, out, len(err)) == (2, "", 1), err
    assert named in err[0]


def test_debug_shows_where(run, tree, tmp_path):
    code, _, err = run("--debug", "distill", tree, "--out", tmp_path / "out", "--method", "dapp")
    assert code == 2
    assert err[0].startswith("Traceback")
    assert any("distill.py" in line for line in err)
    assert err[-1].startswith("dap: error: unknown method 'dapp'")


def test_an_error_of_the_process_is_one_line_too():
    ended = python(COMMAND, "distill", "/nowhere", "--out", "/nowhere/out", "--method", "random")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"dap: error: [^\n]*/nowhere[^\n]*\n", ended.stderr)


def test_interrupted_says_so_and_is_continued(run, tree, tiny_folder, tmp_path):
    units = 40
    common = ["distill", tree, "--ipc", units // 2, "--batch-size", 1]
    arguments = [str(one) for one in (*common, *options(tiny_folder, tmp_path / "out"))]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    patience = time.monotonic() + 1800
    while process.poll() is None and time.monotonic() < patience:
        if len(ledger_lines(tmp_path / "out")) >= 2:
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.005)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (130, ""), err
    assert said(err) == ["dap: interrupted; the images that are written stay; the same command makes the others"]
    assert 2 <= len(ledger_lines(tmp_path / "out")) < units
    assert not list((tmp_path / "out").rglob(".tmp-*"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("train/*/*")}
    assert run(*arguments)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert run(*common, *options(tiny_folder, tmp_path / "undisturbed"))[0] == 0
    trees = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}
        for folder in (tmp_path / "out", tmp_path / "undisturbed")
    ]
    assert trees[0] == trees[1]
    assert len(trees[0]) == units + 1


@pytest.mark.parametrize(
    ("method", "stage"),
    [
        ("mgd3", "the latents that are encoded are kept; the same command continues after them"),
        ("dap", "the features that are computed are kept; the same command continues after them"),
        ("k_medoids", "the features of the classes that were finished are kept"),
    ],
)
def test_ctrl_c_says_what_is_kept_of_a_preparation(run, tree, tiny_folder, tmp_path, monkeypatch, method, stage):
    from dap.priors.pipeline import PipelinePrior

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setenv("DAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(PipelinePrior, "encode", stop)
    ended = run("distill", tree, "--ipc", 1, "--method", method, "--prior", tiny_folder, "--out", tmp_path / "out")
    assert ended == (130, "", [f"dap: interrupted; {stage}"])
    entries = [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".unfinished"]
    assert len(entries) == (method != "k_medoids")
