"""``--import``: modules of the user's own, whose methods are then known by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dap.errors import OptionError

__all__ = ["import_option"]

F = TypeVar("F", bound=Callable[..., Any])


def import_option(command: F) -> F:
    """Add ``--import`` to a command; the modules are imported before other options are read."""

    def load(ctx: click.Context, param: click.Parameter, modules: tuple[str, ...]) -> None:
        if not ctx.resilient_parsing:
            for module in modules:
                _import(module)

    return click.option(
        "--import", "imported", multiple=True, metavar="MODULE", callback=load, expose_value=False, is_eager=True,
        help="Module or .py file with methods of your own, which are then known by name; repeatable.",
    )(command)  # fmt: skip


def _import(text: str) -> None:
    """Import a module of the working folder or an installed one, or a file.

    Raises:
        OptionError: It is not there, or raises an error.
    """
    file = Path(text) if text.endswith(".py") else None
    if file is not None and not file.is_file():
        raise OptionError(f"--import {text}: there is no such file")
    folder, name = (str(Path.cwd()), text) if file is None else (str(file.resolve().parent), file.stem)
    if folder not in sys.path:
        sys.path.append(folder)  # last, so that it hides no installed module
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise OptionError(f"--import {text}: needs the module {error.name!r}, which is not installed") from error
        raise OptionError(
            f"--import {text}: there is no module {name!r} in {folder} or among the installed ones"
        ) from error
    except Exception as error:  # the user's code: anything may go wrong in it
        raise OptionError(f"--import {text}: {type(error).__name__}: {error}") from error
    if file is not None and Path(str(module.__file__)).resolve() != file.resolve():
        raise OptionError(f"--import {text}: {module.__file__} has the same name; rename the file")
