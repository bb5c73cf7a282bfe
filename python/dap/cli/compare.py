"""``dap compare``."""

from __future__ import annotations

from pathlib import Path

import click

from dap.cli.command import Command, json_option, print_result, quiet_option
from dap.cli.values import TABLES, Name

__all__ = ["compare"]


@click.command(
    cls=Command,
    examples=[
        "dap compare dit.json dap.json",
        "dap compare dit=dit-0.json dit=dit-1.json dap=dap-0.json dap=dap-1.json --format latex",
        "dap compare *.json --plot comparison.pdf --json comparison.json",
    ],
)
@click.argument("results", nargs=-1, required=True, metavar="[NAME=]RESULT...")
@click.option("--format", "form", default="text", type=Name("format", TABLES), show_default=True,
              help='"text", "markdown", "latex", "csv" or "json".')  # fmt: skip
@click.option("--plot", "picture", type=click.Path(path_type=Path),
              help="Also draw them into this file, .png, .pdf or .svg; needs matplotlib.")  # fmt: skip
@json_option
@quiet_option
def compare(results: tuple[str, ...], form: str, picture: Path | None) -> None:
    """Compares results that dap evaluate --json has written, with the first one and with random real images.

    A name that is given to several files is one method, whose sets were generated with different seeds; a file without
    a name has its own. Differences are paired by training seed.
    """
    from dap.errors import SourceError
    from dap.pictures import check_picture

    if picture is not None:
        check_picture(picture, "--plot")
    named: dict[str, list[str | Path]] = {}
    for text in results:
        name, equals, file = text.partition("=")
        whole = not equals or Path(text).is_file()
        named.setdefault(Path(text).stem if whole else name, []).append(Path(text if whole else file))

    for path in (path for paths in named.values() for path in paths):
        if not Path(path).is_file():
            raise SourceError(f"{path}: there is no such file; expected a file that dap evaluate --json writes")

    from dap.evaluation import compare as run
    from dap.evaluation.comparison_plot import plot

    comparison = run(named)
    print_result(lambda: comparison.table(form), comparison.table("json"))
    if picture is not None:
        plot(comparison, picture)
