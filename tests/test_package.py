"""``import dap``: its names, and what is imported with them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_lines import python

import dap

ROOT = Path(__file__).parents[1]


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
