"""``dap compare``."""

from __future__ import annotations

from collections.abc import Sequence
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

    A name that is given to several files is one method, whose sets were generated with different seeds. A file without
    a name is a method of its own, named after the file, and after its folders where other files are called so.
    Differences are paired by training seed.
    """
    from dap.errors import SourceError
    from dap.pictures import check_picture

    if picture is not None:
        check_picture(picture, "--plot")
    given = [_parted(text) for text in results]
    for _, path in given:
        if not path.is_file():
            raise SourceError(f"{path}: there is no such file; expected a file that dap evaluate --json writes")
    named: dict[str, list[str | Path]] = {}
    for name, path in given:
        named.setdefault(name or _own_name(path, given), []).append(path)

    from dap.evaluation import compare as run
    from dap.evaluation.comparison_plot import plot

    comparison = run(named)
    print_result(lambda: comparison.table(form), comparison.table("json"))
    if picture is not None:
        plot(comparison, picture)


def _parted(text: str) -> tuple[str, Path]:
    """Return the name that was given to a file, "" for none, and the file."""
    name, equals, file = text.partition("=")
    return (name, Path(file)) if equals and not Path(text).is_file() else ("", Path(text))


def _own_name(path: Path, given: Sequence[tuple[str, Path]]) -> str:
    """Return the stem of a file without a name, after as many of its folders as tell it from the other methods."""
    names = {name for name, _ in given}
    others = [_stem_parts(other) for name, other in given if not name and other.resolve() != path.resolve()]
    parts = _stem_parts(path)
    tails = ["/".join(parts[-count:]) for count in range(1, len(parts) + 1)]
    taken = {"/".join(other[-count:]) for other in others for count in range(1, len(other) + 1)}
    return next((tail for tail in tails if tail not in names | taken), str(path))


def _stem_parts(path: Path) -> tuple[str, ...]:
    return path.absolute().with_suffix("").parts
