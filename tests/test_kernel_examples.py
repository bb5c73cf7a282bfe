"""The examples in the docstrings of dap.kernels and in its guide run, and say what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import dap.kernels

GUIDE = Path(__file__).parents[1] / "docs" / "kernels.md"
MODULES = ["dap.kernels", *(f"dap.kernels.{module.name}" for module in pkgutil.iter_modules(dap.kernels.__path__))]


def check(test):
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.FAIL_FAST).run(test, out=report.append)
    assert not report, "".join(report)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        check(test)


def test_the_guide():
    text = GUIDE.read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(code, {}, "kernels.md", str(GUIDE), 0)
    assert len(test.examples) > 20
    check(test)


def test_the_guide_has_every_kernel_and_function():
    text = GUIDE.read_text()
    functions = {name for name in dap.kernels.__all__ if name.islower() and name != "list_kernels"}
    assert [
        name for name in sorted(functions | {f"`{name}`" for name in dap.kernels.list_kernels()}) if name not in text
    ] == []
