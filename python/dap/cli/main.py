"""``dap``: the command line. Option names and defaults are those of the Python functions."""

from __future__ import annotations

import codecs
import errno
import io
import logging
import sys
import traceback

import click

from dap._core import build_info
from dap.cli.cache import cache
from dap.cli.compare import compare
from dap.cli.distill import distill
from dap.cli.evaluate import evaluate
from dap.cli.group import Group, in_flags, usage_message
from dap.cli.index import index
from dap.cli.info import info
from dap.cli.init import init
from dap.cli.methods import methods
from dap.cli.metrics import metrics
from dap.cli.pack import pack
from dap.cli.plan import plan
from dap.cli.prior import prior
from dap.cli.report import report
from dap.cli.slurm import slurm
from dap.cli.status import status, verify
from dap.cli.teacher import teacher
from dap.errors import DapError, StoppedError
from dap.stopping import RESUME, exit_at_sigterm

__all__ = ["main"]

EPILOG = (
    "dap init asks for source, prior, method and device, and writes a file of options. The tab key completes commands "
    'after one line in the start file of the shell, in bash eval "$(_DAP_COMPLETE=bash_source dap)"; '
    "docs/command_line.md has the others."
)
PLAIN = str.maketrans({"−": "-", "–": "-", "±": "+-", "×": "x", "…": "..."})  # for consoles that lack these


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(build_info()["version"], prog_name="dap")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def dap(debug: bool) -> None:
    """Distils a labelled image dataset into a few images per class, with a diffusion model as prior."""


for _command in (
    cache, compare, distill, evaluate, index, info, init, methods, metrics, pack, plan, prior, report, slurm, status,
    teacher, verify,
):  # fmt: skip
    dap.add_command(_command)


class _InFlags(logging.Formatter):
    """Shows messages in the words of the command line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return in_flags(super().format(record))


def main() -> None:
    """Runs the command, and prints an error as one line on standard error.

    Exit codes: 2 for bad input, 1 for other errors, 130 for Ctrl-C, 143 for SIGTERM, 75 for a run that was stopped
    before it was finished, which the same command continues.
    """
    _print_anything()
    handler = logging.StreamHandler()
    handler.setFormatter(_InFlags("dap: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    try:
        with exit_at_sigterm():
            sys.exit(dap.main(prog_name="dap", standalone_mode=False) or 0)
    except click.ClickException as error:
        click.echo(f"dap: error: {usage_message(error)}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as stop:
        click.echo(f"dap: interrupted; {_kept(stop)}", err=True)
        sys.exit(130)
    except Exception as error:
        known = _known(error)
        if "--debug" in sys.argv[1:]:
            traceback.print_exc()
        click.echo(f"dap: error: {in_flags(' '.join(str(known).split()))}", err=True)
        sys.exit(RESUME if isinstance(known, StoppedError) else 1 if isinstance(known, MemoryError) else 2)


def _known(error: Exception) -> Exception:
    """Return the error that is shown in one line: that of short memory in dap's words. Any other is raised again."""
    if isinstance(error, DapError) or (isinstance(error, OSError) and error.errno != errno.ENOMEM):
        return error
    from dap.short_memory import in_own_words, is_short_memory  # torch is imported with it

    if not is_short_memory(error):
        raise error
    return in_own_words(error, "for this command", "smaller images, a smaller network or another device")


def _kept(stop: BaseException) -> str:
    """Return what the stage that Ctrl-C ended leaves behind: the last note of the exception or of its cause."""
    for error in (stop, stop.__cause__):
        if notes := getattr(error, "__notes__", None):
            return str(notes[-1])
    return "the same command continues where it stopped"


def _print_anything() -> None:
    """Let characters that a console's encoding lacks be printed as others, instead of ending the command."""
    codecs.register_error("dap.plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="dap.plain")


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(PLAIN)
    return text.encode("ascii", "backslashreplace").decode(), error.end
