"""Commands with examples in their help; printing of results, and of notes that ``--quiet`` leaves out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from dap.bar import bars_hidden
from dap.cli.config_file import read_given, save_given
from dap.errors import OptionError
from dap.result_text import json_text
from dap.storage.files import write_atomic

__all__ = ["Command", "announce", "announced", "json_option", "print_result", "quiet_option"]

F = TypeVar("F", bound=Callable[..., Any])

SILENT, JSON = "dap.cli.silent", "dap.cli.json"


class Command(click.Command):
    """A command whose help ends with examples.

    Args:
        examples: Command lines that can be copied.
    """

    def __init__(self, *arguments: object, examples: Sequence[str] = (), **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        try:
            read_given(ctx, args)
            return super().parse_args(ctx, args)
        except BaseException:
            ctx.close()  # undoes --quiet and --verbose; click does it for a command that is invoked
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Write the file of ``--save-config``, and run."""
        save_given(ctx)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, whose lines are never broken."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def quiet_option(command: F) -> F:
    """Add ``--quiet`` and ``--verbose``."""

    def tell(ctx: click.Context, param: click.Parameter, verbose: bool) -> None:
        if verbose:
            ctx.with_resource(_verbose())

    def hide(ctx: click.Context, param: click.Parameter, quiet: bool) -> None:
        if quiet:
            ctx.meta[SILENT] = True
            ctx.with_resource(_quiet())

    verbose = click.option(
        "-v", "--verbose", is_flag=True, expose_value=False, callback=tell,
        help="Also say when dap waits for another process, and what it keeps in the cache or reads from it.",
    )  # fmt: skip
    return click.option(
        "-q", "--quiet", is_flag=True, expose_value=False, callback=hide,
        help="Print results and errors alone: no bars, warnings and notes.",
    )(verbose(command))  # fmt: skip


@contextmanager
def _verbose() -> Iterator[None]:
    logger = logging.getLogger("dap")
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with bars_hidden():
            yield
    finally:
        logging.disable(before)


def json_option(command: F) -> F:
    """Add ``--json``, which :func:`print_result` obeys."""

    def check(ctx: click.Context, param: click.Parameter, file: Path | None) -> None:
        if file is None:
            return
        if str(file) == "-":
            ctx.meta[SILENT] = True
        elif not file.absolute().parent.is_dir():
            raise OptionError(f"--json {file}: there is no folder {file.absolute().parent}")
        ctx.meta[JSON] = file

    return click.option(
        "--json", metavar="FILE", type=click.Path(path_type=Path), callback=check, expose_value=False,
        help="Also write the result to FILE as JSON; - prints it in place of the text.",
    )(command)  # fmt: skip


def announced() -> bool:
    """Return whether a command says what it is about to do: in a terminal, without ``--quiet`` and ``--json -``."""
    return sys.stderr.isatty() and not click.get_current_context().meta.get(SILENT)


def announce(text: str) -> None:
    """Print what a command is about to do, or what comes next, on standard error, if :func:`announced`."""
    if announced():
        click.echo(text, err=True)


def print_result(text: Callable[[], str], value: object) -> None:
    """Print a result, after it was written where ``--json`` says.

    Args:
        text: Returns the text for people; called after the file is written.
        value: In JSON's types, or JSON as text.
    """
    file: Path | None = click.get_current_context().meta.get(JSON)
    as_json = value if isinstance(value, str) else json_text(value)
    if file is not None and str(file) != "-":
        write_atomic(file, f"{as_json}\n".encode())
    click.echo(as_json if str(file) == "-" else text())
