"""The commands in README and docs are commands of dap, and the site has a page for every method."""

from __future__ import annotations

import re
import shlex
import sys
from enum import Enum
from pathlib import Path

import click
import pytest
import yaml

import dap
from dap.cli.main import dap as command_line
from dap.cli.values import Out, Prior
from dap.errors import OptionError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def commands(text: str) -> list[str]:
    """Return the command lines of dap in the shell blocks of a page."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    text = re.sub(r"#.*", "", "\n".join(blocks).replace("\\\n", " "))
    return re.findall(r"(?m)(?:^|&&|srun|--no-python) *(dap [^&|;\n]*)", text)


def parse(line: str) -> None:
    """Raise what click says of a command line, unless it is one; nothing is run, and no file has to exist."""
    command: click.Command = command_line
    stands_for = {
        "$method": "dit",
        "$seed": "1",
        "$part": "1",
        "$files": "dit=a.json",
        "mine": "dit",
    }  # "mine" is a method that --import brings
    words = shlex.split(re.sub(r"\$\w+|\bmine\b", lambda word: stands_for[word[0]], line))
    context = click.Context(command, info_name=words.pop(0))
    while isinstance(command, click.Group):
        name = words.pop(0)
        chosen = command.get_command(context, name)
        assert chosen is not None, f"no command {name}"
        command, context = chosen, click.Context(chosen, info_name=name, parent=context)
    values, rest, _ = command.make_parser(context).parse_args(words)
    assert not rest, f"too many arguments: {rest}"
    values = {
        name: value for name, value in values.items() if not isinstance(value, Enum)
    }  # click's mark of "not given"
    for param in command.params:
        if param.name in values and not isinstance(param.type, click.Path | Prior | Out):
            param.type_cast_value(context, values[param.name])
        elif param.required and "config" not in values and param.name not in values:
            raise click.MissingParameter(ctx=context, param=param)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_commands_of_dap(page):
    for line in commands(page.read_text(encoding="utf-8")):
        try:
            parse(line)
        except (click.ClickException, AssertionError, OptionError) as error:
            pytest.fail(f"{line}: {error}")


def test_the_commands_are_found():
    text = "```bash\npip install . && dap distill SRC \\\n    --out D  # dap x\nsrun dap status D\n```\n`dap no`"
    assert [" ".join(line.split()) for line in commands(text)] == ["dap distill SRC --out D", "dap status D"]
    assert sum(len(commands(page.read_text(encoding="utf-8"))) for page in PAGES) > 60


@pytest.mark.parametrize(
    "line",
    [
        "dap index build --out D",
        "dap distil SRC --out D",
        "dap distill SRC --uot D",
        "dap distill SRC",
        "dap distill SRC --out D --ipc",
    ],
)
def test_a_wrong_command_is_found(line):
    with pytest.raises((click.ClickException, OptionError)):
        parse(line)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["images"].shape == (10, 1, 32, 32)


def test_every_method_has_its_page(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_site"))
    import method_pages

    infos = {info.name: info for info in dap.list_methods() if info.paper != "an example"}
    assert yaml.safe_load(method_pages.WHEN.read_text(encoding="utf-8")).keys() == infos.keys()
    pages = method_pages.pages()
    assert "| `mgd3`, its scale tuned | 72.62" in pages["mgd3"] and "x̂_0 = x̂_0 + λ" in pages["mgd3"]
    without = [name for name, page in pages.items() if f"]({name}.png)" not in page]
    assert without == [name for name, info in infos.items() if "text" in info.needs]
    for name in ("method_pages", "docstring_roles"):
        sys.modules.pop(name)
