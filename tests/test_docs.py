"""The examples in docstrings and guides run, and say what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import dap
from dap.cli.values import METRICS

PAGES = sorted((Path(__file__).parents[1] / "docs").rglob("*.md"))
GUIDES = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]  # some are for the shell alone
MODULES = [module.name for module in pkgutil.walk_packages(dap.__path__, "dap.") if module.name != "dap._core"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers meets numpy 2 here
    pytest.mark.filterwarnings(  # webdataset leaves the last shard open
        r"ignore:Exception ignored in. <_io.FileIO name='.*tar:pytest.PytestUnraisableExceptionWarning"
    ),
]


def check(test: doctest.DocTest) -> None:
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", ["dap", *MODULES])
def test_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        check(test)


@pytest.mark.usefixtures("own_tables")
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_guides(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
    assert blocks and all(block.startswith(">>> ") for block in blocks), "nothing that looks like code is passed over"
    check(doctest.DocTestParser().get_doctest("\n".join(blocks), {"__name__": "guide"}, guide.name, str(guide), 0))


def test_the_guide_of_kernels_has_every_kernel_and_function():
    text = Path(__file__).parents[1].joinpath("docs/kernels.md").read_text()
    functions = {name for name in dap.kernels.__all__ if name.islower() and name != "list_kernels"}
    kernels = {f"`{name}`" for name in dap.kernels.list_kernels()}
    assert [name for name in sorted(functions | kernels) if name not in text] == []


def test_the_guide_of_selection_has_every_function():
    text = Path(__file__).parents[1].joinpath("docs/selection.md").read_text()
    assert [name for name in dap.selection.__all__ if name not in text] == []


def test_the_guide_of_metrics_has_every_metric():
    text = Path(__file__).parents[1].joinpath("docs/metrics.md").read_text()
    assert [name for name in METRICS if f"`{name}`" not in text] == []
