"""What people meet on the command line: examples, quiet, JSON, configuration files, what comes next."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import yaml
from PIL import Image

import dap
from dap.bar import progress_bar
from dap.cli import command
from dap.cli.command import Command
from dap.cli.distill import distill
from dap.cli.main import dap as root
from dap.cli.values import METHODS
from dap.methods.common.summaries import COSTS, SUMMARIES
from dap.storage.cache import cache_folder


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, leaf in group.commands.items():
        if isinstance(leaf, click.Group):
            yield from commands(leaf, (*path, name))
        else:
            yield " ".join((*path, name)), leaf


LEAVES = dict(commands(root))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for number, name in enumerate(("Bag", "Dress")):
        (tmp_path / "my photos" / name).mkdir(parents=True)
        for image in range(3):
            Image.new("L", (8, 8), 100 * number + image).save(tmp_path / "my photos" / name / f"{image}.png")
    return tmp_path / "my photos"


@pytest.mark.parametrize("name", LEAVES)
def test_help_has_examples_that_can_be_read(name: str, command_line) -> None:
    leaf = LEAVES[name]
    assert isinstance(leaf, Command) and leaf.examples
    shown = command_line(*name.split(), "--help")[1]
    for example in leaf.examples:
        assert f"\n  {example}\n" in shown and len(example) < 119
        words = [word for word in shlex.split(example) if not word.startswith("DAP_")]
        assert words[: 1 + len(name.split())] == ["dap", *name.split()]
        given = leaf.make_parser(click.Context(leaf)).parse_args(words[1 + len(name.split()) :])[0]
        for option in leaf.params:
            if option.required and "config" not in given:
                assert given[option.name], (example, option.name)


@pytest.mark.parametrize("name", LEAVES)
def test_no_option_is_without_help(name: str) -> None:
    for option in LEAVES[name].params:
        if isinstance(option, click.Option):
            assert option.help and option.help.endswith(".") and not option.help.startswith("Of "), option


@pytest.mark.parametrize("name", [name for name in LEAVES if name != "slurm"])  # which prints a script
def test_every_command_has_json_and_can_be_quiet(name: str) -> None:
    assert {"--json", "--quiet", "--verbose"} <= {word for option in LEAVES[name].params for word in option.opts}


def test_the_root_tells_how_commands_are_completed(command_line) -> None:
    assert '"$(_DAP_COMPLETE=bash_source dap)"' in " ".join(command_line("--help")[1].split())


def test_verbose_says_what_is_kept(tree: Path, tmp_path: Path, command_line, caplog) -> None:
    before = logging.getLogger("dap").level
    assert command_line("cache", "info", "-v")[0] == 0 and logging.getLogger("dap").level == before
    levels = []

    folder = cache_folder

    def note() -> Path:
        levels.append(logging.getLogger("dap").level)
        return folder()

    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr("dap.storage.cache.cache_folder", note)
        command_line("cache", "info", "-v")
    assert levels and set(levels) == {logging.INFO}


@pytest.fixture
def own_method(tmp_path: Path, monkeypatch, own_tables) -> Iterator[Path]:
    """A folder with a module whose method chooses the first real images."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "first_images.py").write_text(OWN)
    monkeypatch.chdir(tmp_path / "own")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "own"
    sys.modules.pop("first_images", None)


OWN = """
from dataclasses import dataclass
from dap.methods import Method, register_method


@register_method
@dataclass(frozen=True)
class First(Method):
    name, paper, year, needs, couples, presets = "first_images", "none", None, ("labels",), "slot", {}

    def prepare(self, context):
        return None

    def make(self, context, unit, artefact):
        source = context.source
        chosen = [source.of_class(source.class_names.index(context.classes[slot.class_index].name))[slot.number]
                  for slot in unit.slots]
        return context.images(chosen)

    def record(self, context, artefact):
        return {}
"""


