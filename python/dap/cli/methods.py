"""``dap methods``."""

from __future__ import annotations

import dataclasses
import inspect
import json

import click

from dap.cli.values import Method
from dap.result_text import columns

__all__ = ["methods"]


@click.command()
@click.argument("name", required=False, type=Method())
def methods(name: str | None) -> None:
    """Lists the methods, or shows the options, defaults and presets of the method NAME."""
    from dap.methods import METHODS, list_methods

    if name is None:
        rows = [["method", "year", "couples", "needs", "presets", "paper"]]
        for method_info in list_methods():
            lists = [" ".join(words) or "-" for words in (method_info.needs, method_info.presets)]
            year = str(method_info.year or "-")
            rows.append([method_info.name, year, method_info.couples, *lists, method_info.paper])
        for line in columns(rows):
            click.echo(line)
        return
    method = METHODS[name]
    click.echo(f"{name}: {(inspect.getdoc(method) or '').partition(chr(10))[0]}")
    click.echo(method.paper)
    for line in columns([(f"--set {field.name}=", _text(_default(field))) for field in dataclasses.fields(method)]):
        click.echo(line)
    for preset, options in method.presets.items():
        click.echo(f"{name}:{preset}  " + " ".join(f"{option}={_text(value)}" for option, value in options.items()))


def _default(field: dataclasses.Field[object]) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _text(value: object) -> str:
    """A value as text that ``--set`` reads."""
    from dap.config import to_json

    return value if isinstance(value, str) else json.dumps(value, default=to_json)
