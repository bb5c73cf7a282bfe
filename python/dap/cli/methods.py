"""``dap methods``."""

from __future__ import annotations

import dataclasses
import json

import click

from dap.cli.command import Command, json_option, print_result, quiet_option
from dap.cli.imports import import_option
from dap.cli.values import Method
from dap.result_text import columns

__all__ = ["methods"]


COST = (
    "cost: time per image, divided by that of dit, without preparation (docs/results.md).\n"
    "couples: what is made together; with slot, a larger --ipc adds images.\n"
    "dap methods NAME shows options, presets and paper."
)


@click.command(
    cls=Command,
    examples=[
        "dap methods",
        "dap methods mgd3",
        "dap methods --json methods.json",
        "dap methods mine --import my_method.py",
    ],
)
@click.argument("name", required=False, type=Method())
@import_option
@json_option
@quiet_option
def methods(name: str | None) -> None:
    """Lists the methods with what they do and cost, or shows options, defaults and presets of the method NAME."""
    from dap.methods import METHODS, list_methods

    if name is None:
        infos = list_methods()
        rows = [["method", "cost", "couples", "needs", "what it does"]]
        rows += [[info.name, info.cost, info.couples, " ".join(info.needs) or "-", info.summary] for info in infos]
        print_result(lambda: "\n".join([*columns(rows), "", COST]), [dataclasses.asdict(info) for info in infos])
        return
    method = METHODS[name]
    info = next(info for info in list_methods() if info.name == name)
    options = {field.name: _text(_default(field)) for field in dataclasses.fields(method)}
    lines = [f"{name}: {info.summary}", method.paper]
    lines += columns([(f"--set {option}=", value) for option, value in options.items()])
    for preset, values in method.presets.items():
        lines.append(f"{name}:{preset}  " + " ".join(f"{option}={_text(value)}" for option, value in values.items()))
    presets = {
        preset: {option: _text(value) for option, value in values.items()} for preset, values in method.presets.items()
    }
    print_result(lambda: "\n".join(lines), {**dataclasses.asdict(info), "options": options, "presets": presets})


def _default(field: dataclasses.Field[object]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _text(value: object) -> str:
    """A value as text that ``--set`` reads."""
    from dap.config import to_json

    return value if isinstance(value, str) else json.dumps(value, default=to_json)
