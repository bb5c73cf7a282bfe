"""The command line, in this process where that says the same, and in its own where it does not."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_resume import ledger_lines

import dap
from dap import api, device
from dap.bar import progress_bar
from dap.cli import rerun, values
from dap.cli.classes import choose_classes
from dap.cli.distill import distill
from dap.cli.evaluate import evaluate
from dap.cli.main import main
from dap.cli.pack import FORMATS
from dap.data import packing
from dap.data.manifest import verify_files
from dap.evaluation import EvaluationResult, Row, Small, paired_difference
from dap.evaluation.run import PROTOCOLS
from dap.priors.schedulers import SCHEDULERS
from dap.sampling.named import SAMPLINGS
from dap.sampling.settings import SPACINGS
from dap.storage import file_states

# a shell's background job ignores SIGINT, and its children with it
COMMAND = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "from dap.cli.main import main; main()"
)  # fmt: skip
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(dap.__file__).parents[1])}
ROOT = Path(__file__).parents[1]
PROGRESS = re.compile(r"\d+%\||\dit/s|s/it")


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=1800, env=ENVIRONMENT, check=False,
    )  # fmt: skip


def said(text):
    """The lines that are no progress bar's."""
    return [line for line in re.split(r"[\r\n]+", text) if line.strip() and not PROGRESS.search(line)]


