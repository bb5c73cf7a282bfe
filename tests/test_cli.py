"""The command line does what the functions do, and shows it."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_lines import (  # noqa: F401 - fixtures
    fixture_of_quick,
    fixture_of_run,
    fixture_of_tree,
    options,
)
from PIL import Image

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
from dap.data.ways_out import argument
from dap.evaluation import EvaluationResult, Row, paired_difference
from dap.evaluation.run import PROTOCOLS
from dap.priors.schedulers import SCHEDULERS
from dap.priors.stable_diffusion import StableDiffusionPrior
from dap.priors.stable_diffusion_xl import StableDiffusionXLPrior
from dap.sampling.named import SAMPLINGS
from dap.sampling.settings import SPACINGS
from dap.storage import file_states


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
    taken = (StableDiffusionPrior.__init__, StableDiffusionXLPrior.__init__, StableDiffusionPrior.from_pretrained)
    parameters = [parameter for kind in taken for parameter in inspect.signature(kind).parameters.values()]
    texts = {parameter.name for parameter in parameters if parameter.annotation in ("str", "str | None")}
    assert set(values.PRIOR_TEXTS) == texts - {"name"} | {"concepts"}
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


def test_a_message_names_only_sources_that_their_name_opens(tmp_path):
    (tmp_path / "x.parquet").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos (1)").mkdir()
    for name in (f"{tmp_path}/photos (1)", f"{tmp_path}/x.parquet", "t-*.parquet", "t-{0..3}.tar", "org/name"):
        assert argument(name) == repr(name)
    for name in (f"{tmp_path}/x.parquet (fine)", "org/name (fine)", "TensorDataset", "x" * 300):
        assert argument(name) == "source"


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
    assert caplog.messages == [
        "these options change nothing with method 'random', which uses no prior: prior, guidance_scale"
    ]


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
