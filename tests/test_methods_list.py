"""Choosing a method: the list, the command, methods that users add, and the guide to writing one."""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

import dap
from dap.errors import OptionError
from dap.methods import METHODS, TERMS, Guide, Method, MethodInfo, get_method
from dap.methods.common import registry
from dap.registry import Registry

BUILT_IN = [
    "random", "herding", "k_center", "k_medoids", "dit", "dap", "mgd3", "manifold_gd", "igd", "d4m", "d3m",
    "ld3m", "coda", "plug_and_play", "dap_set", "dap_networks", "guided", "dm", "rded", "cao2", "d3hr", "minimax",
    "dmgd", "cgs", "lgd", "filtered",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("own_tables")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    for number, name in enumerate(("Bag", "Dress")):
        (folder / name).mkdir()
        Image.new("L", (8, 8), 100 * number).save(folder / name / "0.png")
    return folder


def painter(**changes):
    """A whole method of a few lines; a change of None leaves a part out."""

    def make(self, context, unit, artefact):
        shape = (len(unit.slots), context.channels, 8, 8)
        return torch.full(shape, self.shade, dtype=torch.uint8)

    parts = {
        "name": "painter", "paper": "none", "year": None, "needs": (), "couples": "slot",
        "presets": {"dark": {"shade": 7}}, "shade": 200, "__annotations__": {"shade": "int"},
        "prepare": lambda self, context: None, "make": make, "record": lambda self, context, artefact: {},
        "__module__": __name__, "__qualname__": f"Painter{len(changes)}",
    }  # fmt: skip
    parts = {name: part for name, part in (parts | changes).items() if part is not ...}
    return dataclass(frozen=True)(type("Painter", (Method,), parts))


def test_the_list_says_what_there_is_to_know():
    methods = dap.list_methods()
    assert [each.name for each in methods][: len(BUILT_IN)] == BUILT_IN
    found = {each.name: each for each in methods}
    assert found["dap"] == MethodInfo(
        "dap", "Su et al., ICLR 2026, arXiv 2510.17421", 2026, ("prior", "labels"), "slot", ("paper",),
        "pulls each sample to real images of its class in the prior's features", "1.2",
    )  # fmt: skip
    assert found["random"].needs == ("labels",) and found["dit"].needs == ("prior",)
    assert {name for name in BUILT_IN if found[name].couples == "slot"} == {
        "random",
        "herding",
        "k_center",
        "dit",
        "dap",
        "d3m",
        "plug_and_play",
        "minimax",
        "lgd",
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        methods[0].name = "other"
    for each in methods:
        assert each.paper and inspect.getdoc(METHODS[each.name]), each.name
        assert each.year is None or 1950 < each.year < 2100


def test_a_method_without_presets_says_so():
    with pytest.raises(OptionError, match="method 'filtered' has no presets, got 'filtered:igd': leave ':igd' out"):
        get_method("filtered:igd")


def test_every_method_and_preset_is_made_by_name():
    for each in dap.list_methods():
        options = {"terms": [{"name": "set_energy"}]} if each.name == "guided" else {}
        assert get_method(each.name, options).name == each.name
        for preset in each.presets:
            made = get_method(f"{each.name}:{preset}")
            asked = {option: getattr(made, option) for option in made.presets[preset]}
            if each.name == "guided":
                asked["terms"] = tuple({"name": term.name} for term in asked["terms"])
            assert asked == made.presets[preset]


def test_the_command_shows_the_list(command_line):
    code, out, err = command_line("methods")
    assert (code, err) == (0, "")
    lines = out.partition("\n\n")[0].splitlines()
    assert lines[0].split()[:4] == ["method", "cost", "couples", "needs"] and lines[0].endswith("  what it does")
    assert [line.split()[0] for line in lines[1:]] == [each.name for each in dap.list_methods()]
    start = lines[0].index("what it does")
    for line, each in zip(lines[1:], dap.list_methods(), strict=True):
        assert line[start:] == each.summary and line[start - 2 : start] == "  "
    row = next(line for line in lines if line.startswith("dap "))
    assert re.split(r"\s{2,}", row)[:4] == ["dap", "1.2", "slot", "prior labels"]


def test_the_command_shows_the_options_of_one_as_set_reads_them(command_line):
    code, out, err = command_line("methods", "dap")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "dap: pulls each sample to real images of its class in the prior's features"
    assert "arXiv 2510.17421" in out.splitlines()[1]
    shown = dict(re.findall(r"^--set (\w+)=\s+(.+)$", out, re.MULTILINE))
    assert list(shown) == [field.name for field in dataclasses.fields(METHODS["dap"])]
    from dap.config import parse_assignments

    assert get_method("dap", parse_assignments(tuple(f"{name}={text}" for name, text in shown.items()))) == get_method(
        "dap"
    )
    (preset,) = re.findall(r"^dap:paper  (.+)$", out, re.MULTILINE)
    assert get_method("dap", parse_assignments(tuple(preset.split()))) == get_method("dap:paper")
    shown, preset = command_line("methods", "guided")[1].splitlines()[-2:]
    assert shown.split() == ["--set", "terms=", "[]"]
    assert get_method("guided", parse_assignments((preset.split("  ")[1],))) == get_method("guided:set_mode")
    code, out, err = command_line("methods", "dapset")
    assert (code, out) == (2, "") and "unknown method 'dapset'; did you mean 'dap_set'" in err


def test_a_registered_method_is_used_by_name(tree, tmp_path, command_line):
    ours = dap.register_method(painter())
    assert dap.list_methods()[-1] == MethodInfo("painter", "none", None, (), "slot", ("dark",))
    assert get_method("painter:dark") == ours(shade=7)
    by_name = dap.distill(tree, method="painter", method_options={"shade": 9}, ipc=1, out=tmp_path / "a")
    assert by_name.manifest["options"]["method"] == {"name": "painter", "shade": 9}
    assert by_name.to_torch()[0].unique().tolist() == [9]
    by_object = dap.distill(tree, method=ours(shade=9), ipc=1, out=tmp_path / "b")
    assert by_object.manifest["options"] == by_name.manifest["options"]
    code, _, err = command_line("distill", tree, "--out", tmp_path / "c", "--method", "painter:dark", "--ipc", 1)
    assert code == 0, err
    assert json.loads((tmp_path / "c" / "dap.json").read_text())["options"]["method"]["shade"] == 7
    assert "painter" in command_line("methods")[1] and "painter:dark  shade=7" in command_line("methods", "painter")[1]
    with pytest.raises(OptionError, match="unknown method 'paniter'; did you mean 'painter'"):
        get_method("paniter")
    with pytest.raises(OptionError, match="unknown option of method 'painter' 'shad'; did you mean 'shade'"):
        dap.distill(tree, method="painter", method_options={"shad": 1}, ipc=1, out=tmp_path / "d")


def test_a_cell_that_is_run_again_replaces_its_method_and_another_class_does_not():
    first, again, other = painter(), painter(), painter(shade=1)
    dap.register_method(first)
    dap.register_method(again)
    assert METHODS["painter"] is again
    with pytest.raises(OptionError, match="a method named 'painter' is registered already"):
        dap.register_method(other)
    with pytest.raises(OptionError, match="a method named 'dap' is registered already"):
        dap.register_method(painter(name="dap"))
    assert METHODS["painter"] is again and METHODS["dap"] is dap.methods.DAP


WRONG = {
    "make": (..., "method Painter lacks make"),
    "presets": (..., "method Painter lacks presets"),
    "paper": (..., "method Painter lacks paper"),
    "name": ("my:method", "name: expected text without colon or space, got 'my:method'"),
    "year": ("2026", "year: expected int | None, got '2026'"),
    "needs": (("prior", "label"), "unknown need of method Painter 'label'; did you mean 'labels'"),
    "couples": ("classes", "unknown couples of method Painter 'classes'; did you mean 'class'"),
    "__annotations__": ({"size": "int"}, "option 'size' has no default"),
}


@pytest.mark.parametrize("part", WRONG)
def test_what_is_wrong_with_a_method_is_said(part):
    value, message = WRONG[part]
    with pytest.raises(OptionError) as caught:
        dap.register_method(painter(**{part: value}))
    assert message in str(caught.value)
    assert "painter" not in list(METHODS)
    if part not in ("__annotations__", "make"):
        with pytest.raises(OptionError) as caught:
            get_method(painter(**{part: value})())
        assert message in str(caught.value), "an object is held to the same"


def test_what_is_wrong_beyond_the_parts_is_said():
    with pytest.raises(
        OptionError, match="unknown option of preset 'bad' of method Painter 'shde'; did you mean 'shade'"
    ):
        dap.register_method(painter(presets={"bad": {"shde": 1}}))
    with pytest.raises(OptionError, match=r"needs: expected tuple, got 'prior'"):
        dap.register_method(painter(needs="prior"))
    with pytest.raises(OptionError, match=r"@dataclass\(frozen=True\)"):
        dap.register_method(type("Bare", (painter(),), {}))
    with pytest.raises(OptionError, match="method: expected a subclass of Method, got 3"):
        dap.register_method(3)


PLUGIN = """
import dataclasses, torch, dap

@dap.register_method
@dataclasses.dataclass(frozen=True)
class Grey(dap.methods.Method):
    "Grey images."
    name, paper, year, needs, couples, presets = "grey", "none", 1999, (), "slot", {}
    shade: int = 9
    def prepare(self, context): return None
    def make(self, context, unit, artefact):
        return torch.full((len(unit.slots), context.channels, 8, 8), self.shade, dtype=torch.uint8)
    def record(self, context, artefact): return {}

class Half(dap.methods.Method):
    name = "half"
"""


@pytest.fixture
def package(tmp_path):
    """A folder as an installed package leaves it: a module, and what it declares."""
    folder = tmp_path / "site"
    metadata = folder / "grey_methods-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "grey_methods.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: grey-methods\nVersion: 1.0\n")
    entries = ("broken = grey_methods_gone:Gone", "grey = grey_methods:Grey", "half = grey_methods:Half")
    (metadata / "entry_points.txt").write_text("[dap.methods]\n" + "\n".join(entries) + "\n")
    return folder


def test_entry_points_are_found_once_and_a_broken_one_hides_no_other(package, monkeypatch, caplog):
    monkeypatch.syspath_prepend(package)
    monkeypatch.delitem(sys.modules, "grey_methods", raising=False)
    fresh = Registry("method", registry._discover)
    monkeypatch.setattr(registry, "METHODS", fresh)
    with caplog.at_level(logging.WARNING, logger="dap"):
        assert list(fresh) == ["grey"]
        assert fresh["grey"]().shade == 9 and list(fresh) == ["grey"]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    broken, half = (record.getMessage() for record in caplog.records)
    assert "'broken' (grey_methods_gone:Gone) is left out: No module named 'grey_methods_gone'" in broken
    assert "'half' (grey_methods:Half) is left out: method Half lacks paper" in half


def test_the_command_line_knows_the_methods_of_installed_packages(package, tree, tmp_path):
    path = os.pathsep.join([str(Path(dap.__file__).parents[1]), str(package)])
    code = "from dap.cli.main import main; main()"
    arguments = [
        "distill",
        str(tree),
        "--method",
        "grey",
        "--set",
        "shade=3",
        "--ipc",
        "1",
        "--out",
        str(tmp_path / "o"),
    ]
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, timeout=600, env=os.environ | {"PYTHONPATH": path}, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("is left out") == 2
    assert dap.load(tmp_path / "o").manifest["options"]["method"] == {"name": "grey", "shade": 3}


def test_every_guide_is_a_term_by_name_and_in_dap_terms():
    guides = {TERMS[name] for name in TERMS}
    assert {getattr(dap.terms, name) for name in dap.terms.__all__} == guides
    for name in TERMS:
        assert issubclass(TERMS[name], Guide) and TERMS[name].name == name
        assert not hasattr(TERMS[name], "make"), "a method is no term"


def test_a_sum_of_terms_on_the_command_line(command_line, tree, tiny_folder, tmp_path):
    terms = '[{"name": "set_energy", "references": 1}, {"name": "kernel_distance", "references": 1, "scale": 0.1}]'
    options = ["--ipc", 1, "--num-inference-steps", 2, "--prior", tiny_folder, "--method", "guided"]
    code, _, err = command_line("distill", tree, "--out", tmp_path / "a", *options, "--set", f"terms={terms}")
    assert code == 0, err
    recorded = dap.load(tmp_path / "a").manifest["options"]["method"]
    both = dap.terms.SetEnergy(references=1) + dap.terms.KernelDistance(references=1, scale=0.1)
    from dap.config import to_json

    assert recorded == to_json(both)
    for wrong, message in (
        ('[{"name": "set_enrgy"}]', "unknown term 'set_enrgy'; did you mean 'set_energy'"),
        ('[{"name": "set_energy", "scal": 1}]', "unknown option of term 'set_energy' 'scal'; did you mean 'scale'"),
        ("3", "terms: expected a list of terms, got 3"),
    ):
        code, _, err = command_line("distill", tree, "--out", tmp_path / "b", *options, "--set", f"terms={wrong}")
        assert code == 2 and message in err
    assert not (tmp_path / "b").exists()
