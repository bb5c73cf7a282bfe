"""The page of each method: what it is, its picture, when to use it, its formula, its rows of results, its options."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import yaml

import dap
from dap.methods import METHODS, MethodInfo
from docstring_roles import in_markdown

DOCS = Path(__file__).parents[1]
WHEN = DOCS / "_site" / "when_to_use.yml"
MORE = {  # what the caption of a picture adds
    "filtered": " with its defaults: four candidates of `dit` for each image, and a classifier that the run trained",
    "rded": ". Each image consists of four crops, two by two, so that 16 crops of a class are seen",
}
CORRECTED = (
    "¹ Measured before the method's step was corrected ([what changed](../guidance.md#steps-that-were-corrected))."
)
COUPLES = {
    "slot": "each image by itself",
    "class": "the images of a class together",
    "sequence": "the images of a class one after the other",
}


def pages() -> dict[str, str]:
    """Return the pages in Markdown, by the name of the method."""
    when, tables = yaml.safe_load(WHEN.read_text(encoding="utf-8")), _tables((DOCS / "results.md").read_text("utf-8"))
    return {info.name: _page(info, when[info.name], tables) for info in dap.list_methods()}


def _page(info: MethodInfo, when: str, tables: list[list[str]]) -> str:
    method = METHODS[info.name]
    module = importlib.import_module(method.__module__)
    summary, _, body = (module.__doc__ or "").partition("\n")
    does = summary.partition(": ")[2]
    parts = [f"# `{info.name}`", does[:1].upper() + does[1:], _facts(info), _picture(info)]
    parts += ["## When to use it", when, "## How it works", _linked(in_markdown(body.strip()))]
    parts += _results(info.name, tables)
    parts += ["## Options", _options(info)]
    classes = [name for name in module.__all__ if isinstance(getattr(module, name), type)]
    parts += [
        f"::: {module.__name__}.{name}\n    options: {{members: false, heading_level: 3, show_signature: false}}"
        for name in classes
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _linked(text: str) -> str:
    return re.sub(r"``docs/(\w+)\.md``", r"[\1](../\1.md)", text)


def _facts(info: MethodInfo) -> str:
    couples = COUPLES[info.couples]
    if info.name == "filtered":
        couples = "as its method does; a finished run cannot be extended to more images"
    rows = {
        "paper": info.paper,
        "needs": ", ".join(info.needs) or "nothing",
        "makes": couples,
        "time per image, divided by that of `dit`": {"?": "not measured"}.get(info.cost, info.cost),
        "presets": ", ".join(f"`{info.name}:{preset}`" for preset in info.presets) or "none",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _picture(info: MethodInfo) -> str:
    if not (DOCS / "methods" / f"{info.name}.png").exists():
        return ""
    preset = "fashion" if "fashion" in info.presets else "set_mode" if info.name == "guided" else ""
    return (
        f"![Four images of each of five classes by {info.name}]({info.name}.png)\n\n"
        "Four images each of T-shirt/top, Trouser, Dress, Sneaker and Bag (`fashion-mini`) by "
        f"`{':'.join(filter(None, (info.name, preset)))}`{MORE.get(info.name, '')} "
        "(`python examples/method_pictures.py`)."
    )


def _tables(text: str) -> list[list[str]]:
    return [table.strip().splitlines() for table in re.findall(r"(?m)(?:^\|.*\n)+", text)]


def _results(name: str, tables: list[list[str]]) -> list[str]:
    """Return the tables of results.md with the rows of a method and of unguided sampling."""
    parts = []
    for header, line, *rows in tables:
        own = [row for row in rows if re.match(rf"\| `{name}[:`]", row)]
        beside = [row for row in rows if name != "dit" and row.startswith("| `dit`")]
        if own:
            text = "\n".join([header, line, *own, *beside])
            parts.append(text + f"\n\n{CORRECTED}" * ("¹" in text))
    if not parts:
        return ["## Results", "Not measured on the built-in prior yet."]
    return ["## Results", "From [the tables of all methods](../results.md), where their commands are:", *parts]


def _options(info: MethodInfo) -> str:
    fields = dataclasses.fields(METHODS[info.name])
    names = {field.name for field in fields}
    lines = [f"`--set NAME=VALUE`, in Python `method_options={{...}}`; `dap methods {info.name}` prints them."]
    if fields:
        lines += ["", "| option | default |", "|---|---|"]
        lines += [f"| `{field.name}` | {_shown(_default(field))} |" for field in fields]
    presets = METHODS[info.name].presets
    if presets:
        lines += ["", "| preset | options |", "|---|---|"]
        lines += [
            f"| `{info.name}:{preset}` | {_shown({key: value for key, value in options.items() if key in names})} |"
            for preset, options in presets.items()
        ]
    return "\n".join(lines)


def _default(field: dataclasses.Field[object]) -> object:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"`{key}={option}`" for key, option in value.items()) or "the defaults"
    return "" if value is None else f"`{value}`"