@pytest.mark.parametrize("module", ["first_images", "first_images.py"])
def test_a_method_of_ones_own(module: str, own_method: Path, tree: Path, tmp_path: Path, command_line) -> None:
    assert "unknown method" in command_line("distill", tree, "--method", "first_images", "--out", tmp_path / "x")[2]
    code, _, said = command_line(
        "distill", tree, "--import", module, "--method", "first_images", "--ipc", 2, "--out", tmp_path / "own-run"
    )
    assert (code, said) == (0, "")
    made = dap.load(tmp_path / "own-run")
    assert made.manifest["options"]["method"] == {"name": "first_images"} and len(made) == 4
    assert made.source.load(1).tobytes() == Image.open(tree / "Bag" / "1.png").tobytes()
    assert "first_images" in command_line("methods", "--import", module)[1]
    config = own_method / "run.yaml"
    config.write_text(f"import: {module}\nmethod: first_images\nipc: 2\n")
    again = command_line("distill", tree, "--config", config, "--out", tmp_path / "own-run")
    assert again[0] == 0 and "4 images" in again[1]


def test_init_writes_a_file_that_distill_takes(tree: Path, tmp_path: Path, command_line, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, shown, _ = command_line("init", tree, "--yes", "--ipc", 2, "--prior", "none", "--out", "out")
    assert (code, shown) == (0, "run.yaml is written; next: dap distill --config run.yaml\n")
    content = yaml.safe_load(Path("run.yaml").read_text())
    assert content == {
        "source": str(tree), "out": "out", "method": "k_medoids", "ipc": 2, "seed": 0, "device": content["device"],
    }  # fmt: skip
    assert command_line("distill", "--config", "run.yaml")[0] == 0 and len(dap.load("out")) == 4
    assert "is there already" in command_line("init", tree, "--yes")[2]
    assert json.loads(command_line("init", tree, "--yes", "--file", "b.yaml", "--json", "-")[1])["options"]["prior"]
    assert yaml.safe_load(Path("b.yaml").read_text())["method"] == "dap_set"  # fashion-dit knows Bag and Dress


def test_init_asks_again_after_an_answer_that_is_wrong(tree: Path, tmp_path: Path, command_line, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    answers = iter(["nosuch", str(tree), "Bg", "Bag", "", "medoids", "random", "0", "3", "cpu", "new"])
    monkeypatch.setattr("dap.cli.init.sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setattr(click, "prompt", lambda text, default, err: next(answers) or default)
    code, _, said = command_line("init")
    assert code == 0 and next(answers, None) is None
    for words in ("cannot open the source 'nosuch'", "6 images of 2 classes", "unknown class", "fashion-dit knows all",
                  "did you mean 'k_medoids'", "expected a whole number"):  # fmt: skip
        assert words in said
    assert yaml.safe_load(Path("run.yaml").read_text()) == {
        "source": str(tree), "out": "new", "method": "random", "ipc": 3, "seed": 0, "device": "cpu",
        "classes": ["Bag"], "prior": "fashion-dit",
    }  # fmt: skip


def test_python_m_dap(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "dap"]
    assert (
        subprocess.run([*run, "--version"], capture_output=True, text=True).stdout
        == f"dap, version {dap.__version__}\n"
    )
    wrong = subprocess.run([*run, "distil"], capture_output=True, text=True, cwd=tmp_path)
    assert (wrong.returncode, "did you mean 'distill'" in wrong.stderr) == (2, True)


def test_a_shell_completes_commands(tmp_path: Path) -> None:
    words = {**os.environ, "COMP_WORDS": "dap dist", "COMP_CWORD": "1", "_DAP_COMPLETE": "bash_complete"}
    shown = subprocess.run([sys.executable, "-m", "dap"], env=words, capture_output=True, text=True).stdout
    assert shown == "plain,distill\n"


def test_a_run_says_what_it_makes_and_what_comes_next(tree: Path, tmp_path: Path, command_line, monkeypatch) -> None:
    monkeypatch.setattr(command, "sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True)))
    out = tmp_path / "out"
    code, done, said = command_line("distill", tree, "--method", "random", "--ipc", 2, "--out", out)
    plan, *following = said.splitlines()
    assert plan == f"4 images (2 of each of 2 classes) by random without a prior, seed 0, into {out}"
    assert code == 0 and done.startswith(f"4 images in {out}/train, ") and done.count("\n") == 1
    assert f"next: dap metrics {out} --real '{tree}'" in following
    for line in following:
        assert shlex.split(line)[:2] == ["next:", "dap"] and shlex.split(line)[2] in root.commands
    assert (
        command_line("distill", tree, "--method", "random", "--ipc", 2, "--out", out)[2].splitlines()[-2:] == following
    )
    sampled = command_line("distill", "fashion-mini", "--method", "random", "--ipc", 1, "--out", tmp_path / "mini")[2]
    assert f"next: dap evaluate {tmp_path / 'mini'} --test fashion-mini --judge" in sampled


def test_quiet_prints_the_result_alone(tree: Path, tmp_path: Path, command_line, caplog, monkeypatch) -> None:
    monkeypatch.setattr(command, "sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True)))
    (tree / "Bag" / "x.heic").write_bytes(b"")
    loud = command_line("distill", tree, "--method", "random", "--ipc", 2, "--out", tmp_path / "loud")
    assert "heic" in caplog.text
    caplog.clear()
    quiet = command_line("distill", tree, "--method", "random", "--ipc", 2, "--out", tmp_path / "quiet", "-q")
    assert loud[2].count("\n") > 1 and caplog.text == ""
    assert quiet[1].startswith("4 images in ") and quiet[1].count("\n") == 1 and quiet[2] == ""
    assert command_line("distill", tree, "--out", tmp_path / "quiet", "-q", "--ipc", 0)[2].startswith("dap: error")


def test_a_refused_line_leaves_bars_and_logs_as_they_were(tmp_path: Path, command_line, monkeypatch) -> None:
    def state() -> tuple[int, int, bool]:
        with progress_bar("bar", total=1, unit="image") as bar:
            return logging.root.manager.disable, logging.getLogger("dap").level, bar.disable

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    before = state()
    command_line("distill", "-q", "-v", "fashion-mini", "--out", tmp_path / "new", "--ipc", 0)
    assert state() == before and not before[2]


def test_json_to_a_file_or_in_place_of_the_text(tree: Path, tmp_path: Path, command_line) -> None:
    out = tmp_path / "out"
    arguments = ("distill", tree, "--method", "random", "--ipc", 2, "--out", out)
    printed = json.loads(command_line(*arguments, "--json", "-")[1])
    assert printed["images"] == 4 and printed["manifest"] == json.loads((out / "dap.json").read_text())
    shown = command_line(*arguments, "--json", tmp_path / "run.json")[1]
    assert shown.startswith("4 images") and json.loads((tmp_path / "run.json").read_text()) == printed
    methods = json.loads(command_line("methods", "--json", "-")[1])
    assert [method["name"] for method in methods] == [info.name for info in dap.list_methods()]
    assert json.loads(command_line("methods", "mgd3", "--json", "-")[1])["presets"]["paper"]
    assert json.loads(command_line("info", "--json", "-")[1])["core version"] == dap.__version__
    assert json.loads(command_line("cache", "info", "--json", "-")[1])["bytes"] >= 0
    packed = json.loads(command_line("pack", out, "--to", "parquet", "--out", tmp_path / "p", "--json", "-")[1])
    assert packed["images"] == 4


def test_options_in_a_file(tree: Path, tmp_path: Path, command_line) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({
        "source": str(tree), "out": str(tmp_path / "a"), "method": "random", "ipc": {"Bag": 1, "Dress": 2}, "seed": 3,
        "tf32": True, "classes": ["Bag", "Dress"], "batch_size": 5, "size": None,
    }))  # fmt: skip
    assert command_line("distill", "--config", config)[0] == 0
    manifest = dap.load(tmp_path / "a").manifest
    assert (manifest["ipc"], manifest["options"]["seed"]) == ({"Bag": 1, "Dress": 2}, 3)
    arguments = ("--config", config, "--ipc", 1, "--seed", 4, "--no-tf32", "--out", tmp_path / "b", "--classes", "Bag")
    saved = tmp_path / "again.yaml"
    assert command_line("distill", *arguments, "--save-config", saved)[0] == 0
    assert len(dap.load(tmp_path / "b")) == 1 and dap.load(tmp_path / "b").manifest["options"]["seed"] == 4
    content = yaml.safe_load(saved.read_text())
    assert content == {
        "source": str(tree), "out": str(tmp_path / "b"), "method": "random", "ipc": 1, "seed": 4, "classes": "Bag",
        "batch-size": 5, "tf32": False,
    }  # fmt: skip
    before = (tmp_path / "b" / "dap.json").read_bytes()
    assert "complete already" in command_line("distill", "--config", saved)[1]
    assert (tmp_path / "b" / "dap.json").read_bytes() == before


def test_options_of_a_prior_that_are_text_stay_text(tree: Path, tmp_path: Path) -> None:
    def options_of(*arguments: str) -> dict[str, object]:
        return distill.make_context("distill", [str(tree), "--out", str(tmp_path / "out"), *arguments]).params

    texts = {"template": "{}", "negative_prompt": "5", "revision": "1234567", "variant": "a photo of a {}"}
    given = [f"--prior-set={name}={text}" for name, text in texts.items()]
    assert options_of(*given, "--prior-set", "guidance=5")["prior_options"] == {**texts, "guidance": 5}
    quoted = options_of("--prior-set", 'template="{}"', "--prior-set", "negative_prompt=null")
    assert quoted["prior_options"] == {"template": "{}", "negative_prompt": None}
    config = tmp_path / "run.yaml"
    config.write_text(
        yaml.safe_dump({"prior-set": texts | {"guidance": 5}, "set": {"block": None}, "label": {"a": None}})
    )
    read = options_of("--config", str(config))
    assert read["prior_options"] == {**texts, "guidance": 5} and read["method_options"] == {"block": None}
    assert read["labels"] == ("a=",)


@pytest.mark.parametrize("given", ["on the command line", "in the file"])
def test_a_token_is_not_saved(given: str, tree: Path, tmp_path: Path, command_line, caplog) -> None:
    config, saved = tmp_path / "run.yaml", tmp_path / "saved.yaml"
    config.write_text(yaml.safe_dump({"prior-set": {"token": "hf_secret"}} if given == "in the file" else {}))
    options = ("--prior-set", "token=hf_secret") if given == "on the command line" else ()
    arguments = ("distill", tree, "--method", "random", "--ipc", 1, "--config", config, "--save-config", saved)
    assert command_line(*arguments, *options, "--out", tmp_path / "a")[0] == 0
    assert "hf_secret" not in saved.read_text() and "prior-set" not in yaml.safe_load(saved.read_text())
    assert [record.getMessage() for record in caplog.records if "token" in record.getMessage()] == [
        f"--save-config {saved}: the token is left out; give it on the command line, or as $HF_TOKEN"
    ]
    assert command_line(*arguments, *options, "--prior-set", "variant=fp16", "--out", tmp_path / "b")[0] == 0
    assert yaml.safe_load(saved.read_text())["prior-set"] == "variant=fp16"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methd: dit", "did you mean 'method'"),
        ("- a", "expected lines of option: value, got list"),
        ("a: [", "cannot be read as YAML"),
        ("seed: [1, 2]", "run.yaml: seed: expected one value, got a list of 2"),
        ("method: {a: 1}", "run.yaml: method: expected one value, got a mapping"),
        ("tf32: many", "run.yaml: tf32: expected true or false, got 'many'"),
        ("ipc: 2.5", "--ipc: expected a whole number of at least 1, got '2.5'"),
        ("seed: 1.0", "--seed: expected a whole number of at least 0, got '1.0'"),
        ("set: [scale]", "--set: expected name=value, got 'scale'"),
        ("help: true", "unknown option in run.yaml 'help'"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, said: str, tmp_path: Path, monkeypatch, command_line) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(text)
    code, shown, error = command_line("distill", "fashion-mini", "--out", "new", "--config", "run.yaml")
    assert (code, shown, error.count("\n")) == (2, "", 1) and said in error
    assert not Path("new").exists()


def test_files_that_cannot_be_read_or_written(tmp_path: Path, command_line) -> None:
    arguments = ("distill", "fashion-mini", "--out", tmp_path / "new")
    assert "cannot be read as YAML" in command_line(*arguments, "--config", tmp_path / "none.yaml")[2]
    assert "there is no folder" in command_line(*arguments, "--save-config", tmp_path / "none" / "run.yaml")[2]
    assert command_line(*arguments, "--ipc", 0, "--save-config", tmp_path / "run.yaml")[0] == 2
    assert not (tmp_path / "run.yaml").exists()  # nothing of a command line that is wrong


def test_every_method_has_a_line_and_a_cost(command_line) -> None:
    shown = command_line("methods")[1]
    infos = {info.name: info for info in dap.list_methods()}
    for name in METHODS:
        assert infos[name].summary and infos[name].summary in shown
        assert len(infos[name].summary) < 100 and ":class:" not in infos[name].summary
    assert set(SUMMARIES) <= set(METHODS) and set(COSTS) <= set(METHODS)
    real = {name for name, cost in COSTS.items() if cost == "real images"}
    assert real >= {"random", "herding", "k_center", "k_medoids"} and not {"dit", "dap"} & real