@pytest.fixture
def run(command_line):
    """Runs ``dap`` with these arguments; returns exit code, standard output, and what standard error says."""

    def call(*arguments):
        code, out, err = command_line(*arguments)
        return code, out, said(err)

    return call


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes of six grey 16 x 16 images: light and dark noise."""
    folder = tmp_path_factory.mktemp("tree")
    draw = np.random.default_rng(0)
    for name, low in (("Bag", 0), ("Dress", 128)):
        (folder / name).mkdir()
        for number in range(6):
            pixels = draw.integers(low, low + 128, (16, 16), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "small", Small(width=4, few_steps=10))


def options(tiny_folder, out):
    return ["--out", out, "--prior", tiny_folder, "--num-inference-steps", 4, "--set", "references=2"]


def test_version(run):
    assert run("--version") == (0, f"dap, version {dap.__version__}\n", [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help"], ["distill", "evaluate", "info", "--debug", "--version"]),
        (["-h"], ["distill", "evaluate", "info"]),
        (
            ["distill", "--help"],
            ["SOURCE", "--out", "--method", "--ipc", "--seed", "--prior", "--classes", "--batch-size", "--set",
             "--num-inference-steps", "--guidance-scale", "--sampling", "--scheduler", "--timestep-spacing", "--eta",
             "--device", "--dtype", "--tf32"],
        ),
        (["evaluate", "--help"], ["--test", "--real", "--protocol", "--repeats", "--seed", "--judge", "--json"]),
        (["info", "--help"], ["versions", "Rust"]),
    ],
    ids=str,
)  # fmt: skip
def test_help_names_every_option(run, arguments, words):
    code, out, err = run(*arguments)
    assert (code, err) == (0, [])
    assert [word for word in words if word not in out] == []


def test_defaults_are_those_of_the_function():
    for command, function in ((distill, api.distill), (evaluate, api.evaluate)):
        ours = {parameter.name: parameter.default for parameter in command.params}
        theirs = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
        shared = [name for name in ours if name in theirs and theirs[name] is not inspect.Parameter.empty]
        assert len(shared) > 5
        for name in shared:
            assert ours[name] == theirs[name] or not isinstance(ours[name], int | float | str | tuple | bool), name


def test_info_shows_build_and_versions(run):
    code, out, err = run("info")
    assert (code, err) == (0, [])
    rows = dict(re.split(r"\s{2,}|(?<=^.{16})\s", line, maxsplit=1) for line in out.splitlines())
    assert rows["core version"] == dap.__version__
    assert rows["core profile"] in ("release", "debug")
    assert rows["core simd"]
    for package in ("torch", "diffusers", "timm", "numpy", "safetensors", "Pillow"):
        assert re.match(r"\d+\.", rows[package])
    assert rows["python"].startswith("3.")
    assert int(rows["cpu threads"]) >= 1
    assert rows["gpus"]


@pytest.mark.parametrize("group", [[], ["cache"], ["index"], ["prior"]], ids=str)
def test_without_a_command_the_help_is_shown(run, group):
    assert run(*group) == run(*group, "--help")
    assert run(*group)[1].count("\n") > 5


def test_names_that_are_checked_before_torch_is_imported_are_those_of_the_tables():
    assert set(values.METHODS) == {method.name for method in dap.list_methods()}
    assert set(values.SCHEDULERS) == set(SCHEDULERS)
    assert set(values.SAMPLINGS) == set(SAMPLINGS)
    assert set(values.SPACINGS) == set(SPACINGS)
    assert {*values.DTYPES, "float64"} == {str(dtype)[6:] for dtype in device.DTYPES}
    assert set(values.TRAINING_DTYPES) == {str(dtype)[6:] for dtype in device.TRAINING_DTYPES}
    assert set(values.PRIORS) == set(dap.priors.BUILTIN)
    assert list(values.NETWORKS) == dap.list_networks()
    assert set(values.PROTOCOLS) == set(PROTOCOLS)
    assert set(FORMATS) == set(packing.FORMATS)


@pytest.mark.parametrize(
    ("texts", "chosen"),
    [
        ([], None),
        (["dog,cat"], ["dog", "cat"]),
        (["dog , cat "], ["dog", "cat"]),
        (["tench, Tinca tinca"], ["tench, Tinca tinca"]),
        (["dog,tench, Tinca tinca,cat"], ["dog", "tench, Tinca tinca", "cat"]),
        (["tench, Tinca tinca", "dog"], ["tench, Tinca tinca", "dog"]),
        ([" blank,dog"], [" blank", "dog"]),
    ],
    ids=str,
)
def test_classes_may_have_commas_and_blanks(texts, chosen):
    assert choose_classes(texts, ("dog", "cat", "tench, Tinca tinca", "tench", " blank")) == chosen


def test_classes_with_commas_are_distilled(run, tree, tmp_path):
    source = Path(shutil.copytree(tree, tmp_path / "source"))
    (source / "Bag").rename(source / "bag, purse")
    common = ["distill", source, "--method", "random", "--ipc", 1]
    assert run(*common, "--out", tmp_path / "a", "--classes", "Dress, bag, purse")[0] == 0
    assert dap.load(tmp_path / "a").class_names == ("Dress", "bag, purse")
    assert run(*common, "--out", tmp_path / "b", "--classes", "bag, purse")[0] == 0
    assert dap.load(tmp_path / "b").class_names == ("bag, purse",)


def test_the_label_column_is_chosen(run, tree, tmp_path):
    data = (tree / "Bag" / "0.png").read_bytes()
    columns = {"image": [data] * 2, "fine": [0, 1], "coarse": [7, 7]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    common = ["distill", tmp_path / "x.parquet", "--method", "random", "--ipc", 1, "--label-column"]
    for column, names in (("fine", ("0", "1")), ("coarse", ("7",))):
        assert run(*common, column, "--out", tmp_path / column)[0] == 0
        assert dap.load(tmp_path / column).class_names == names
    assert (
        run("pack", tmp_path / "x.parquet", "--to", "webdataset", "--out", tmp_path / "p", "--label-column", "fine")[0]
        == 0
    )
    assert dap.load(tmp_path / "p").class_names == ("0", "1")


def test_options_of_the_prior_are_named_where_there_is_none(run, tree, tmp_path, caplog):
    common = ["distill", tree, "--method", "random", "--ipc", 1, "--out"]
    assert run(*common, tmp_path / "b")[0] == 0
    assert caplog.messages == []
    assert run(*common, tmp_path / "a", "--prior", "my/prior", "--guidance-scale", 2)[0] == 0
    assert caplog.messages == ["method 'random' uses no prior, so these options change nothing: prior, guidance_scale"]


def test_a_finished_run_is_found_without_its_prior(run, monkeypatch, tree, tiny_folder, tmp_path):
    prior = Path(shutil.copytree(tiny_folder, tmp_path / "prior"))
    command = ["distill", tree, "--ipc", 1, *options(prior, tmp_path / "out")]
    assert run(*command)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(api, "distill", lambda *_, **__: 1 / 0)
        code, out, err = run(*command)
        assert (code, err) == (0, [])
        assert out.startswith(f"2 images in {tmp_path}/out/train, complete already; ")
        for change in (["--seed", 1], ["--classes", "Bag"], ["--set", "scale=1"], ["--batch-size", 1]):
            with pytest.raises(ZeroDivisionError):
                run(*command, *change)
        (tree / "Bag" / "new.png").write_bytes((tree / "Bag" / "0.png").read_bytes())
        with pytest.raises(ZeroDivisionError):
            run(*command)
        (tree / "Bag" / "new.png").unlink()
        assert run(*command)[0] == 0
        os.utime(prior / "model_index.json")
        with pytest.raises(ZeroDivisionError):
            run(*command)
    assert run(*command)[0] == 0
    image = tmp_path / "out" / "train" / "Bag" / "00000.png"
    image.write_bytes(b"other")
    code, _, err = run(*command)
    assert (code, len(err)) == (2, 1)
    assert "its bytes are not those that the manifest records" in err[0]
    image.unlink()
    assert run(*command)[0] == 0
    assert image.is_file()


def test_nothing_of_a_bar_is_written_where_nobody_watches(command_line, tree, tiny_folder, tmp_path):
    code, _, err = command_line("distill", tree, "--ipc", 1, *options(tiny_folder, tmp_path / "out"))
    assert (code, err) == (0, "")


def test_a_bar_is_shown_in_a_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar("title", total=2, unit="step") as bar:
        bar.update(2)
    assert "title: 100%" in terminal.getvalue()


ROWS = (
    Row("random real", "convnet3", 20, (70.0, 72.0), (70.0, 72.0), None),
    Row("a × b", "convnet3", 20, (75.0, 74.0), (75.0, 74.0), paired_difference((75.0, 74.0), (70.0, 72.0))),
)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437", "utf-8"])
def test_any_console_takes_the_table(monkeypatch, tree, tmp_path, encoding):
    monkeypatch.setattr(api, "evaluate", lambda *_, **__: EvaluationResult("small", 0, 2, 9, ("−", "日本"), ROWS))
    console = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", console)
    arguments = ["evaluate", tree, "--test", tree, "--json", tmp_path / "result.json"]
    monkeypatch.setattr(sys, "argv", ["dap", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    console.flush()
    assert ended.value.code == 0
    assert "a x b" in console.buffer.getvalue().decode(encoding).replace("×", "x")
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["class_names"] == ["−", "日本"]


def test_a_result_is_written_before_it_is_shown(monkeypatch, command_line, tree, tmp_path):
    monkeypatch.setattr(api, "evaluate", lambda *_, **__: EvaluationResult("small", 0, 2, 9, ("a", "b"), ROWS))
    monkeypatch.setattr(EvaluationResult, "table", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command_line("evaluate", tree, "--test", tree, "--json", tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text())["repeats"] == 2


def test_distill_does_what_the_function_does(run, tree, tiny_folder, tmp_path):
    code, out, err = run(
        "distill", tree, *options(tiny_folder, tmp_path / "a"), "--ipc", 2, "--seed", 7, "--batch-size", 3,
        "--classes", "Bag,Dress", "--set", "scale=0.5", "--set", "noise=shared",
        "--set", 'kernel={"name": "rbf", "bandwidth": 3.0}',
        "--guidance-scale", 2, "--scheduler", "ddim", "--eta", 0.5, "--device", "cpu",
    )  # fmt: skip
    assert (code, err) == (0, [])
    assert re.fullmatch(rf"4 images in {re.escape(str(tmp_path))}/a/train, \d+ s; see .*\n", out)
    expected = dap.distill(
        tree, out=tmp_path / "b", prior=str(tiny_folder), ipc=2, seed=7, batch_size=3, num_inference_steps=4,
        method=dap.methods.DAP(scale=0.5, noise="shared", kernel={"name": "rbf", "bandwidth": 3.0}, references=2),
        guidance_scale=2.0, scheduler="ddim", eta=0.5, device="cpu", progress=False,
    )  # fmt: skip
    found = dap.load(tmp_path / "a").manifest
    assert {**found, "seconds": 0} == {**expected.manifest, "seconds": 0}
    assert found["options"]["method"]["kernel"] == {"name": "rbf", "bandwidth": 3.0}
    assert found["options"]["sampling"]["eta"] == 0.5


def test_ipc_may_name_classes_and_an_image_is_made_again(run, monkeypatch, tree, tiny_folder, tmp_path):
    command = ["distill", tree, "--ipc", 2, "--ipc", "Dress=1", "--method", "dit", "--num-inference-steps", 1]
    command += ["--prior", tiny_folder, "--device", "cpu", "--out", tmp_path / "out"]
    assert run(*command)[1].startswith(f"3 images in {tmp_path}/out/train, ")
    assert dap.load(tmp_path / "out").manifest["ipc"] == {"Bag": 2, "Dress": 1}
    image = tmp_path / "out" / "train" / "Bag" / "00001.png"
    found = {image.read_bytes()}
    for made in (2, 3):  # each time another
        assert run(*command, "--remake", "Bag/1")[1].startswith(f"3 images in {tmp_path}/out/train, ")
        found.add(image.read_bytes())
        assert len(found) == made
    monkeypatch.setattr(api, "distill", lambda *_, **__: 1 / 0)
    assert run(*command)[1].startswith(f"3 images in {tmp_path}/out/train, complete already; ")


def test_images_are_known_by_the_states_of_their_files(run, monkeypatch, tree, tmp_path):
    command = ["distill", tree, "--method", "random", "--ipc", 1, "--out", tmp_path / "out"]
    monkeypatch.setattr(file_states, "YOUNG", -(10**12))
    read = []
    monkeypatch.setattr(rerun, "verify_files", lambda out, files: read.append(len(files)) or verify_files(out, files))
    for _ in range(3):
        run(*command)
    assert read == [2, 0]  # the first call made them
    os.utime(tmp_path / "out" / "train" / "Bag" / "00000.png")
    run(*command)
    assert read == [2, 0, 2]


def test_evaluate_prints_a_table_and_writes_json(run, tree, tmp_path, quick):
    assert run("distill", tree, "--out", tmp_path / "out", "--method", "random", "--ipc", 2)[0] == 0
    json_file = tmp_path / "result.json"
    arguments = ["--test", tree, "--real", tree, "--repeats", 2, "--device", "cpu", "--json", json_file]
    code, out, err = run("evaluate", tmp_path / "out", *arguments)
    assert (code, err) == (0, [])
    assert out.startswith("protocol small: accuracy in % on 12 test images of 2 classes")
    result = json.loads(json_file.read_text())
    rows = {row["set_name"]: row for row in result["rows"]}
    assert list(rows) == ["random real", "distilled"]
    assert (result["repeats"], result["test_images"], result["class_names"]) == (2, 12, ["Bag", "Dress"])
    for name, row in rows.items():
        assert len(row["last"]) == 2
        assert row["images"] == 4
        assert f"{row['last_summary']['mean']:.1f}" in next(line for line in out.splitlines() if line.startswith(name))
    assert result == json.loads(api.evaluate(tmp_path / "out", tree, real=tree, repeats=2, device="cpu").to_json())


def test_evaluate_takes_any_folder_of_classes(run, tree, quick):
    code, out, err = run("evaluate", tree, "--test", tree, "--repeats", 1, "--device", "cpu")
    assert (code, err) == (0, [])
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["distilled"]


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
    units = 16
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


@pytest.mark.parametrize(
    "imports, heavy",
    [
        ("from dap.cli.main import main; dir(dap)", ["torch", "diffusers", "timm", "PIL", "datasets"]),
        ("dap.distill, dap.evaluate, dap.load", ["diffusers", "transformers", "timm", "torchvision", "datasets"]),
    ],
)
def test_import_is_light(imports, heavy):
    ended = python(f"import sys, dap; {imports}; print([name for name in {heavy} if name in sys.modules])")
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_the_face_of_the_package():
    names = dir(dap)
    assert {"distill", "evaluate", "load", "list_methods", "DistilledDataset", "methods", "metrics"} <= set(names)
    assert [name for name in names if getattr(dap, name) is None] == []
    assert {"random", "herding", "dit", "dap", "dap_set"} <= {method.name for method in dap.list_methods()}
    assert "linear" in dap.list_kernels()
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", dap.__version__)
    with pytest.raises(AttributeError, match="module 'dap' has no attribute 'distil'"):
        _ = dap.distil


def test_what_the_docs_name_is_there_after_import_dap():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    names = sorted(set(re.findall(r"\bdap\.[a-z_]\w*(?:\.\w+)*", text)) - {"dap.json", "dap.methods.mine"})
    modules = ["data", "evaluation", "features", "index", "nets", "priors", "rng", "sampling", "selection", "training"]
    code = "import sys, dap\nfor name in sys.argv[1:]: eval(name)\nprint(len(sys.argv))"
    assert {"dap.priors.dit.DiTPrior", "dap.rng.generator"} <= set(names)
    names = [f"dap.{module}" for module in modules] + names
    ended = python(code, *names)
    assert (ended.stdout, ended.stderr) == (f"{len(names) + 1}\n", "")


@pytest.mark.parametrize("name", ["distill", "evaluate", "load", "list_methods", "register_method", "list_kernels"])
def test_functions_of_the_package_stay_functions(name):
    assert callable(getattr(dap, name))
    assert getattr(dap, name) is getattr(dap, name)


def test_a_class_that_the_prior_does_not_know_gets_a_label(command_line, tmp_path):
    """The same images as under the label's own name, where they depend on nothing else."""
    for name in ("anorak", "Bag"):
        folder = tmp_path / "photographs" / name
        folder.mkdir(parents=True)
        Image.new("L", (32, 32), 90).save(folder / "0.png")
    settings = ["--method", "dit", "--ipc", 1, "--num-inference-steps", 3]
    code, _, err = command_line("distill", tmp_path / "photographs", "--out", tmp_path / "a", *settings)
    assert code != 0 and "does not know 1 of 2 classes" in err and "(--label;" in err
    code, _, err = command_line(
        "distill", tmp_path / "photographs", "--out", tmp_path / "a", *settings, "--label", "anorak=Coat"
    )
    assert code == 0, err
    found = {entry["name"]: entry["prior_label"] for entry in dap.load(tmp_path / "a").manifest["class_map"]}
    assert found == {"anorak": 4, "Bag": 8}
    code, _, err = command_line(
        "distill", tmp_path / "photographs", "--out", tmp_path / "b", *settings, "--label", "anorak"
    )
    assert code != 0 and "expected CLASS=LABEL" in err
    code, _, err = command_line(
        "index", "build", tmp_path / "photographs", "--out", tmp_path / "index", "--num-inference-steps", 3,
        "--timesteps", 1, "--label", "anorak=4",
    )  # fmt: skip
    assert code == 0, err
    code, _, err = command_line("distill", "--index", tmp_path / "index", "--out", tmp_path / "c", *settings[2:])
    assert code == 0, err
    code, _, err = command_line(
        "distill", "--index", tmp_path / "index", "--out", tmp_path / "d", *settings[2:], "--label", "anorak=Coat"
    )
    assert code != 0 and "label_map: the index has the labels that it was made with" in err
